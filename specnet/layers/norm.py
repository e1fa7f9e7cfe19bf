"""Normalization layers over the last axis, layer_norm and rms_norm, and what they share with batch_norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import batch_of, size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer


class Norm(Layer):
    """Base class of normalizations, with one scale and one shift for each feature of the last axis."""

    scale = ParameterView()
    shift = ParameterView()
    scale_grad = GradientView("scale")
    shift_grad = GradientView("shift")
    parameter_names: ClassVar[tuple[str, ...]] = ("scale", "shift")

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike | None, epsilon: float) -> None:
        super().__init__()
        self._scale = self.parameters["scale"] = self.floats(scale)
        if self._scale.ndim != 1:
            msg = f"{self.name}: expected a scale of shape (features,), got {self._scale.shape}"
            raise ShapeError(msg)
        if shift is not None:
            self.parameters["shift"] = self.floats(shift, self._scale.dtype)
            if self.parameters["shift"].shape != self._scale.shape:
                got = self.parameters["shift"].shape
                msg = f"{self.name}: expected a shift of shape {self._scale.shape}, got {got}"
                raise ShapeError(msg)
        self.epsilon = float(epsilon)
        self._x_shape: ShapeTuple | None = None

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        return dict.fromkeys(cls.parameter_names, input_shape[-1:]), input_shape

    def _as_matrix(self, x: npt.ArrayLike) -> tuple[Array, ShapeTuple]:
        """Check x, and return it as a matrix of shape (positions, features), with its original shape."""
        x = self.floats(x, self._scale.dtype)
        features = len(self._scale)
        if x.ndim < 2 or x.shape[-1] != features:
            msg = f"{self.name}: expected an array of shape {batch_of((features,))}, got {x.shape}"
            raise ShapeError(msg)
        return x.reshape(size_of(x.shape[:-1]), features), x.shape


class _RowNorm(Norm):
    """Base class of normalizations of each row, which do the same in training and prediction."""

    centred: ClassVar[bool] = True
    """Whether the mean of each row is subtracted."""

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike | None, epsilon: float) -> None:
        super().__init__(scale, shift, epsilon)
        self._normalized: Array = np.zeros(0)
        self._inverse: Array = np.zeros(0)  # 1 / standard deviation of the last forward pass

    @property
    def in_place(self) -> bool:
        return True

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        self._normalized = self.keep("normalized", rows.shape, rows.dtype)
        self._inverse = self.keep("inverse", (len(rows), 1), rows.dtype)
        self._x_shape = shape
        return self._compute(rows, self._normalized, self._inverse, out).reshape(shape)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        inverse = np.empty((len(rows), 1), rows.dtype)
        return self._compute(rows, np.empty(rows.shape, rows.dtype), inverse, out).reshape(shape)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        shape, normalized, inverse, scale = self.cached(self._x_shape), self._normalized, self._inverse, self._scale
        rows = self.incoming(dy, shape, scale.dtype).reshape(normalized.shape)
        if not kernels.sum_product(rows, normalized, self.gradient("scale")):
            np.einsum("ij,ij->j", rows, normalized, out=self.gradient("scale"))  # ∂y/∂scale = normalized
        if self.centred and not kernels.sum_rows(rows, self.gradient("shift")):
            np.sum(rows, axis=0, out=self.gradient("shift"))  # ∂y/∂shift = 1
        dx = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        if not kernels.row_norm_backward(rows, normalized, scale, inverse, dx, self.centred):
            d = np.multiply(rows, scale, dx)  # ∂loss/∂normalized
            moved = normalized * np.mean(d * normalized, axis=1, keepdims=True)  # the variance depends on x,
            if self.centred:
                moved += np.mean(d, axis=1, keepdims=True)  # and so does the mean
            d -= moved
            np.multiply(d, inverse, d)
        return dx.reshape(shape)

    def _compute(self, rows: Array, normalized: Array, inverse: Array, out: Array | None) -> Array:
        """Write the normalized rows and 1 / deviation of each row; return y. Do not change the layer."""
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        if self.centred:
            done = kernels.layer_norm(rows, self._scale, self.parameters["shift"], normalized, inverse, y, self.epsilon)
        else:
            done = kernels.rms_norm(rows, self._scale, normalized, inverse, y, self.epsilon)
        if not done:
            centred = rows - np.mean(rows, axis=1, keepdims=True) if self.centred else rows
            inverse[...] = 1 / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + self.epsilon)
            np.multiply(centred, inverse, normalized)
            np.multiply(normalized, self._scale, y)
            if self.centred:
                np.add(y, self.parameters["shift"], y)
        return y


class LayerNorm(_RowNorm):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + shift, mean and variance over the last axis (Ba et al. 2016).

    scale, shift: (features,).
    """

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike, epsilon: float = 1e-5) -> None:
        super().__init__(scale, shift, epsilon)

    @property
    def formulas(self) -> dict[str, str]:
        mean, variance = (f"x.{method}(axis=-1, keepdims=True)" for method in ("mean", "var"))
        return {"y": f"(x - {mean}) / sqrt({variance} + {self.epsilon:g}) * scale + shift"}


class RmsNorm(_RowNorm):
    """y = x / sqrt(mean(x^2) + epsilon) * scale, the mean over the last axis (Zhang and Sennrich 2019).

    scale: (features,).
    """

    parameter_names = ("scale",)
    centred = False

    def __init__(self, scale: npt.ArrayLike, epsilon: float = 1e-5) -> None:
        super().__init__(scale, None, epsilon)

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": f"x / sqrt(mean(x**2, axis=-1, keepdims=True) + {self.epsilon:g}) * scale"}
