"""Layers that add zeros around an input, or cut its edges; each is the other's gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layers.spatial.base import Spatial
from specnet.layers.spatial.windows import AXES, Pair, edges_of, named, output_shape_of, size_of_image

Edges: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]]
"""Numbers of positions at the edges: one for all, one an axis, or two an axis (before and behind)."""


class Resized(Spatial):
    """Base class of layers that change the size of an input, and keep its channels."""

    def __init__(self) -> None:
        super().__init__()
        self._x_shape: ShapeTuple | None = None  # (batch, height, width, channels)
        self._dtype = FLOAT64

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        images = self._as_images(x)
        y = self._compute(images, out)
        self._x_shape, self._y_shape, self._dtype = images.shape, y.shape, y.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x_shape = self.cached(self._x_shape)
        dy = self._gradient_as_images(dy, self._dtype)
        dx = np.empty(x_shape, dy.dtype) if out is None else out.reshape(x_shape)
        self._resize_back(dy, dx)
        return self._without_rows(dx)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self._compute(self._as_images(x), out)

    def _compute(self, x: Array, out: Array | None) -> Array:
        height, width = named(self.name, lambda: self.output_size(x.shape[1:3]))
        shape = (len(x), height, width, x.shape[3])
        y = np.empty(shape, x.dtype) if out is None else out.reshape(shape)
        self._resize(x, y)
        return self._without_rows(y)

    @abstractmethod
    def output_size(self, size: Pair) -> Pair:
        """Return height and width of the output for those of the input. Raises ShapeError."""

    @abstractmethod
    def _resize(self, x: Array, y: Array) -> None:
        """Compute y from images (batch, height, width, channels)."""

    @abstractmethod
    def _resize_back(self, dy: Array, dx: Array) -> None:
        """Compute dx from dy, both images."""


class ZeroPad(Resized):
    """y = x with zeros around it: `padding` numbers, one for all sides, one an axis, or two an axis."""

    def __init__(self, padding: Edges = 1) -> None:
        super().__init__()
        self.padding = edges_of(padding, self.axes, f"{self.name}: padding")

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        size = size_of_image(input_shape, cls.axes)
        return {}, output_shape_of(cls(fields["padding"]).output_size(size), input_shape[-1], cls.axes)

    @property
    def formulas(self) -> dict[str, str]:
        return {
            "y": f"pad(x, {_pad_width(self.padding, self.axes)})",
            "dx": f"dy[{_inside_text(self.padding, self.axes)}]",
        }

    def output_size(self, size: Pair) -> Pair:
        return size[0] + sum(self.padding[0]), size[1] + sum(self.padding[1])

    def _resize(self, x: Array, y: Array) -> None:
        y.fill(0)
        y[inside(self.padding, y)] = x

    def _resize_back(self, dy: Array, dx: Array) -> None:
        dx[...] = dy[inside(self.padding, dy)]


class Crop(Resized):
    """y = x without its edges: `cropping` positions, one number for all sides, one an axis, or two an axis."""

    def __init__(self, cropping: Edges = 1) -> None:
        super().__init__()
        self.cropping = edges_of(cropping, self.axes, f"{self.name}: cropping")

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        size = size_of_image(input_shape, cls.axes)
        return {}, output_shape_of(cls(fields["cropping"]).output_size(size), input_shape[-1], cls.axes)

    @property
    def formulas(self) -> dict[str, str]:
        return {
            "y": f"x[{_inside_text(self.cropping, self.axes)}]",
            "dx": f"pad(dy, {_pad_width(self.cropping, self.axes)})",
        }

    def output_size(self, size: Pair) -> Pair:
        for axis in range(2):
            if sum(self.cropping[axis]) >= size[axis]:
                name = AXES[self.axes][axis + self.axes - 2]
                cut = " + ".join(map(str, self.cropping[axis]))
                msg = f"cropping {cut} leaves nothing of the {name} {size[axis]}; crop at most {size[axis] - 1}"
                raise ShapeError(msg)
        return size[0] - sum(self.cropping[0]), size[1] - sum(self.cropping[1])

    def _resize(self, x: Array, y: Array) -> None:
        y[...] = x[inside(self.cropping, x)]

    def _resize_back(self, dy: Array, dx: Array) -> None:
        dx.fill(0)
        dx[inside(self.cropping, dx)] = dy


class ZeroPad1d(ZeroPad):
    """Zeros before and behind sequences (batch, length, channels)."""

    axes = 1


class ZeroPad2d(ZeroPad):
    """Zeros around images (batch, height, width, channels)."""

    axes = 2


class Crop1d(Crop):
    """Sequences (batch, length, channels) without their ends."""

    axes = 1


class Crop2d(Crop):
    """Images (batch, height, width, channels) without their edges."""

    axes = 2


def inside(edges: tuple[Pair, Pair], x: Array) -> tuple[slice, ...]:
    """Return the index of images without their edges."""
    (top, bottom), (left, right) = edges
    return slice(None), slice(top, x.shape[1] - bottom), slice(left, x.shape[2] - right)


def _pad_width(edges: tuple[Pair, Pair], axes: int) -> str:
    """Return the edges as the second argument of numpy's pad."""
    return str(((0, 0), *edges[2 - axes :], (0, 0)))


def _inside_text(edges: tuple[Pair, Pair], axes: int) -> str:
    """Return the index of an array without its edges: `:, 1:-1, 1:-1`."""
    return ", ".join([":", *(f"{before or ''}:{-behind or ''}" for before, behind in edges[2 - axes :])])
