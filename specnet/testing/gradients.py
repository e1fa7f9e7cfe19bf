"""Numerical gradients, and models to check them on."""

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
"""Step sizes of numerical gradients: a kink between two points of one is seldom between those of all."""


def numerical_gradient(function: Callable[[], float], array: Array, step: float = 1e-4) -> Array:
    """Give ∂function()/∂array, element by element; `function` reads the array, float64, which is changed and restored.

    Central differences of two step sizes, extrapolated (Richardson): the error falls with the fourth power of step.
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
    """Give the largest difference, relative to the largest expected element (what is all but 0 counts as 0.001)."""
    if not expected.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3))


class GradientCheck(NamedTuple):
    """How far an array's gradient is from the numerical one; `error` is relative to the array's largest slope."""

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
    """Hold what `backward` gives for x (name "input") and every parameter against numerical gradients.

    The model is float64. Of each array `at_most` elements are checked, drawn at random. An element whose slope is
    off by more than `tolerance` is tried at smaller steps, as there may be a kink. The model is left as it was.
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
        chosen = np.arange(array.size)
        if at_most is not None and array.size > at_most:
            chosen = np.sort(rng.choice(array.size, at_most, replace=False))
        indices = [tuple(map(int, np.unravel_index(flat, array.shape))) for flat in chosen]
        pairs = np.array([_closest(loss, array, i, analytical[name][i], tolerance) for i in indices]).reshape(-1, 2)
        checks.append(GradientCheck(name, array.shape, len(chosen), relative_error(pairs[:, 0], pairs[:, 1])))
    for name, kept in buffers.items():
        model.buffers[name][...] = kept
    model.draws.step = step
    return checks


def _closest(
    function: Callable[[], float], array: Array, index: tuple[int, ...], found: float, tolerance: float
) -> tuple[float, float]:
    """Give the analytical slope and, of the numerical ones, that which is nearest to it."""
    best = np.inf
    for step in STEPS:
        slope = _slope(function, array, index, step)
        if abs(found - slope) < abs(found - best):
            best = slope
        if abs(found - best) <= tolerance * max(abs(best), 1e-3):
            break
    return found, best


def sample_inputs(model: Model, batch: int, seed: int = 0) -> npt.NDArray[Any]:
    """Draw inputs that the model takes: integers below its bound, or real numbers of both signs, none near 0.

    Near 0, where relu and the like have a kink, a numerical gradient is none.
    """
    rng = np.random.default_rng(seed)
    shape = (batch, *model.input_shape)
    limit = model.plan.layers[0].input_limit
    if limit is not None:
        return rng.integers(0, limit, shape)
    return (rng.uniform(0.1, 2, shape) * rng.choice([-1, 1], shape)).astype(model.dtype)


def build_sample(spec: ModelSpec, seed: int = 0) -> Model:
    """Build a network whose parameters are all moved off their initial values, and what is unfitted is fitted."""
    model = build(spec)
    rng = np.random.default_rng(seed)
    for value in model.parameters.values():
        np.add(value, rng.normal(size=value.shape) / 10, out=value)
    fit_standardize(model.layers, [sample_inputs(model, 50, seed)])
    return model
