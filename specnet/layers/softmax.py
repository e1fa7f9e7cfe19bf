"""Probabilities and log-probabilities over the last axis: softmax, log_softmax."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.errors import ShapeError
from specnet.layer import Layer


class _SoftmaxBase(Layer):
    """Base class that caches the probabilities of the last forward pass; both backward passes need them."""

    def __init__(self) -> None:
        super().__init__()
        self._probabilities: Array | None = None

    def _check_input(self, x: npt.ArrayLike) -> Array:
        x = self.floats(x)
        if x.ndim == 0 or x.shape[-1] == 0:
            msg = f"{self.name}: expected an array with a last axis to sum over, got shape {x.shape}"
            raise ShapeError(msg)
        return x

    def _check_gradient(self, dy: npt.ArrayLike) -> tuple[Array, Array]:
        p = self.cached(self._probabilities)
        return self.incoming(dy, p.shape, p.dtype), p


class Softmax(_SoftmaxBase):
    """y = exp(x) / sum(exp(x)) over the last axis."""

    @property
    def formulas(self) -> dict[str, str]:
        total = "sum(dy * y, axis=-1, keepdims=True)"
        return {"y": "exp(x) / sum(exp(x), axis=-1, keepdims=True)", "dx": f"y * (dy - {total})"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.predict(x, out)
        p = self._probabilities = self.keep("probabilities", y.shape, y.dtype)
        np.copyto(p, y)  # a copy, because the caller may write into the result
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy, y = self._check_gradient(dy)
        total = np.sum(dy * y, axis=-1, keepdims=True)
        return np.multiply(y, dy - total, out)  # ∂y_i/∂x_j = y_i (δ_ij - y_j)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self._check_input(x)
        y = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.softmax(x, y):
            np.subtract(x, np.max(x, axis=-1, keepdims=True), y)
            np.exp(y, y)
            np.divide(y, np.sum(y, axis=-1, keepdims=True), y)
        return y


class LogSoftmax(_SoftmaxBase):
    """y = x - log(sum(exp(x))) over the last axis."""

    @property
    def formulas(self) -> dict[str, str]:
        total = "sum(dy, axis=-1, keepdims=True)"
        return {"y": "x - log(sum(exp(x), axis=-1, keepdims=True))", "dx": f"dy - exp(y) * {total}"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.predict(x, out)
        self._probabilities = np.exp(y, self.keep("probabilities", y.shape, y.dtype))
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy, p = self._check_gradient(dy)
        return np.subtract(dy, p * np.sum(dy, axis=-1, keepdims=True), out)  # ∂y_i/∂x_j = δ_ij - p_j

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self._check_input(x)
        y = np.subtract(x, np.max(x, axis=-1, keepdims=True), out)
        return np.subtract(y, np.log(np.sum(np.exp(y), axis=-1, keepdims=True)), y)
