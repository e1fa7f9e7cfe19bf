"""Layers that mark the padding of sequences, and that make one vector of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer, MaskUse, TimeMask, TimeStep
from specnet.layers.sequence.base import check_mask, check_sequence, copied


class Mask(Layer):
    """y = x; a step whose features all equal `value` is padding, which the following layers and the loss leave out.

    Inputs are (batch, time, features). Must be the first layer of a model.
    """

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = float(value)
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return {}, check_sequence(input_shape)

    @classmethod
    def must_be_first(cls, fields: Mapping[str, Any]) -> str:
        return "it marks the padding of the model's inputs"

    @classmethod
    def marks_padding(cls, fields: Mapping[str, Any]) -> bool:
        return True

    def mask_of(self, x: npt.NDArray[Any]) -> TimeMask:
        """Return whether any feature of a step differs from `value`: (batch, time)."""
        return np.not_equal(x, x.dtype.type(self.value)).any(axis=-1)

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.predict(x, out)
        self._x_shape, self._dtype = y.shape, y.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self.incoming(dy, self.cached(self._x_shape), self._dtype)
        return copied(dy, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return copied(self.floats(x), out)

    def time_step(self, batch: int) -> TimeStep:
        return np.array


class _OneStep(Layer):
    """Base class of the layers that make one vector of each sequence: (batch, time, features) -> (batch, features)."""

    mask_use: ClassVar[MaskUse] = "taken"

    def __init__(self) -> None:
        super().__init__()
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return {}, check_sequence(input_shape)[1:]

    def _check_input(self, x: npt.ArrayLike) -> Array:
        array = self.floats(x)
        if array.ndim != 3:
            msg = f"{self.name}: expected an array of shape (batch, time, features), got {array.shape}"
            raise ShapeError(msg)
        return array


class LastStep(_OneStep):
    """y = the last step of each sequence, or the last one that counts; 0 if none does.

    Inputs are (batch, time, features), outputs (batch, features).
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        array = self._check_input(x)
        self._last = self._find_last(array, mask)
        self._x_shape, self._dtype = array.shape, array.dtype
        return self._pick(array, self._last, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None, mask: TimeMask | None = None) -> Array:
        array = self._check_input(x)
        return self._pick(array, self._find_last(array, mask), out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        batch, steps, features = self.cached(self._x_shape)
        dy = self.incoming(dy, (batch, features), self._dtype)
        dx = np.empty((batch, steps, features), dy.dtype) if out is None else out
        dx.fill(0)
        found = np.flatnonzero(self._last >= 0)
        dx[found, self._last[found]] = dy[found]
        return dx

    def _find_last(self, x: Array, mask: TimeMask | None) -> npt.NDArray[np.int64]:
        """Return the last step that counts in each sequence; -1 if none does."""
        steps = x.shape[1]
        if mask is None:
            return np.full(len(x), steps - 1)
        counts = check_mask(mask, x, self.name)
        return np.where(counts.any(axis=1), steps - 1 - np.argmax(counts[:, ::-1], axis=1), -1)

    def _pick(self, x: Array, last: npt.NDArray[np.int64], out: Array | None) -> Array:
        y = np.empty((len(x), x.shape[2]), x.dtype) if out is None else out
        y[...] = x[np.arange(len(x)), last]
        y[last < 0] = 0
        return y

    def time_step(self, batch: int) -> TimeStep:
        return np.array


class TimeAverage(_OneStep):
    """y = the mean over the steps of each sequence that count; 0 if none does.

    Inputs are (batch, time, features), outputs (batch, features).
    """

    def __init__(self) -> None:
        super().__init__()
        self._shares: Array = np.empty(0)

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        array = self._check_input(x)
        self._shares = self._find_shares(array, mask)
        self._x_shape, self._dtype = array.shape, array.dtype
        return self._average(array, self._shares, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None, mask: TimeMask | None = None) -> Array:
        array = self._check_input(x)
        return self._average(array, self._find_shares(array, mask), out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        batch, steps, features = self.cached(self._x_shape)
        dy = self.incoming(dy, (batch, features), self._dtype)
        shares = np.broadcast_to(self._shares, (batch, steps))
        return np.multiply(dy[:, np.newaxis], shares[:, :, np.newaxis], out)

    def _find_shares(self, x: Array, mask: TimeMask | None) -> Array:
        """Return the share of each step in the mean: (batch, time), or (1, time) if it is the same for all."""
        steps = x.shape[1]
        if mask is None:
            return np.full((1, steps), 1 / steps, x.dtype)
        counts = check_mask(mask, x, self.name)
        return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(x.dtype)

    def _average(self, x: Array, shares: Array, out: Array | None) -> Array:
        counts = np.broadcast_to(shares, x.shape[:2])
        if not shares.all():  # padding may have become infinite on its way, and 0 times that is no number
            x = np.where(counts[:, :, np.newaxis] > 0, x, 0)
        return np.einsum("bt,btf->bf", counts, x, out=out)

    def time_step(self, batch: int) -> TimeStep:
        seen, total = 0, np.zeros(())

        def step(x: npt.NDArray[Any]) -> Array:
            nonlocal seen, total
            seen, total = seen + 1, np.add(total, x, dtype=x.dtype)
            return total / x.dtype.type(seen)

        return step
