"""Every axis but the batch's in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import ShapeError
from specnet.layer import FLOAT64, Layer, size_of
from specnet.parameters import Array, ShapeTuple


class Flatten(Layer):
    """y = x with every axis but the first in one: (batch, 28, 28) -> (batch, 784)."""

    def __init__(self) -> None:
        super().__init__()
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, _fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return {}, (size_of(input_shape),)

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        y = self.predict(x, out)
        self._x_shape, self._dtype = x.shape, x.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        shape = self.cached(self._x_shape)
        dy = self.incoming(dy, (shape[0], size_of(shape[1:])), self._dtype)
        dx = dy.reshape(shape)
        return np.array(dx) if out is None else dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        if x.ndim == 0:
            msg = f"{self.name}: expected an array with a batch axis, got a single number"
            raise ShapeError(msg)
        y = x.reshape(len(x), size_of(x.shape[1:]))
        return np.array(y) if out is None else y
