"""Recognition of activations that a graph computes with elementary operators, by their values on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


NEAR = 30.0
"""For |x| up to this limit, every form of an activation stays finite in float64."""


_FAR = np.array([0.3, 1e-3, 1e-6, 17.3, 24.9, 29.7, 61.0, 1.1e3, 4.7e5])


GRID: Values = np.concatenate([np.linspace(-12, 12, 97), _FAR, -_FAR, [-1.0, 1.0]])


ONE_BELOW, ZERO = -2, 48
"""The indices of -1 and 0 in the grid."""


TOLERANCE = 2e-6
"""Relative to the value or to x, because the constants of a float32 graph are rounded."""


_erf = np.vectorize(math.erf, otypes=[np.float64])


OPERATORS: dict[str, Callable[..., Values]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Div": np.divide,
    "Erf": _erf,
    "Exp": np.exp,
    "Greater": np.greater,
    "Log": np.log,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Where": np.where,
}


JOINING = ("Add", "Div", "Max", "Min", "Mul", "Sub", "Where")
"""The operators that can be the last one of an activation in elementary operators."""


def recognized(graph: Any, origin: str, value: str) -> tuple[dict[str, Any], int] | None:
    """Return the entry of the layer that computes `value` from `origin`, and the largest rank of its constants.

    Returns None if no activation computes it.
    """
    with np.errstate(all="ignore"):
        known: dict[str, Values | None] = {origin: GRID}
        ranks = [0]
        result = _evaluate(graph, value, known, ranks, 0)
        if result is None or result.shape != GRID.shape or not np.isfinite(result[np.abs(GRID) <= NEAR]).all():
            return None
        entry = next((entry for entry, y in _candidates(result) if _agree(y, result)), None)
        return None if entry is None else (entry, max(ranks))


def _agree(y: Values, result: Values) -> bool:
    is_finite = np.isfinite(result)
    is_close = np.abs(y - result) <= TOLERANCE * np.maximum(np.abs(result), np.abs(GRID))
    return bool(is_close[is_finite].all())


def _evaluate(graph: Any, value: str, known: dict[str, Values | None], ranks: list[int], depth: int) -> Values | None:
    """Compute a value on the grid from the known values; return None if it needs more than scalar arithmetic."""
    if value in known:
        return known[value]
    if value in graph.constants:
        constant = graph.constants[value]
        ranks.append(constant.ndim)
        return np.full(GRID.shape, float(constant.reshape(-1)[0])) if constant.size == 1 else None
    node = graph.nodes.get(value)
    known[value] = None
    if node is None or node.op_type not in OPERATORS or depth > 16 or not 1 <= len(node.input) <= 3:
        return None
    inputs = []
    for name in node.input:
        inputs.append(_evaluate(graph, name, known, ranks, depth + 1))
        if inputs[-1] is None:
            return None
    try:
        known[value] = np.asarray(OPERATORS[node.op_type](*inputs), np.float64)
    except (TypeError, ValueError):  # a wrong number of inputs
        return None
    return known[value]


def _candidates(result: Values) -> list[tuple[dict[str, Any], Values]]:
    """Return candidate activations and their values on the grid; single values of `result` give their settings."""
    x = GRID
    positive, negative = np.maximum(x, 0), np.minimum(x, 0)
    soft = np.logaddexp(x, 0)
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    below, at_zero = float(result[ONE_BELOW]), float(result[ZERO])
    slope, alpha = -below, below / math.expm1(-1)
    beta = math.log(2) / at_zero if at_zero > 0 else 1.0
    leaks = abs(slope - 1) > TOLERANCE  # a slope of 1 is the identity
    return [
        ({"type": "relu"}, positive),
        ({"type": "silu"}, x / (1 + np.exp(-x))),
        ({"type": "gelu"}, x * (1 + _erf(x / math.sqrt(2))) / 2),
        ({"type": "gelu", "approximate": "tanh"}, x * (1 + np.tanh(cubic)) / 2),
        ({"type": "mish"}, x * np.tanh(soft)),
        ({"type": "sigmoid"}, 1 / (1 + np.exp(-x))),
        ({"type": "selu"}, 1.0507009873554805 * (positive + 1.6732632423543772 * np.expm1(negative))),
        ({"type": "elu", "alpha": _undo_rounding(alpha)}, positive + alpha * np.expm1(negative)),
        *(
            [({"type": "leaky_relu", "negative_slope": _undo_rounding(slope)}, positive + slope * negative)]
            if leaks
            else []
        ),
        ({"type": "softplus", "beta": _undo_rounding(beta)}, np.logaddexp(beta * x, 0) / beta),
    ]


def _undo_rounding(value: float) -> float:
    """Return the value rounded to six digits if it differs from that only by float32 rounding, else the value."""
    return float(f"{value:.6g}") if math.isclose(value, float(f"{value:.6g}"), rel_tol=3e-7) else value
