"""Pools over all positions: one number for each channel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer, MaskUse

PART = 128
"""Positions whose sum is taken in the dtype of x; a longer one would lose digits."""


class GlobalPool(Layer):
    """Base class of pools over all axes but the first and the last: (batch, ..., channels) -> (batch, channels)."""

    mask_use: ClassVar[MaskUse] = "refused"  # time_average and last_step respect a mask

    def __init__(self) -> None:
        super().__init__()
        self._x: Array | None = None  # (batch, positions, channels)
        self._x_shape: ShapeTuple = ()

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        if len(input_shape) < 2:
            msg = f"the input has shape {input_shape}, expected positions to pool over: (length, channels) or more axes"
            raise ShapeError(msg)
        return {}, input_shape[-1:]

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows = self._as_rows(x)
        self._x, self._x_shape = rows, np.shape(x)
        return self._pool(rows, out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.cached(self._x)
        dy = self.incoming(dy, (len(x), x.shape[-1]), x.dtype)
        dx = np.empty(self._x_shape, x.dtype) if out is None else out
        self._spread_gradient(x, dy[:, np.newaxis], dx.reshape(x.shape))
        return dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self._pool(self._as_rows(x), out)

    @abstractmethod
    def _pool(self, x: Array, out: Array | None) -> Array:
        """Return y (batch, channels) for x (batch, positions, channels)."""

    @abstractmethod
    def _spread_gradient(self, x: Array, dy: Array, dx: Array) -> None:
        """Compute dx from dy (batch, 1, channels)."""

    @property
    def _pooled_axes(self) -> ShapeTuple:
        """The axes that the last x was pooled over."""
        return tuple(range(1, len(self._x_shape) - 1))

    def _as_rows(self, x: npt.ArrayLike) -> Array:
        x = self.floats(x)
        if x.ndim < 3 or 0 in x.shape[1:]:
            msg = f"{self.name}: expected an array of shape (batch, ..., channels) with positions, got {x.shape}"
            raise ShapeError(msg)
        return np.ascontiguousarray(x).reshape(len(x), -1, x.shape[-1]) if len(x) else x.reshape(0, 1, x.shape[-1])


class GlobalAveragePool(GlobalPool):
    """y = the mean of each channel over all positions."""

    @property
    def formulas(self) -> dict[str, str]:
        axes = self._pooled_axes
        return {
            "y": f"x.mean(axis={axes})",
            "dx": f"broadcast_to(expand_dims(dy, {axes}) / {size_of(self._x_shape[1:-1])}, x.shape)",
        }

    def _pool(self, x: Array, out: Array | None) -> Array:
        positions = x.shape[1]
        if positions <= PART:
            return np.divide(np.add.reduce(x, axis=1, out=out), positions, out)
        parts = np.add.reduceat(x, np.arange(0, positions, PART), axis=1)
        y = np.empty((len(x), x.shape[2]), x.dtype) if out is None else out
        y[...] = parts.sum(axis=1, dtype=np.float64) / positions
        return y

    def _spread_gradient(self, x: Array, dy: Array, dx: Array) -> None:
        np.divide(dy, x.shape[1], dx)  # ∂y/∂x = 1 / positions


class GlobalMaxPool(GlobalPool):
    """y = the maximum of each channel over all positions; the gradient goes to the first maximum."""

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": f"x.max(axis={self._pooled_axes})"}

    def _pool(self, x: Array, out: Array | None) -> Array:
        return np.maximum.reduce(x, axis=1, out=out)

    def _spread_gradient(self, x: Array, dy: Array, dx: Array) -> None:
        dx.fill(0)
        np.put_along_axis(dx, x.argmax(axis=1)[:, np.newaxis], dy, axis=1)
