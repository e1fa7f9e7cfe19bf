"""Rectifiers: relu, leaky_relu."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from specnet.layer import FLOAT64, Elementwise, Layer
from specnet.parameters import Array


class Relu(Layer):
    """y = max(x, 0); passes no gradient where x is 0 or less, and lets a NaN through."""

    def __init__(self) -> None:
        super().__init__()
        self._mask: npt.NDArray[np.bool_] | None = None
        self._dtype = FLOAT64
        self._zeros: Array = np.zeros(0)

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        self._mask = np.greater(x, 0, self.keep("mask", x.shape, np.bool_))
        self._dtype = x.dtype
        # A whole array of zeros: numpy compares two arrays four times as fast as an array and a number.
        if self._zeros.shape != x.shape or self._zeros.dtype is not x.dtype:
            self._zeros = np.zeros(x.shape, x.dtype)
        return np.maximum(x, self._zeros, out=out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        mask = self.cached(self._mask)
        dy = self.incoming(dy, mask.shape, self._dtype)
        return np.multiply(dy, mask, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        return np.maximum(x, x.dtype.type(0), out=out)


class LeakyRelu(Elementwise):
    """y = x where x > 0, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, self.negative_slope, y)
        np.copyto(y, x, where=x > 0)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        slope.fill(self.negative_slope)
        np.copyto(slope, 1, where=x > 0)
