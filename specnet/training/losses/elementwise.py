"""Losses that average over all elements of the outputs."""

from __future__ import annotations

import numpy as np

from specnet.arrays.parameters import Array
from specnet.errors import SpecnetError
from specnet.layers.sigmoid import sigmoid
from specnet.training.losses.base import ElementLoss


class BinaryCrossEntropy(ElementLoss):
    """-(t * log(p) + (1 - t) * log(1 - p)) with p = sigmoid(outputs), mean over every element; outputs are logits."""

    name = "binary_cross_entropy"
    doubled_by = ("sigmoid", "softmax", "log_softmax")
    target_bounds = (0.0, 1.0)
    yes_or_no = True

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        return np.maximum(y, 0) - y * t + np.log1p(np.exp(-np.abs(y))), sigmoid(y) - t

    def probabilities(self, outputs: Array) -> Array:
        return sigmoid(outputs)


class MeanSquaredError(ElementLoss):
    """(outputs - targets)^2, mean over every element."""

    name = "mean_squared_error"

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        return difference * difference, 2 * difference


class MeanAbsoluteError(ElementLoss):
    """|outputs - targets|, mean over every element; the gradient is 0 if they are equal."""

    name = "mean_absolute_error"

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        return np.abs(difference), np.sign(difference)


class Huber(ElementLoss):
    """d^2 / 2 if |d| <= delta, else delta * (|d| - delta / 2), mean over every element; d = outputs - targets."""

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        if not delta > 0:
            msg = f"{self.name}: expected a positive delta, got {delta!r}"
            raise SpecnetError(msg)
        self.delta = float(delta)

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        clipped = np.clip(difference, -self.delta, self.delta)
        return clipped * (difference - clipped / 2), clipped
