"""The contract of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats
from specnet.arrays.parameters import Array
from specnet.errors import ShapeError


class Loss(ABC):
    """Base of the losses."""

    name: ClassVar[str]
    doubled_by: ClassVar[tuple[str, ...]] = ()
    """Types of a last layer that would do what the loss does already."""
    target_bounds: ClassVar[tuple[float, float] | None] = None
    """The least and the greatest target; None for any number."""
    yes_or_no: ClassVar[bool] = False
    """Whether each output answers yes or no: a target above 1/2 is a yes, and so is an output above 0."""

    @abstractmethod
    def __call__(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Give the mean loss and its gradient. Raises ShapeError for targets or weights that do not fit the outputs."""

    def of_fitted(self, outputs: Array, targets: npt.NDArray[Any]) -> tuple[float, Array]:
        """Do the same for a model's outputs and targets that are known to fit them, as a loop's are: no checks."""
        return self(outputs, targets)

    def weight_of(self, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> float:
        """Give what rows count in a mean over several batches: their number, or the sum of their weights."""
        return len(targets) if weights is None else float(weights.sum(dtype=np.float64))

    def takes_classes(self) -> bool:
        """Whether targets are indices of classes."""
        return False

    def has_classes(self) -> bool:
        """Whether outputs decide between classes, one of several or yes and no."""
        return self.takes_classes() or self.yes_or_no

    def probabilities(self, outputs: Array) -> Array:
        """Turn outputs into what people expect of a prediction; only losses on logits have anything to do."""
        return outputs


class ElementLoss(Loss):
    """Base of the losses whose mean runs over every element; targets have the outputs' shape."""

    def __call__(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Give the mean loss over all elements and its gradient. Raises ShapeError where the shapes differ."""
        y = as_floats(outputs, None, self.name)
        t = as_floats(targets, y.dtype, self.name)
        if t.shape != y.shape:
            msg = f"{self.name}: expected targets of shape {y.shape}, as the outputs, got {t.shape}"
            raise ShapeError(msg)
        if y.size == 0:
            msg = f"{self.name}: expected at least one row, got outputs of shape {y.shape}"
            raise ShapeError(msg)
        losses, gradient = self.elements(y, t)
        if weights is None:
            gradient /= y.size
            return float(losses.sum()) / y.size, gradient
        w = row_weights(self.name, weights, y)
        count = y.size // len(y) * float(w.sum(dtype=np.float64))
        gradient *= (w / count).reshape(-1, *[1] * (y.ndim - 1)).astype(y.dtype)
        return float(w @ losses.reshape(len(y), -1).sum(axis=1)) / count, gradient

    @abstractmethod
    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Give the loss of each element and, in a new array, its derivative."""


def row_weights(name: str, weights: npt.ArrayLike, outputs: Array) -> Array:
    """Return the weights of the rows, (rows,), as floats of the outputs' dtype. Raises ShapeError."""
    w = as_floats(weights, outputs.dtype, name)
    if w.shape != (len(outputs),):
        msg = f"{name}: expected weights of shape ({len(outputs)},), one a row, got {w.shape}"
        raise ShapeError(msg)
    return w
