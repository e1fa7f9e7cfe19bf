"""What explanations of windows have in common: parts of arrays as text and as numbers, and which positions meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from specnet.inspection.explanations.grids import SMALL, compact, grid, side_by_side
from specnet.inspection.trace import AnyArray
from specnet.layers.spatial.windows import Windows

Positions: TypeAlias = npt.NDArray[np.intp]
Index: TypeAlias = tuple[int | Positions, ...]
"""The index of a part of an array with four axes: a position or several of each."""
Place: TypeAlias = tuple[int, ...]
"""The index of one element of an array with four axes."""


class Axis(NamedTuple):
    """The windows along one axis: output p has at tap t of its window the input p * stride + t * dilation - before."""

    size: int
    output: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @property
    def has_padding(self) -> bool:
        """Whether a window reaches beyond the inputs."""
        last = (self.output - 1) * self.stride + (self.kernel - 1) * self.dilation - self.before
        return self.before > 0 or last >= self.size

    def of_window(self, window: int) -> tuple[Positions, Positions]:
        """Return the inputs in a window, and the taps at which they are."""
        taps = np.arange(self.kernel)
        inputs = window * self.stride + taps * self.dilation - self.before
        inside = (inputs >= 0) & (inputs < self.size)
        return inputs[inside], taps[inside]

    def of_first_tap(self) -> tuple[Positions, Positions]:
        """Return the inputs at the first tap, and the windows that have them there."""
        windows = np.arange(self.output)
        inputs = windows * self.stride - self.before
        inside = (inputs >= 0) & (inputs < self.size)
        return inputs[inside], windows[inside]

    def of_input(self, position: int) -> tuple[Positions, Positions]:
        """Return the windows that contain an input, and the taps at which they have it."""
        taps = np.arange(self.kernel)[::-1]
        windows, rest = np.divmod(position + self.before - taps * self.dilation, self.stride)
        inside = (rest == 0) & (windows >= 0) & (windows < self.output)
        return windows[inside], taps[inside]


def axes_of(windows: Windows) -> tuple[Axis, Axis]:
    """Return the windows along rows and along columns."""
    rows, columns = (
        Axis(
            windows.size[axis],
            windows.output[axis],
            windows.kernel[axis],
            windows.stride[axis],
            windows.dilation[axis],
            windows.padding[axis][0],
        )
        for axis in range(2)
    )
    return rows, columns


class Named(NamedTuple):
    """An array with four axes, whose parts have texts in numpy's notation.

    `rows` is its axis of rows, which the array of a layer over sequences does not have: there its size is 1, and texts
    leave it out.
    """

    name: str
    array: AnyArray
    is_sequence: bool
    rows: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of rows and of columns."""
        rows, columns = self.array.shape[self.rows : self.rows + 2]
        return rows, columns

    def text(self, index: Index) -> str:
        """Return the text of a part: x[0, 0:3, 0:3, :]."""
        parts = [_span(part, size) for part, size in zip(index, self.array.shape, strict=True)]
        if self.is_sequence:
            del parts[self.rows]
        return f"{self.name}[{', '.join(parts)}]"

    def matrices(self, index: Index) -> AnyArray:
        """Return a part as float64 matrices over rows and columns: (others, rows, columns)."""
        part = self.array[np.ix_(*map(np.atleast_1d, index))].astype(np.float64)
        matrices = np.moveaxis(part, (self.rows, self.rows + 1), (2, 3))
        return matrices.reshape(matrices.shape[0] * matrices.shape[1], *matrices.shape[2:])

    def lines(self) -> Iterator[str]:
        """Yield the array as a grid of rows and columns for each index of the other axes; a large one as its shape."""
        if not 0 < self.array.size <= SMALL:
            yield f"{self.name} = {compact(self.array.squeeze(self.rows) if self.is_sequence else self.array)}"
            return
        across = [np.arange(size) for size in self.size]
        before, behind = self.array.shape[: self.rows], self.array.shape[self.rows + 2 :]
        indices = [(*place[: self.rows], *across, *place[self.rows :]) for place in np.ndindex(*before, *behind)]
        yield from side_by_side([grid(self.matrices(index)[0], self.text(index)) for index in indices])


def images(name: str, array: AnyArray) -> Named:
    """Return an array (batch, height, width, channels) or (batch, length, channels) with its name."""
    is_sequence = array.ndim == 3
    return Named(name, array[:, np.newaxis] if is_sequence else array, is_sequence)


def first_and_largest(array: AnyArray) -> Iterator[tuple[Place, str]]:
    """Yield the index of the first element and that of the largest one, unless they are the same, each with a word."""
    if not array.size:
        return
    largest = tuple(map(int, np.unravel_index(array.argmax(), array.shape)))
    first = (0,) * array.ndim
    yield first, "first" if largest != first else "first and the largest"
    if largest != first:
        yield largest, "largest"


def _span(part: int | Positions, size: int) -> str:
    """Return positions at equal distances as an index: 3, 0:3, 0:5:2, 2::-1; all of an axis as a colon."""
    if isinstance(part, (int, np.integer)):
        return str(part)
    if len(part) == 1:
        return str(part[0])
    first, step = int(part[0]), int(part[1] - part[0])
    if len(part) == size and step == 1:
        return ":"
    stop = int(part[-1]) + (1 if step > 0 else -1)
    return f"{first}:{stop if stop >= 0 else ''}" + ("" if step == 1 else f":{step}")
