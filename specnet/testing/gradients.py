"""Numerical gradients, and sample models and inputs to check them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array
from specnet.layers.standardize import fit_standardize
from specnet.model import Model, build
from specnet.spec.model_spec import ModelSpec

STEPS = (1e-4, 1e-5, 1e-6)
"""Step sizes of numerical gradients. A kink may lie between the points of one step, but rarely of all steps."""


def numerical_gradient(function: Callable[[], float], array: Array, step: float = 1e-4) -> Array:
    """Return ∂function()/∂array, element by element.

    `function` reads `array`, of dtype float64, which is changed during the calls and then restored. Uses central
    differences of two step sizes with Richardson extrapolation: the error falls with the fourth power of `step`.
    """
    gradient = np.zeros_like(array)
    for index in itertools.product(*map(range, array.shape)):
        gradient[index] = _slope(function, array, index, step)
    return gradient


def _slope(function: Callable[[], float], array: Array, index: tuple[int, ...], step: float) -> float:
    value = array[index]
    slopes = []
    for h in (step, step / 2):
        array[index] = value + h
        above = function()
        array[index] = value - h
        slopes.append((above - function()) / (2 * h))
    array[index] = value
    return (4 * slopes[1] - slopes[0]) / 3


def relative_error(found: Array, expected: Array) -> float:
    """Return the largest absolute difference, divided by the largest expected element (at least 0.001)."""
    if not expected.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3))


class GradientCheck(NamedTuple):
    """Result for one array: `checked` elements were compared; `error` is the `relative_error` of the gradient."""

    name: str
    shape: tuple[int, ...]
    checked: int
    error: float


def check_gradients(
    model: Model,
    x: npt.NDArray[Any],
    dy: Array,
    *,
    training: bool = False,
    at_most: int | None = None,
    tolerance: float = 1e-6,
) -> list[GradientCheck]:
    """Compare the gradients of `backward` for x (named "input") and every parameter with numerical gradients.

    The model must be float64. At most `at_most` elements of each array are checked, drawn at random. If an element
    differs by more than `tolerance`, smaller steps are tried, because there may be a kink. Parameters, buffers and the
    step of the draws are restored.
    """
    buffers = {name: array.copy() for name, array in model.buffers.items()}
    step = model.draws.step

    def loss() -> float:
        model.draws.step = step
        return float(np.sum(model.forward(x, training=training) * dy))

    loss()
    dx = model.backward(dy)
    analytical = {name: gradient.copy() for name, gradient in model.gradients.items()}
    arrays: dict[str, Array] = dict(model.parameters)
    if dx is not None:
        x = np.array(x)
        arrays, analytical = {"input": x, **arrays}, {"input": dx, **analytical}
    rng = np.random.default_rng(0)
    checks = []
    for name, array in arrays.items():
        flat_indices = np.arange(array.size)
        if at_most is not None and array.size > at_most:
            flat_indices = np.sort(rng.choice(array.size, at_most, replace=False))
        indices = [tuple(map(int, np.unravel_index(flat, array.shape))) for flat in flat_indices]
        pairs = np.array([_slope_pair(loss, array, i, analytical[name][i], tolerance) for i in indices]).reshape(-1, 2)
        checks.append(GradientCheck(name, array.shape, len(flat_indices), relative_error(pairs[:, 0], pairs[:, 1])))
    for name, saved in buffers.items():
        model.buffers[name][...] = saved
    model.draws.step = step
    return checks


def _slope_pair(
    function: Callable[[], float], array: Array, index: tuple[int, ...], analytical: float, tolerance: float
) -> tuple[float, float]:
    """Return the analytical slope of one element, and the numerical slope that is closest to it."""
    closest = np.inf
    for step in STEPS:
        slope = _slope(function, array, index, step)
        if abs(analytical - slope) < abs(analytical - closest):
            closest = slope
        if abs(analytical - closest) <= tolerance * max(abs(closest), 1e-3):
            break
    return analytical, closest


def sample_inputs(model: Model, batch: int, seed: int = 0) -> npt.NDArray[Any]:
    """Draw valid inputs for the model: integers below its input limit, or real numbers of both signs.

    Real numbers near 0 are excluded, because numerical gradients are wrong at the kink of relu and similar layers.
    """
    rng = np.random.default_rng(seed)
    shape = (batch, *model.input_shape)
    limit = model.plan.layers[0].input_limit
    if limit is not None:
        return rng.integers(0, limit, shape)
    return (rng.uniform(0.1, 2, shape) * rng.choice([-1, 1], shape)).astype(model.dtype)


def build_sample(spec: ModelSpec, seed: int = 0) -> Model:
    """Build a network with noise added to all initial parameters, and with its standardize layers fitted."""
    model = build(spec)
    rng = np.random.default_rng(seed)
    for value in model.parameters.values():
        np.add(value, rng.normal(size=value.shape) / 10, out=value)
    fit_standardize(model.layers, [sample_inputs(model, 50, seed)])
    return model
