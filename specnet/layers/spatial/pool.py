"""Pools: the maximum or the average of each window, channel by channel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layers.spatial.base import Spatial
from specnet.layers.spatial.windows import (
    PaddingArgument,
    Pair,
    PerAxis,
    Windows,
    WindowSettings,
    find_windows,
    named,
    output_shape_of,
    padding_of,
    per_axis,
    size_of_image,
)


class Pool(Spatial):
    """Base class of pools over windows of `pool_size`, one every `stride` positions (by default its size)."""

    count_padding = False
    """Whether averages count the positions of the padding."""

    def __init__(
        self, pool_size: PerAxis = 2, stride: PerAxis | None = None, padding: PaddingArgument = "valid"
    ) -> None:
        super().__init__()
        self.settings = _settings(self.name, self.axes, pool_size, stride, padding)
        self._x: Array | None = None

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        size = size_of_image(input_shape, cls.axes)
        return {}, output_shape_of(
            find_windows(pool_settings_of(fields, cls.axes), size).output, input_shape[-1], cls.axes
        )

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        images = self._as_images(x)
        y = self._compute(images, out)
        self._x, self._y_shape = images, y.shape
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.cached(self._x)
        dy = self._gradient_as_images(dy, x.dtype)
        dx = np.empty(x.shape, x.dtype) if out is None else out.reshape(x.shape)
        self._spread_gradient(x, dy, self._windows_of(x), dx)
        return self._without_rows(dx)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self._compute(self._as_images(x), out)

    @abstractmethod
    def _pool(self, x: Array, windows: Windows, y: Array) -> None:
        """Compute y from images (batch, height, width, channels)."""

    @abstractmethod
    def _spread_gradient(self, x: Array, dy: Array, windows: Windows, dx: Array) -> None:
        """Compute dx from dy, both images."""

    def _windows_of(self, x: Array) -> Windows:
        return find_windows(self.settings, x.shape[1:3])

    def _compute(self, x: Array, out: Array | None) -> Array:
        windows = named(self.name, lambda: self._windows_of(x))
        shape = (len(x), *windows.output, x.shape[3])
        y = np.empty(shape, x.dtype) if out is None else out.reshape(shape)
        self._pool(x, windows, y)
        return self._without_rows(y)

    def _kernel_settings(self, windows: Windows) -> npt.NDArray[np.int64]:
        return _pool_settings(self.settings, windows.size, self.count_padding)


class MaxPool(Pool):
    """y = the largest number of each window; the padding is never the largest.

    The gradient goes to the first of the largest numbers. A NaN in a window makes its maximum a NaN.
    """

    def _pool(self, x: Array, windows: Windows, y: Array) -> None:
        if kernels.max_pool(x, y, self._kernel_settings(windows)):
            return
        y.fill(-np.inf)
        for inputs, outputs in _taps(windows):
            np.maximum(y[outputs], x[inputs], out=y[outputs])

    def _spread_gradient(self, x: Array, dy: Array, windows: Windows, dx: Array) -> None:
        if kernels.max_pool_backward(x, dy, dx, self._kernel_settings(windows)):
            return
        dx.fill(0)
        y = np.full(dy.shape, -np.inf, x.dtype)
        for inputs, outputs in _taps(windows):
            np.maximum(y[outputs], x[inputs], out=y[outputs])
        left = dy.copy()  # what no position has received yet
        for inputs, outputs in _taps(windows):
            share = left[outputs] * (x[inputs] == y[outputs])
            dx[inputs] += share
            left[outputs] -= share


class AveragePool(Pool):
    """y = the mean of each window, without the padding unless `count_padding` is set."""

    def __init__(
        self,
        pool_size: PerAxis = 2,
        stride: PerAxis | None = None,
        padding: PaddingArgument = "valid",
        count_padding: bool = False,
    ) -> None:
        super().__init__(pool_size, stride, padding)
        self.count_padding = count_padding

    def _pool(self, x: Array, windows: Windows, y: Array) -> None:
        if kernels.average_pool(x, y, self._kernel_settings(windows)):
            return
        y.fill(0)
        for inputs, outputs in _taps(windows):
            y[outputs] += x[inputs]
        y /= self._counts(windows, y.dtype)

    def _spread_gradient(self, x: Array, dy: Array, windows: Windows, dx: Array) -> None:
        if kernels.average_pool_backward(dy, dx, self._kernel_settings(windows)):
            return
        dx.fill(0)
        shares = dy / self._counts(windows, dy.dtype)  # ∂y/∂x = 1 / count for each position of a window
        for inputs, outputs in _taps(windows):
            dx[inputs] += shares[outputs]

    def _counts(self, windows: Windows, dtype: np.dtype[Any]) -> Array:
        """Return the number of positions of each window: (output height, output width, 1)."""
        if self.count_padding:
            return np.full((1, 1, 1), windows.kernel[0] * windows.kernel[1], dtype)
        counts = np.zeros((1, *windows.output, 1), dtype)
        for _, outputs in _taps(windows):
            counts[outputs] += 1
        return counts[0]


class MaxPool1d(MaxPool):
    """Maxima over windows of sequences (batch, length, channels)."""

    axes = 1


class MaxPool2d(MaxPool):
    """Maxima over windows of images (batch, height, width, channels)."""

    axes = 2


class AveragePool1d(AveragePool):
    """Averages over windows of sequences (batch, length, channels)."""

    axes = 1


class AveragePool2d(AveragePool):
    """Averages over windows of images (batch, height, width, channels)."""

    axes = 2


@lru_cache(maxsize=1024)
def _pool_settings(settings: WindowSettings, size: Pair, count_padding: bool) -> npt.NDArray[np.int64]:
    """Return what the kernels need to know of a pool over inputs of this size; see pools.h."""
    windows = find_windows(settings, size)
    pads = (windows.padding[0][0], windows.padding[1][0])
    numbers = np.array([*windows.kernel, *windows.stride, *pads, count_padding], np.int64)
    numbers.flags.writeable = False  # it is shared by all layers with these settings
    return numbers


def pool_settings_of(fields: Mapping[str, Any], axes: int) -> WindowSettings:
    """Return the windows of the pool that a document describes. Raises ShapeError."""
    return _settings("padding", axes, fields["pool_size"], fields["stride"], fields["padding"])


def _settings(
    who: str, axes: int, pool_size: PerAxis, stride: PerAxis | None, padding: PaddingArgument
) -> WindowSettings:
    size = per_axis(pool_size, axes, f"{who}: pool_size")
    pads = padding_of(padding, axes, who)
    if isinstance(pads, tuple) and any(max(pad) >= n for pad, n in zip(pads, size, strict=True)):
        most = ", ".join(str(n - 1) for n in size[2 - axes :])
        msg = f"{who}: expected less than the window on every side, at most {most}"
        raise ShapeError(msg)
    return WindowSettings(axes, size, size if stride is None else per_axis(stride, axes, f"{who}: stride"), pads)


def _taps(windows: Windows) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield, for each position of a window, the inputs there and the outputs whose windows have it in the input."""
    columns = list(_axis_taps(windows, 1))
    for rows in _axis_taps(windows, 0):
        for across in columns:
            yield (slice(None), rows[0], across[0]), (slice(None), rows[1], across[1])


def _axis_taps(windows: Windows, axis: int) -> Iterator[tuple[slice, slice]]:
    """Yield the inputs and the outputs of each tap on one axis, without the taps that meet only padding."""
    stride, padding, size, outputs = (
        windows.stride[axis],
        windows.padding[axis][0],
        windows.size[axis],
        windows.output[axis],
    )
    for tap in range(max(padding - (outputs - 1) * stride, 0), min(windows.kernel[axis], size + padding)):
        offset = tap - padding
        first = max(-(offset // stride), 0)
        last = min((size - 1 - offset) // stride, outputs - 1)
        if first <= last:
            start = first * stride + offset
            yield slice(start, last * stride + offset + 1, stride), slice(first, last + 1)
