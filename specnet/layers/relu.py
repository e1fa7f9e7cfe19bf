"""Rectifiers: relu, leaky_relu, prelu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import batch_of, size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Elementwise, Layer, RowStep


class Relu(Layer):
    """y = max(x, 0); the gradient is 0 where x is 0 or less, and a NaN in x stays a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self._x: Array | None = None
        self._zeros: Array = np.zeros(0)

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "maximum(x, 0)", "dx": "dy * (x > 0)"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self._x = self.floats(x)
        y = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.relu(x, y):
            np.maximum(x, self._get_zeros(x), out=y)
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.cached(self._x)
        dy = self.incoming(dy, x.shape, x.dtype)
        dx = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.relu_backward(x, dy, dx):
            np.multiply(dy, np.greater(x, self._get_zeros(x), self.keep("mask", x.shape, np.bool_)), dx)
        return dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        y = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.relu(x, y):
            np.maximum(x, x.dtype.type(0), out=y)
        return y

    @property
    def in_place(self) -> bool:
        return type(self) is Relu

    @property
    def keeps_output(self) -> bool:
        return True

    def row_step(self) -> RowStep | None:
        return "relu" if type(self) is Relu else None

    def remember(self, x: Array) -> None:
        """Cache x, or anything positive at the same places, for `backward`."""
        self._x = x

    def remembered(self) -> Array:
        """Return what `forward` or `remember` cached. Raises SpecnetError before either."""
        return self.cached(self._x)

    def _get_zeros(self, x: Array) -> Array:
        """Return zeros of x's shape: numpy compares two arrays four times as fast as an array and a number."""
        if self._zeros.shape != x.shape or self._zeros.dtype is not x.dtype:
            self._zeros = np.zeros(x.shape, x.dtype)
        return self._zeros


class LeakyRelu(Elementwise):
    """y = x where x > 0, negative_slope * x elsewhere."""

    activation = kernels.ACTIVATIONS.index("leaky_relu")

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    @property
    def formulas(self) -> dict[str, str]:
        slope = f"{self.negative_slope:g}"
        return {"y": f"where(x > 0, x, {slope} * x)", "dx": f"dy * where(x > 0, 1, {slope})"}

    def constants(self) -> tuple[float, float]:
        return self.negative_slope, 0.0

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, self.negative_slope, y)
        np.copyto(y, x, where=x > 0)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        slope.fill(self.negative_slope)
        np.copyto(slope, 1, where=x > 0)


class Prelu(Layer):
    """y = x where x > 0, slope * x elsewhere, with a trained slope for each feature of the last axis (He et al. 2015).

    slope: (features,).
    """

    slope = ParameterView()
    slope_grad = GradientView("slope")

    def __init__(self, slope: npt.ArrayLike) -> None:
        super().__init__()
        self._slope = self.parameters["slope"] = self.floats(slope)
        if self._slope.ndim != 1:
            msg = f"{self.name}: expected a slope of shape (features,), got {self._slope.shape}"
            raise ShapeError(msg)
        self._x: Array | None = None

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return {"slope": input_shape[-1:]}, input_shape

    @property
    def formulas(self) -> dict[str, str]:
        return {
            "y": "where(x > 0, x, slope * x)",
            "dx": "dy * where(x > 0, 1, slope)",
            "dslope": "(dy * minimum(x, 0)).sum(axis=0)",
        }

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        self._x = self.floats(x, self._slope.dtype)
        return self.predict(self._x, out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.cached(self._x)
        dy = self.incoming(dy, x.shape, x.dtype)
        matrix = size_of(x.shape[:-1]), len(self._slope)
        if not kernels.sum_negative(x.reshape(matrix), dy.reshape(matrix), self.gradient("slope")):
            below = np.minimum(x, 0) * dy  # ∂y/∂slope = x where x is negative
            np.sum(below.reshape(matrix), axis=0, out=self.gradient("slope"))
        dx = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.prelu_backward(x, dy, dx, self._slope):
            np.multiply(dy, np.where(x > 0, x.dtype.type(1), self._slope), dx)
        return dx

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x, self._slope.dtype)
        if x.ndim < 2 or x.shape[-1] != len(self._slope):
            msg = f"{self.name}: expected an array of shape {batch_of(self._slope.shape)}, got {x.shape}"
            raise ShapeError(msg)
        y = np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.prelu(x, y, self._slope):
            np.multiply(x, self._slope, y)
            np.copyto(y, x, where=x > 0)
        return y
