"""Layers that enlarge sequences and images by a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import SpecnetError
from specnet.layers.spatial.pad import Resized
from specnet.layers.spatial.windows import Pair, PerAxis, output_shape_of, per_axis, size_of_image


class Upsample(Resized):
    """y = x, `size` times as large on each axis, by repeating positions or by interpolating between them linearly.

    Linear interpolation takes positions as the centres of pixels, and the outermost ones also beyond them, as
    `align_corners=False` does in torch: y[p] lies at (p + 1/2) / size - 1/2 of x.
    """

    def __init__(self, size: PerAxis = 2, interpolation: Literal["nearest", "linear", "bilinear"] = "nearest") -> None:
        super().__init__()
        self.size = per_axis(size, self.axes, f"{self.name}: size")
        linear = "linear" if self.axes == 1 else "bilinear"
        if interpolation not in ("nearest", linear):
            msg = f'{self.name}: expected the interpolation "nearest" or "{linear}", got {interpolation!r}'
            raise SpecnetError(msg)
        self.interpolation = interpolation

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        size = size_of_image(input_shape, cls.axes)
        return {}, output_shape_of(cls(fields["size"]).output_size(size), input_shape[-1], cls.axes)

    @property
    def formulas(self) -> dict[str, str]:
        if self.interpolation != "nearest" or self._x_shape is None:
            return {}
        images, *sizes, channels = self._x_shape
        factors = self.size[2 - self.axes :]
        repeated = "".join(f".repeat({factor}, axis={axis})" for axis, factor in enumerate(factors, 1))
        parts = [number for pair in zip(sizes, factors, strict=True) for number in pair]
        summed = 2 if self.axes == 1 else (2, 4)
        return {"y": f"x{repeated}", "dx": f"dy.reshape({(images, *parts, channels)}).sum(axis={summed})"}

    def output_size(self, size: Pair) -> Pair:
        return size[0] * self.size[0], size[1] * self.size[1]

    def _resize(self, x: Array, y: Array) -> None:
        if self.interpolation == "nearest":
            images, height, width, channels = x.shape
            y.reshape(images, height, self.size[0], width, self.size[1], channels)[...] = x[:, :, None, :, None]
            return
        rows = _interpolate(x, self.size[0], axis=1)
        y[...] = _interpolate(rows, self.size[1], axis=2)

    def _resize_back(self, dy: Array, dx: Array) -> None:
        images, height, width, channels = dx.shape
        if self.interpolation == "nearest":  # each x was repeated, so its gradient is the sum
            dy.reshape(images, height, self.size[0], width, self.size[1], channels).sum(axis=(2, 4), out=dx)
            return
        rows = _interpolate_back(dy, self.size[1], width, axis=2)
        dx[...] = _interpolate_back(rows, self.size[0], height, axis=1)


class Upsample1d(Upsample):
    """Larger sequences (batch, length, channels)."""

    axes = 1


class Upsample2d(Upsample):
    """Larger images (batch, height, width, channels)."""

    axes = 2


class _Positions(NamedTuple):
    """Where each output lies between two inputs: y = x[below] * (1 - share) + x[behind] * share."""

    below: npt.NDArray[np.int64]
    behind: npt.NDArray[np.int64]
    share: Array


def _positions(size: int, factor: int, axis: int, dtype: np.dtype[Any]) -> _Positions:
    exact = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    below = exact.astype(np.int64)
    share = (exact - below).astype(dtype).reshape(-1, *[1] * (3 - axis))
    return _Positions(below, np.minimum(below + 1, size - 1), share)


def _interpolate(x: Array, factor: int, axis: int) -> Array:
    """Return images, `factor` times as large on one axis."""
    if factor == 1:
        return x
    below, behind, share = _positions(x.shape[axis], factor, axis, x.dtype)
    y = x.take(below, axis)
    y *= 1 - share
    y += x.take(behind, axis) * share
    return y


def _interpolate_back(dy: Array, factor: int, size: int, axis: int) -> Array:
    """Return the gradient of `_interpolate`: each x receives its shares of the outputs beside it, all adjacent."""
    if factor == 1:
        return dy
    below, behind, share = _positions(size, factor, axis, dy.dtype)
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype)
    for sources, weights in ((below, 1 - share), (behind, share)):
        receivers, starts = np.unique(sources, return_index=True)
        dx.swapaxes(axis, 0)[receivers] += np.add.reduceat(dy * weights, starts, axis).swapaxes(axis, 0)
    return dx
