"""Batch normalization: over the batch, with running statistics for prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.sums import ones_vector
from specnet.layer import Layer, MaskUse, TimeStep
from specnet.layers.norm import Norm
from specnet.layers.relu import Relu


class BatchNorm(Norm):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + shift, over every axis but the last (Ioffe and Szegedy 2015).

    In training, mean and variance are those of the batch, and the running statistics move towards them by `momentum`
    (with the unbiased variance, as in torch). In prediction, and for a single row, which has no variance, the running
    statistics are used and stay unchanged. scale, shift: (features,); buffers running_mean, running_var: (features,),
    count: number of batches seen.
    """

    mask_use: ClassVar[MaskUse] = "refused"  # padding would count in the statistics

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

    @property
    def in_place(self) -> bool:
        return True

    def fused_with(self, following: Layer) -> Layer | None:
        if type(self) is BatchNorm and type(following) is Relu:  # a subclass may compute something else
            return _BatchNormRelu(self, following)
        return None

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, *, rectified: bool = False
    ) -> Array:
        """Return y, or max(y, 0) if `rectified`."""
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
            self._normalize_batch(rows, y, sums, rectified=rectified)
        else:
            self._inverse = self._normalize_by_running(rows, self._centred, y)
            if rectified:
                _rectify(y)
        return y.reshape(shape)

    def predict(self, x: npt.ArrayLike, out: Array | None = None, *, rectified: bool = False) -> Array:
        rows, shape = self._as_matrix(x)
        y = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        factor = 1 / np.sqrt(self.buffers["running_var"] + self.epsilon) * self._scale
        mean, shift = self.buffers["running_mean"], self.parameters["shift"]
        if not kernels.normalize(rows, y, mean, factor, shift, rectified):
            self._normalize_by_running(rows, y, y)
            if rectified:
                _rectify(y)
        return y.reshape(shape)

    def time_step(self, batch: int) -> TimeStep:
        return self.predict

    def backward(self, dy: npt.ArrayLike, out: Array | None = None, *, rectified: Array | None = None) -> Array:
        """Return ∂loss/∂x; with `rectified`, the output of a ReLU of y, dy is the gradient of that output."""
        shape, centred, scale, inverse = self.cached(self._x_shape), self._centred, self._scale, self._inverse
        rows = self.incoming(dy, shape, scale.dtype).reshape(centred.shape)
        dx = np.empty(rows.shape, rows.dtype) if out is None else out.reshape(rows.shape)
        scale_grad, shift_grad = self.gradient("scale"), self.gradient("shift")
        world = self.draws.world
        if self._uses_batch_statistics and world.size == 1:
            arrays = (rows, centred, scale, inverse, scale_grad, shift_grad, dx)
            if rectified is None:
                done = kernels.batch_norm_backward(*arrays)
            else:
                done = kernels.batch_norm_relu_backward(*arrays, rectified.reshape(rows.shape))
            if done:
                return dx.reshape(shape)
        if np.may_share_memory(dx, rows):  # dx holds products before dy is read for the last time
            rows = rows.copy()
        if rectified is not None:
            rows = np.multiply(rows, rectified.reshape(rows.shape) > 0, self.keep("masked", rows.shape, rows.dtype))
        ones, size = ones_vector(len(rows), rows.dtype), self._batch_size
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
        sums = np.append(np.dot(ones_vector(len(rows), rows.dtype), rows), len(rows)).astype(np.float64)
        self.draws.world.sum(sums)
        return sums

    def _normalize_batch(self, rows: Array, y: Array, sums: npt.NDArray[np.float64] | None, *, rectified: bool) -> None:
        """Compute y by the batch's statistics, cache what `backward` needs, and update the running statistics."""
        centred, inverse, shift, size = self._centred, self._inverse, self.parameters["shift"], self._batch_size
        running_mean, running_var = self.buffers["running_mean"], self.buffers["running_var"]
        self.buffers["count"] += 1
        if sums is None:
            arrays = (rows, self._scale, shift, centred, y, running_mean, running_var, inverse)
            if kernels.batch_norm(*arrays, self.epsilon, rectified, self.momentum):
                return
        mean, variance, ones = np.empty_like(inverse), np.empty_like(inverse), ones_vector(len(rows), rows.dtype)
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
        if rectified:
            _rectify(y)
        running_mean += (mean - running_mean) * self.momentum
        running_var += (variance * (size / (size - 1)) - running_var) * self.momentum


def _rectify(y: Array) -> None:
    if not kernels.relu(y, y):
        np.maximum(y, 0, out=y)


class _BatchNormRelu(Layer):
    """A batch norm and the ReLU after it, whose output is the only array that is written; the norm's own is not.

    Each of the two layers can go backward by itself, too: where the ReLU's output is positive, its input was.
    """

    def __init__(self, norm: BatchNorm, relu: Relu) -> None:
        super().__init__(**norm.parameters)
        self.norm, self.relu = norm, relu

    @property
    def keeps_output(self) -> bool:
        return True

    @property
    def in_place(self) -> bool:
        return True

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.norm.forward(x, training, out, rectified=True)
        self.relu.remember(y)
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.norm.backward(dy, out, rectified=self.relu.remembered())

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.norm.predict(x, out, rectified=True)
