"""Where the windows of convolutions and pools lie, and the shapes that follow.

A layer over a sequence computes as one over images of height 1, so everything here has two axes: rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import ShapeError, SpecnetError

T = TypeVar("T")
Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = Literal["valid", "same"] | tuple[Pair, Pair]
PerAxis: TypeAlias = int | Sequence[int]
"""A number for all axes, or one for each."""
PaddingArgument: TypeAlias = Literal["valid", "same"] | int | Sequence[int] | Sequence[Sequence[int]]
"""No padding, padding that keeps the size with a stride of 1, or numbers of zeros: one, one an axis, or two an axis."""

AXES = {1: ("length",), 2: ("height", "width")}


class WindowSettings(NamedTuple):
    """What a layer says of its windows, for rows and columns; a layer over sequences (1 axis) has one row."""

    axes: int
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Windows:
    """Windows over inputs of one size: `output` of them, with `kernel` positions that are `dilation` apart.

    The window of output p begins at p * stride - padding[0]. `geometry` is what the kernels need to know of it.
    """

    size: Pair
    output: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]
    groups: int
    geometry: npt.NDArray[np.int64]

    @property
    def padded(self) -> Pair:
        """Height and width of the input with its padding."""
        (top, bottom), (left, right) = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right


@lru_cache(maxsize=1024)
def find_windows(settings: WindowSettings, size: Pair) -> Windows:
    """Return the windows over inputs of this size. Raises ShapeError if not even one fits.

    "same" has ceil(size / stride) windows, with an odd zero behind the input, as in Keras.
    """
    axes, kernel, stride, padding, dilation, groups = settings
    pads: list[Pair] = []
    output: list[int] = []
    for axis in range(2):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        if padding == "same":
            windows = -(-size[axis] // stride[axis])
            zeros = max((windows - 1) * stride[axis] + span - size[axis], 0)
            pads.append((zeros // 2, zeros - zeros // 2))
        else:
            pads.append((0, 0) if padding == "valid" else padding[axis])
        room = size[axis] + sum(pads[axis]) - span
        if room < 0:
            name = AXES[axes][axis + axes - 2]
            raise ShapeError(_too_small(name, size[axis], kernel[axis], dilation[axis], pads[axis]))
        output.append(room // stride[axis] + 1)
    geometry = np.array([*stride, *dilation, pads[0][0], pads[1][0], groups], np.int64)
    geometry.flags.writeable = False  # it is shared by all layers with these settings
    return Windows(size, (output[0], output[1]), kernel, stride, dilation, (pads[0], pads[1]), groups, geometry)


def _too_small(name: str, size: int, kernel: int, dilation: int, pads: Pair) -> str:
    span, room = dilation * (kernel - 1) + 1, size + sum(pads)
    window = f"{span} ({kernel} positions, dilation {dilation})" if dilation > 1 else str(span)
    padded = f" with {sum(pads)} of padding" if sum(pads) else ""
    return (
        f"the {name} {size}{padded} is less than the window of {window}; "
        f'at most {(room - 1) // dilation + 1} positions fit, or use padding "same"'
    )


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)


def _entries(value: Any, axes: int) -> list[Any]:
    """Return one entry for each axis: those of a sequence, or the same number for all."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return list(value)
    return [value] * axes


def per_axis(value: PerAxis, axes: int, who: str, least: int = 1) -> Pair:
    """Return a setting of at least `least` for rows and columns. Raises SpecnetError.

    A sequence has one axis; its rows get `least`, with which a row stays as it is.
    """
    numbers = _entries(value, axes)
    if len(numbers) != axes or not all(_is_count(number, least) for number in numbers):
        what = "a positive integer" if least else "a non-negative integer"
        msg = f"{who}: expected {what}{' for each of 2 axes' if axes == 2 else ''}, got {value!r}"
        raise SpecnetError(msg)
    return (least, int(numbers[0])) if axes == 1 else (int(numbers[0]), int(numbers[1]))


def padding_of(value: PaddingArgument, axes: int, who: str) -> Padding:
    """Return the padding for rows and columns; a sequence has one row without padding. Raises SpecnetError."""
    if isinstance(value, str) and value in ("valid", "same"):
        return "same" if value == "same" else "valid"
    try:
        return edges_of(value, axes, who)
    except SpecnetError:
        msg = f'{who}: expected "valid", "same", or numbers of zeros: one, one an axis, or two an axis, got {value!r}'
        raise SpecnetError(msg) from None


def edges_of(value: Any, axes: int, who: str) -> tuple[Pair, Pair]:
    """Return the numbers of positions before and behind rows and columns. Raises SpecnetError."""
    entries = [_entries(entry, 2) for entry in _entries(value, axes)]
    if len(entries) != axes or not all(len(entry) == 2 and all(_is_count(n, 0) for n in entry) for entry in entries):
        msg = f"{who}: expected numbers of positions: one, one an axis, or two an axis, got {value!r}"
        raise SpecnetError(msg)
    pairs = [(int(before), int(behind)) for before, behind in entries]
    return ((0, 0), pairs[0]) if axes == 1 else (pairs[0], pairs[1])


def size_of_image(shape: ShapeTuple, axes: int) -> Pair:
    """Return (height, width) of one input (length, channels) or (height, width, channels). Raises ShapeError."""
    if len(shape) != axes + 1:
        expected = f"({', '.join(AXES[axes])}, channels)"
        hint = ""
        if len(shape) == axes:
            hint = f'; put {{"type": "reshape", "shape": {[*shape, 1]}}} before it if there is one channel'
        msg = f"the input has shape {shape}, expected {expected}{hint}"
        raise ShapeError(msg)
    return (1, shape[0]) if axes == 1 else (shape[0], shape[1])


def output_shape_of(size: Pair, channels: int, axes: int) -> ShapeTuple:
    """Return the shape of one output of this size."""
    return (*size[2 - axes :], channels)


def named(name: str, find: Callable[[], T]) -> T:
    """Return what `find` does, with the layer's name in front of the message of a ShapeError."""
    try:
        return find()
    except ShapeError as error:
        msg = f"{name}: {error}"
        raise ShapeError(msg) from None
