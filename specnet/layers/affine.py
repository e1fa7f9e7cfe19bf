"""y = x @ weight + bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import batch_of, size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.arrays.sums import sum_rows
from specnet.errors import ShapeError
from specnet.layer import Layer, RowStep

SMALL_OUTPUT = 16 * 1024


class Affine(Layer):
    """y = x @ weight + bias over the last axis of x.

    weight: (in_features, units); bias: (units,) or None. Float arrays are kept by reference, integers are converted to
    float64; the outputs have the weight's dtype. `backward` fills weight_grad and bias_grad. Raises ShapeError.
    """

    weight = ParameterView()
    bias = ParameterView()
    weight_grad = GradientView("weight")
    bias_grad = GradientView("bias")

    def __init__(self, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> None:
        super().__init__()
        self._weight = self.parameters["weight"] = self.floats(weight)
        if self._weight.ndim != 2 or 0 in self._weight.shape:
            msg = f"{self.name}: expected a weight of shape (in_features, units), got {self._weight.shape}"
            raise ShapeError(msg)
        self._bias: Array | None = None
        if bias is not None:
            self._bias = self.parameters["bias"] = self.floats(bias)
            if self._bias.shape != self._weight.shape[1:]:
                msg = f"{self.name}: expected a bias of shape {self._weight.shape[1:]}, got {self._bias.shape}"
                raise ShapeError(msg)
        self._x: Array | None = None
        self._x_shape: ShapeTuple = ()
        self._y_shape: ShapeTuple = ()

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        units = fields["units"]
        bias = {"bias": (units,)} if fields["bias"] else {}
        return {"weight": (input_shape[-1], units), **bias}, (*input_shape[:-1], units)

    @classmethod
    def multiply_adds(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> int:
        units: int = fields["units"]
        return size_of(input_shape) * units

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Affine:
        return cls(**parameters)

    @property
    def formulas(self) -> dict[str, str]:
        plus = "" if self._bias is None else " + bias"
        return {"y": f"x @ weight{plus}", "dx": "dy @ weight.T", "dweight": "x.T @ dy", "dbias": "dy.sum(axis=0)"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self._check_input(x)
        self._x = _as_matrix(x)
        y = self._compute(self._x, out)
        if x.ndim != 2:
            y = y.reshape(*x.shape[:-1], self._weight.shape[1])
        self._x_shape, self._y_shape = x.shape, y.shape
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self._fill_parameter_gradients(dy)
        dx = np.empty(self._x_shape, dy.dtype) if out is None else out
        product(dy, self._weight.T, _as_matrix(dx))  # ∂y/∂x = weight
        return dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self._check_input(x)
        y = self._compute(_as_matrix(x), out)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self._weight.shape[1])

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        self._fill_parameter_gradients(dy)

    def row_step(self) -> RowStep | None:
        return None if self._bias is None or type(self) is not Affine else (self._weight, self._bias)

    def _compute(self, rows: Array, out: Array | None) -> Array:
        y = np.empty((len(rows), self._weight.shape[1]), self._weight.dtype) if out is None else _as_matrix(out)
        if len(rows) == 1 and self._bias is not None and kernels.affine_row(rows, self._weight, self._bias, y):
            return y
        product(rows, self._weight, y)
        if self._bias is not None and not kernels.add_bias(y, self._bias):
            np.add(y, self._bias, y)
        return y

    def _fill_parameter_gradients(self, dy: npt.ArrayLike) -> Array:
        dtype = self._weight.dtype
        x = self.cached(self._x)
        dy = _as_matrix(self.incoming(dy, self._y_shape, dtype))
        product(x.T, dy, self.gradient("weight"))  # ∂y/∂weight = x, summed over the batch
        if self._bias is not None:
            sum_rows(dy, self.gradient("bias"))  # ∂y/∂bias = 1, summed over the batch
        return dy

    def _check_input(self, x: npt.ArrayLike) -> Array:
        weight = self._weight
        if type(x) is np.ndarray and x.dtype is weight.dtype and x.ndim == 2 and x.shape[1] == len(weight):
            return x
        x = self.floats(x, self._weight.dtype)
        width = len(self._weight)
        if x.ndim < 2 or x.shape[-1] != width:
            hint = "; a single row needs a batch axis: x[np.newaxis]" if x.shape == (width,) else ""
            msg = f"{self.name}: expected an array of shape {batch_of((width,))}, got {x.shape}{hint}"
            raise ShapeError(msg)
        return x


def _as_matrix(x: Array) -> Array:
    return x if x.ndim == 2 else x.reshape(size_of(x.shape[:-1]), x.shape[-1])


def product(a: Array, b: Array, out: Array) -> None:
    """Multiply matrices into `out`: np.dot has less overhead, np.matmul does not first fill `out` with zeros."""
    if len(a) == 1:
        np.dot(a[0], b, out[0])
    elif out.size <= SMALL_OUTPUT:
        np.dot(a, b, out)
    else:
        np.matmul(a, b, out)
