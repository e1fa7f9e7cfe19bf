"""Normalization layers: batch_norm over the batch, layer_norm and rms_norm over the last axis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import batch_of, size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer


class _Norm(Layer):
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


class _RowNorm(_Norm):
    """Base class of normalizations of each row, which do the same in training and prediction."""

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike | None, epsilon: float) -> None:
        super().__init__(scale, shift, epsilon)
        self._normalized: Array = np.zeros(0)
        self._inverse: Array = np.zeros(0)  # 1 / standard deviation of the last forward pass

    @abstractmethod
    def _normalize(self, rows: Array) -> tuple[Array, Array]:
        """Return the normalized rows and the factors by which they were multiplied; do not change the layer."""

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        self._normalized, self._inverse = self._normalize(rows)
        self._x_shape = shape
        return self._scale_and_shift(self._normalized, shape, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        return self._scale_and_shift(self._normalize(rows)[0], shape, out)

    def _scale_and_shift(self, normalized: Array, shape: ShapeTuple, out: Array | None) -> Array:
        y = np.multiply(normalized, self._scale, None if out is None else out.reshape(normalized.shape))
        if "shift" in self.parameters:
            y += self.parameters["shift"]
        return y.reshape(shape)

    def _fill_parameter_gradients(self, dy: npt.ArrayLike) -> Array:
        """Fill the parameters' gradients; return ∂loss/∂normalized, of shape (positions, features)."""
        shape = self.cached(self._x_shape)
        rows = self.incoming(dy, shape, self._scale.dtype).reshape(self._normalized.shape)
        np.einsum("ij,ij->j", rows, self._normalized, out=self.gradient("scale"))  # ∂y/∂scale = normalized
        if "shift" in self.parameters:
            np.sum(rows, axis=0, out=self.gradient("shift"))  # ∂y/∂shift = 1
        return rows * self._scale


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

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        d = self._fill_parameter_gradients(dy)
        mean_product = np.mean(d * self._normalized, axis=1, keepdims=True)
        d -= self._normalized * mean_product + np.mean(d, axis=1, keepdims=True)  # mean and variance depend on x
        return np.multiply(d, self._inverse, d).reshape(self.cached(self._x_shape))

    def _normalize(self, rows: Array) -> tuple[Array, Array]:
        centred = rows - np.mean(rows, axis=1, keepdims=True)
        inverse = 1 / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + self.epsilon)
        return np.multiply(centred, inverse, centred), inverse


class RmsNorm(_RowNorm):
    """y = x / sqrt(mean(x^2) + epsilon) * scale, the mean over the last axis (Zhang and Sennrich 2019).

    scale: (features,).
    """

    parameter_names = ("scale",)

    def __init__(self, scale: npt.ArrayLike, epsilon: float = 1e-5) -> None:
        super().__init__(scale, None, epsilon)

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": f"x / sqrt(mean(x**2, axis=-1, keepdims=True) + {self.epsilon:g}) * scale"}

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        d = self._fill_parameter_gradients(dy)
        d -= self._normalized * np.mean(d * self._normalized, axis=1, keepdims=True)  # the mean square depends on x
        return np.multiply(d, self._inverse, d).reshape(self.cached(self._x_shape))

    def _normalize(self, rows: Array) -> tuple[Array, Array]:
        inverse = 1 / np.sqrt(np.mean(rows * rows, axis=1, keepdims=True) + self.epsilon)
        return rows * inverse, inverse


class BatchNorm(_Norm):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + shift, over every axis but the last (Ioffe and Szegedy 2015).

    In training, mean and variance are those of the batch, and the running statistics move towards them by `momentum`
    (with the unbiased variance, as in torch). In prediction, and for a single row, which has no variance, the running
    statistics are used and stay unchanged. scale, shift: (features,); buffers running_mean, running_var: (features,),
    count: number of batches seen.
    """

    def __init__(
        self, scale: npt.ArrayLike, shift: npt.ArrayLike, momentum: float = 0.1, epsilon: float = 1e-5
    ) -> None:
        super().__init__(scale, shift, epsilon)
        self.momentum = float(momentum)
        self.buffers = {
            "running_mean": np.zeros_like(self._scale),
            "running_var": np.ones_like(self._scale),
            "count": np.zeros((), np.int64),
        }
        self._uses_batch_statistics = False
        self._batch_size = 0  # rows of the batch, including those of other processes
        self._centred: Array = np.zeros(0)  # x - mean
        self._inverse: Array = np.zeros(0)  # 1 / standard deviation of the last forward pass
        self._ones: Array = np.ones(0)

    @classmethod
    def infer_buffers(
        cls, fields: Mapping[str, Any], input_shape: ShapeTuple
    ) -> dict[str, tuple[ShapeTuple, npt.DTypeLike | None]]:
        features = input_shape[-1:]
        return {
            "running_mean": (features, None),
            "running_var": (features, None),
            "count": ((), np.dtype(np.int64)),
        }

    @property
    def formulas(self) -> dict[str, str]:
        if self._uses_batch_statistics:
            return {"y": f"(x - x.mean(axis=0)) / sqrt(x.var(axis=0) + {self.epsilon:g}) * scale + shift"}
        deviation = f"sqrt(running_var + {self.epsilon:g})"
        return {
            "y": f"(x - running_mean) / {deviation} * scale + shift",
            "dx": f"dy * scale / {deviation}",
            "dscale": f"(dy * (x - running_mean) / {deviation}).sum(axis=0)",
            "dshift": "dy.sum(axis=0)",
        }

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        self._x_shape = shape
        shared = training and self.draws.world.size > 1
        sums = self._sum_rows(rows) if shared else None
        self._batch_size = len(rows) if sums is None else int(sums[-1])
        self._uses_batch_statistics = training and self._batch_size > 1
        self._centred = self.keep("centred", rows.shape, rows.dtype)
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        if self._uses_batch_statistics:
            self._inverse = self.keep("inverse", self._scale.shape, rows.dtype)
            self._normalize_batch(rows, y, sums)
        else:
            self._inverse = self._normalize_by_running(rows, self._centred, y)
        return y.reshape(shape)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        rows, shape = self._as_matrix(x)
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        self._normalize_by_running(rows, y, y)
        return y.reshape(shape)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        shape, centred, scale, inverse = self.cached(self._x_shape), self._centred, self._scale, self._inverse
        rows = self.incoming(dy, shape, scale.dtype).reshape(centred.shape)
        dx = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        scale_grad, shift_grad = self.gradient("scale"), self.gradient("shift")
        world = self.draws.world
        if (
            self._uses_batch_statistics
            and world.size == 1
            and kernels.batch_norm_backward(rows, centred, scale, inverse, scale_grad, shift_grad, dx)
        ):
            return dx.reshape(shape)
        ones, size = self._get_ones(rows), self._batch_size
        np.dot(ones, np.multiply(rows, centred, dx), scale_grad)  # ∂y/∂scale = centred * inverse
        scale_grad *= inverse
        np.dot(ones, rows, shift_grad)  # ∂y/∂shift = 1
        if self._uses_batch_statistics:  # the mean and the variance depend on x
            if world.size > 1:
                scale_grad, shift_grad = gradients = np.stack([scale_grad, shift_grad])
                world.sum(gradients)
            np.multiply(centred, scale_grad * inverse / size, dx)
            np.add(dx, shift_grad / size, dx)
            np.subtract(rows, dx, dx)
            np.multiply(dx, scale * inverse, dx)
        else:
            np.multiply(rows, scale * inverse, dx)
        return dx.reshape(shape)

    def _normalize_by_running(self, rows: Array, centred: Array, y: Array) -> Array:
        """Compute y and `centred`, which may be the same array, by the running statistics; return 1 / deviation."""
        inverse = 1 / np.sqrt(self.buffers["running_var"] + self.epsilon)
        np.subtract(rows, self.buffers["running_mean"], centred)
        np.multiply(centred, inverse * self._scale, y)
        np.add(y, self.parameters["shift"], y)
        return inverse

    def _sum_rows(self, rows: Array) -> npt.NDArray[np.float64]:
        """Return the sum and the number of the rows of all processes, in one array: (features + 1,)."""
        sums = np.append(np.dot(self._get_ones(rows), rows), len(rows)).astype(np.float64)
        self.draws.world.sum(sums)
        return sums

    def _normalize_batch(self, rows: Array, y: Array, sums: npt.NDArray[np.float64] | None) -> None:
        """Compute y by the batch's statistics, cache what `backward` needs, and update the running statistics."""
        centred, inverse, shift, size = self._centred, self._inverse, self.parameters["shift"], self._batch_size
        mean, variance = np.empty_like(inverse), np.empty_like(inverse)
        if sums is not None or not kernels.batch_norm(
            rows, self._scale, shift, centred, y, mean, variance, inverse, self.epsilon
        ):
            ones = self._get_ones(rows)
            if sums is None:
                np.divide(np.dot(ones, rows, mean), size, mean)
            else:
                mean[...] = sums[:-1] / size
            np.subtract(rows, mean, centred)
            np.dot(ones, np.multiply(centred, centred, y), variance)
            self.draws.world.sum(variance)
            np.divide(variance, size, variance)
            np.divide(1, np.sqrt(variance + self.epsilon), inverse)
            np.multiply(centred, inverse * self._scale, y)
            np.add(y, shift, y)
        for name, value in (("running_mean", mean), ("running_var", variance * (size / (size - 1)))):
            running = self.buffers[name]
            running += (value - running) * self.momentum
        self.buffers["count"] += 1

    def _get_ones(self, rows: Array) -> Array:
        """Return a vector of ones: its product with the rows is their sum, and several times faster than np.sum."""
        if len(self._ones) != len(rows) or self._ones.dtype != rows.dtype:
            self._ones = np.ones(len(rows), rows.dtype)
        return self._ones
