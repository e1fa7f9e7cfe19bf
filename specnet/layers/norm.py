"""Normalizations: batch_norm over the batch, layer_norm and rms_norm over the last axis."""

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
    """Scale and shift of one element a feature of the last axis."""

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

    def _rows(self, x: npt.ArrayLike) -> tuple[Array, ShapeTuple]:
        """Check x and give it with one row a position, and its shape."""
        x = self.floats(x, self._scale.dtype)
        features = len(self._scale)
        if x.ndim < 2 or x.shape[-1] != features:
            msg = f"{self.name}: expected an array of shape {batch_of((features,))}, got {x.shape}"
            raise ShapeError(msg)
        return x.reshape(size_of(x.shape[:-1]), features), x.shape


class _RowNorm(_Norm):
    """What normalizes each row by itself, whether training or not."""

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike | None, epsilon: float) -> None:
        super().__init__(scale, shift, epsilon)
        self._normed: Array = np.zeros(0)
        self._inverse: Array = np.zeros(0)  # 1 / standard deviation, as it was used

    @abstractmethod
    def _normalize(self, rows: Array) -> tuple[Array, Array]:
        """Give the rows normalized, and what they were multiplied by for that; leave no trace on the layer."""

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows, shape = self._rows(x)
        self._normed, self._inverse = self._normalize(rows)
        self._x_shape = shape
        return self._scaled(self._normed, shape, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        rows, shape = self._rows(x)
        return self._scaled(self._normalize(rows)[0], shape, out)

    def _scaled(self, normed: Array, shape: ShapeTuple, out: Array | None) -> Array:
        y = np.multiply(normed, self._scale, None if out is None else out.reshape(normed.shape))
        if "shift" in self.parameters:
            y += self.parameters["shift"]
        return y.reshape(shape)

    def _parameter_gradients(self, dy: npt.ArrayLike) -> Array:
        """Fill the parameters' gradients; give ∂loss/∂normed, one row a position."""
        shape = self.cached(self._x_shape)
        rows = self.incoming(dy, shape, self._scale.dtype).reshape(self._normed.shape)
        np.einsum("ij,ij->j", rows, self._normed, out=self.gradient("scale"))  # ∂y/∂scale = normed
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
        mean, variance = (f"x.{what}(axis=-1, keepdims=True)" for what in ("mean", "var"))
        return {"y": f"(x - {mean}) / sqrt({variance} + {self.epsilon:g}) * scale + shift"}

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        d = self._parameter_gradients(dy)
        along = np.mean(d * self._normed, axis=1, keepdims=True)
        d -= self._normed * along + np.mean(d, axis=1, keepdims=True)  # the mean and the variance move with x
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
        d = self._parameter_gradients(dy)
        d -= self._normed * np.mean(d * self._normed, axis=1, keepdims=True)  # the mean square moves with x
        return np.multiply(d, self._inverse, d).reshape(self.cached(self._x_shape))

    def _normalize(self, rows: Array) -> tuple[Array, Array]:
        inverse = 1 / np.sqrt(np.mean(rows * rows, axis=1, keepdims=True) + self.epsilon)
        return rows * inverse, inverse


class BatchNorm(_Norm):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + shift, over every axis but the last (Ioffe and Szegedy 2015).

    While training, mean and variance are the batch's, and the running ones move by `momentum` towards them (the
    variance unbiased, as torch's); otherwise the running ones are used. A single row has no variance: it is normalized
    by the running ones and leaves them. scale, shift: (features,); buffers running_mean, running_var: (features,),
    count: batches seen.
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
        self._of_batch = False
        self._count = 0  # rows of the batch, those of other processes included
        self._centred: Array = np.zeros(0)  # x - mean
        self._inverse: Array = np.zeros(0)  # 1 / standard deviation, as it was used
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
        if self._of_batch:
            return {"y": f"(x - x.mean(axis=0)) / sqrt(x.var(axis=0) + {self.epsilon:g}) * scale + shift"}
        deviation = f"sqrt(running_var + {self.epsilon:g})"
        return {
            "y": f"(x - running_mean) / {deviation} * scale + shift",
            "dx": f"dy * scale / {deviation}",
            "dscale": f"(dy * (x - running_mean) / {deviation}).sum(axis=0)",
            "dshift": "dy.sum(axis=0)",
        }

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        rows, shape = self._rows(x)
        self._x_shape = shape
        shared = training and self.draws.world.size > 1
        sums = self._sums(rows) if shared else None
        self._count = len(rows) if sums is None else int(sums[-1])
        self._of_batch = training and self._count > 1
        self._centred = self.keep("centred", rows.shape, rows.dtype)
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        if self._of_batch:
            self._inverse = self.keep("inverse", self._scale.shape, rows.dtype)
            self._normalize_batch(rows, y, sums)
        else:
            self._inverse = self._by_running(rows, self._centred, y)
        return y.reshape(shape)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        rows, shape = self._rows(x)
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        self._by_running(rows, y, y)
        return y.reshape(shape)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        shape, centred, scale, inverse = self.cached(self._x_shape), self._centred, self._scale, self._inverse
        rows = self.incoming(dy, shape, scale.dtype).reshape(centred.shape)
        dx = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        scale_grad, shift_grad = self.gradient("scale"), self.gradient("shift")
        world = self.draws.world
        if (
            self._of_batch
            and world.size == 1
            and kernels.batch_norm_backward(rows, centred, scale, inverse, scale_grad, shift_grad, dx)
        ):
            return dx.reshape(shape)
        ones, size = self._ones_for(rows), self._count
        np.dot(ones, np.multiply(rows, centred, dx), scale_grad)  # ∂y/∂scale = centred * inverse
        scale_grad *= inverse
        np.dot(ones, rows, shift_grad)  # ∂y/∂shift = 1
        if self._of_batch:  # the mean and the variance move with x
            if world.size > 1:
                scale_grad, shift_grad = both = np.stack([scale_grad, shift_grad])
                world.sum(both)
            np.multiply(centred, scale_grad * inverse / size, dx)
            np.add(dx, shift_grad / size, dx)
            np.subtract(rows, dx, dx)
            np.multiply(dx, scale * inverse, dx)
        else:
            np.multiply(rows, scale * inverse, dx)
        return dx.reshape(shape)

    def _by_running(self, rows: Array, centred: Array, y: Array) -> Array:
        """Write y by the running statistics, by way of `centred`, which may be y itself; give 1 / deviation."""
        inverse = 1 / np.sqrt(self.buffers["running_var"] + self.epsilon)
        np.subtract(rows, self.buffers["running_mean"], centred)
        np.multiply(centred, inverse * self._scale, y)
        np.add(y, self.parameters["shift"], y)
        return inverse

    def _sums(self, rows: Array) -> npt.NDArray[np.float64]:
        """Sum the rows of all processes, and count them: (features + 1,)."""
        sums = np.append(np.dot(self._ones_for(rows), rows), len(rows)).astype(np.float64)
        self.draws.world.sum(sums)
        return sums

    def _normalize_batch(self, rows: Array, y: Array, sums: npt.NDArray[np.float64] | None) -> None:
        """Write y by the batch's statistics, and what `backward` needs; move the running ones."""
        centred, inverse, shift, size = self._centred, self._inverse, self.parameters["shift"], self._count
        mean, variance = np.empty_like(inverse), np.empty_like(inverse)
        if sums is not None or not kernels.batch_norm(
            rows, self._scale, shift, centred, y, mean, variance, inverse, self.epsilon
        ):
            ones = self._ones_for(rows)
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
        for name, seen in (("running_mean", mean), ("running_var", variance * (size / (size - 1)))):
            running = self.buffers[name]
            running += (seen - running) * self.momentum
        self.buffers["count"] += 1

    def _ones_for(self, rows: Array) -> Array:
        """Give a vector whose product with the rows is their sum, several times as fast as numpy's sums over rows."""
        if len(self._ones) != len(rows) or self._ones.dtype != rows.dtype:
            self._ones = np.ones(len(rows), rows.dtype)
        return self._ones
