"""Base classes of the losses. Definitions and names of the losses are torch's.

A loss maps (outputs, targets) to (mean loss, ∂loss/∂outputs). With weights, one per row, the mean is weighted. With a
mask, (batch, time), the mean is over the time steps that count. The caller owns the returned gradient, which has the
outputs' dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_array, as_floats
from specnet.arrays.parameters import Array
from specnet.errors import ShapeError
from specnet.layer import TimeMask


class Loss(ABC):
    """Base class of the losses."""

    name: ClassVar[str]
    doubled_by: ClassVar[tuple[str, ...]] = ()
    """Types of layers that must not come last, because the loss already applies an activation."""
    target_bounds: ClassVar[tuple[float, float] | None] = None
    """The least and the greatest valid target; None if every number is valid."""
    yes_or_no: ClassVar[bool] = False
    """Whether each output is a yes-or-no answer: targets above 1/2 mean yes, and so do outputs above 0."""

    def __call__(
        self,
        outputs: npt.ArrayLike,
        targets: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        mask: TimeMask | None = None,
    ) -> tuple[float, Array]:
        """Return the mean loss and its gradient; both are 0 if no step counts.

        Raises ShapeError if targets, weights or mask do not fit the outputs.
        """
        if mask is None:
            return self.mean(outputs, targets, weights)
        mask = np.asarray(mask)
        y = as_floats(outputs, None, self.name)
        t = as_array(targets, self.name)
        if mask.dtype != np.bool_:
            msg = f"{self.name}: expected a mask of booleans, (batch, time), got {mask.dtype} of shape {mask.shape}"
            raise ShapeError(msg)
        if mask.shape != y.shape[:2] or t.shape[:2] != mask.shape:
            got = f"{mask.shape}, got outputs of shape {y.shape}, targets of shape {t.shape}"
            msg = f"{self.name}: expected outputs and targets whose first two axes are those of the mask, {got}"
            raise ShapeError(msg)
        gradient = np.zeros(y.shape, y.dtype)
        if not mask.any():
            return 0.0, gradient
        loss, gradient[mask] = self.mean(y[mask], t[mask], weights_of_steps(self.name, weights, y, mask))
        return loss, gradient

    @abstractmethod
    def mean(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the mean loss over all rows and its gradient. Raises ShapeError."""

    def of_fitted(self, outputs: Array, targets: npt.NDArray[Any], mask: TimeMask | None = None) -> tuple[float, Array]:
        """Return the mean loss and its gradient without checks, for outputs and targets that are known to fit."""
        return self(outputs, targets, None, mask)

    def weight_of(
        self, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None, mask: TimeMask | None = None
    ) -> float:
        """Return the weight of these rows in a mean over batches: their number, or the sum of their weights.

        With a mask, it is that of the time steps that count.
        """
        if mask is not None:
            steps = mask.sum(axis=1)
            return float(steps.sum() if weights is None else steps @ weights.astype(np.float64))
        return len(targets) if weights is None else float(weights.sum(dtype=np.float64))

    def takes_classes(self) -> bool:
        """Return whether targets are class indices."""
        return False

    def has_classes(self) -> bool:
        """Return whether outputs decide between classes: one of several, or yes and no."""
        return self.takes_classes() or self.yes_or_no

    def probabilities(self, outputs: Array) -> Array:
        """Return probabilities if outputs are logits, otherwise the outputs unchanged."""
        return outputs


class ElementLoss(Loss):
    """Base class of the losses that average over every element; targets have the outputs' shape."""

    def mean(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the mean loss over all elements and its gradient. Raises ShapeError if the shapes differ."""
        y = as_floats(outputs, None, self.name)
        t = as_floats(targets, y.dtype, self.name)
        if t.shape != y.shape:
            msg = f"{self.name}: expected targets of shape {y.shape}, like the outputs, got {t.shape}"
            raise ShapeError(msg)
        if y.size == 0:
            msg = f"{self.name}: expected at least one row, got outputs of shape {y.shape}"
            raise ShapeError(msg)
        losses, gradient = self.elements(y, t)
        if weights is None:
            gradient /= y.size
            return float(losses.sum()) / y.size, gradient
        w = row_weights(self.name, weights, y)
        total_weight = y.size // len(y) * float(w.sum(dtype=np.float64))
        gradient *= (w / total_weight).reshape(-1, *[1] * (y.ndim - 1)).astype(y.dtype)
        return float(w @ losses.reshape(len(y), -1).sum(axis=1)) / total_weight, gradient

    @abstractmethod
    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Return the loss of each element and, in a new array, its derivative with respect to `y`."""


def weights_of_steps(name: str, weights: npt.ArrayLike | None, outputs: Array, mask: TimeMask) -> Array | None:
    """Return the weight of each step that counts: that of its row; None without weights. Raises ShapeError."""
    if weights is None:
        return None
    return np.repeat(row_weights(name, weights, outputs), np.count_nonzero(mask, axis=1))


def row_weights(name: str, weights: npt.ArrayLike, outputs: Array) -> Array:
    """Return the weights of the rows, (rows,), as floats of the outputs' dtype. Raises ShapeError."""
    w = as_floats(weights, outputs.dtype, name)
    if w.shape != (len(outputs),):
        msg = f"{name}: expected weights of shape ({len(outputs)},), one per row, got {w.shape}"
        raise ShapeError(msg)
    return w
