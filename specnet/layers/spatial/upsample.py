"""Layers that enlarge sequences and images by a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

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
        rows, columns = self._matrices(x)
        np.einsum("pi,nijc,qj->npqc", rows, x, columns, out=y, optimize=True)

    def _resize_back(self, dy: Array, dx: Array) -> None:
        images, height, width, channels = dx.shape
        if self.interpolation == "nearest":  # each x was repeated, so its gradient is the sum
            dy.reshape(images, height, self.size[0], width, self.size[1], channels).sum(axis=(2, 4), out=dx)
            return
        rows, columns = self._matrices(dx)  # y = rows @ x @ columns.T for each channel
        np.einsum("pi,npqc,qj->nijc", rows, dy, columns, out=dx, optimize=True)

    def _matrices(self, x: Array) -> tuple[Array, Array]:
        return (
            _interpolation(x.shape[1], self.size[0], x.dtype),
            _interpolation(x.shape[2], self.size[1], x.dtype),
        )


class Upsample1d(Upsample):
    """Larger sequences (batch, length, channels)."""

    axes = 1


class Upsample2d(Upsample):
    """Larger images (batch, height, width, channels)."""

    axes = 2


@lru_cache(maxsize=256)
def _interpolation(size: int, factor: int, dtype: npt.DTypeLike) -> Array:
    """Return the matrix (size * factor, size) that interpolates linearly along one axis."""
    positions = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    below = np.minimum(positions.astype(np.int64), max(size - 2, 0))
    share = positions - below
    matrix = np.zeros((size * factor, size), dtype)
    rows = np.arange(size * factor)
    matrix[rows, below] = 1 - share
    matrix[rows, np.minimum(below + 1, size - 1)] += share.astype(dtype)
    return matrix
