"""Layers that change the shape of each row: flatten, reshape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64, batch_of, size_of
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer, MaskUse


class Reshape(Layer):
    """y = x with each row in another shape, in row-major order: (batch, 784) -> (batch, 28, 28)."""

    mask_use: ClassVar[MaskUse] = "refused"

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        shape = tuple(fields["shape"])
        if size_of(shape) != size_of(input_shape):
            msg = f"the input has shape {input_shape}, {size_of(input_shape)} elements; {shape} has {size_of(shape)}"
            raise ShapeError(msg)
        return {}, shape

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": f"x.reshape(-1, *{self._row_shape(self._x_shape or ())})"} if self._x_shape else {}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        y = self.predict(x, out)
        self._x_shape, self._dtype = x.shape, x.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x_shape = self.cached(self._x_shape)
        dx = self.incoming(dy, (x_shape[0], *self._row_shape(x_shape)), self._dtype).reshape(x_shape)
        return np.array(dx) if out is None else dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        shape = self._row_shape(x.shape)
        if size_of(shape) != size_of(x.shape[1:]):
            msg = f"{self.name}: expected an array that can be reshaped to {batch_of(shape)}, got {x.shape}"
            raise ShapeError(msg)
        y = x.reshape(len(x), *shape)
        return np.array(y) if out is None else y

    def _row_shape(self, _x_shape: ShapeTuple) -> ShapeTuple:
        return self.shape


class Flatten(Reshape):
    """y = x with all axes but the first merged: (batch, 28, 28) -> (batch, 784)."""

    def __init__(self) -> None:
        super().__init__(())

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return {}, (size_of(input_shape),)

    def _row_shape(self, x_shape: ShapeTuple) -> ShapeTuple:
        return (size_of(x_shape[1:]),)
