"""Arrays as text: on one line, or as grids of aligned columns that stand side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SMALL = 36
"""The numbers of an array with more elements are not shown."""
WIDTH = 100
"""Grids that would make a line longer than this go below the others."""


class Grid(NamedTuple):
    """Lines of text of the same length, with a heading above them."""

    heading: str
    lines: tuple[str, ...]

    @property
    def width(self) -> int:
        """The number of columns, with the heading."""
        return max(map(len, (self.heading, *self.lines)))


def compact(array: npt.NDArray[Any]) -> str:
    """Return an array on one line with at most six digits, [[1, 2.5], [3, 4]]; a large array as its shape."""
    if array.size > SMALL:
        return f"(an array of shape {array.shape})"
    if array.ndim == 0:
        return number(array.item())
    return "[" + ", ".join(compact(np.asarray(part)) for part in array) + "]"


def number(value: Any) -> str:
    """Return a number with at most six digits."""
    text = str(value) if isinstance(value, int) else f"{value:.6g}"
    return "0" if text == "-0" else text


def added(terms: Iterable[str]) -> str:
    """Return terms as a sum: 1 + 0 - 3 / 2."""
    first, *rest = terms
    return first + "".join(f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in rest)


def grid(matrix: npt.NDArray[Any], heading: str = "") -> Grid:
    """Return a matrix with aligned columns, and brackets around each row."""
    cells = [[number(value) for value in row] for row in matrix.tolist()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = (" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return Grid(heading, tuple(f"[{row}]" for row in rows))


def with_signs(grids: Sequence[Grid], signs: Sequence[str]) -> Iterator[str]:
    """Yield the lines of grids of the same height, with a sign between neighbours, in the middle line."""
    height = len(grids[0].lines)
    for index in range(height):
        parts = [grids[0].lines[index]]
        for sign, following in zip(signs, grids[1:], strict=True):
            parts += [sign if index == (height - 1) // 2 else " " * len(sign), following.lines[index]]
        yield " ".join(parts)


def side_by_side(grids: Sequence[Grid]) -> Iterator[str]:
    """Yield the lines of grids below their headings, as many next to each other as fit."""
    rows: list[list[Grid]] = []
    for each in grids:
        if rows and sum(other.width + 3 for other in rows[-1]) + each.width <= WIDTH:
            rows[-1].append(each)
        else:
            rows.append([each])
    for row in rows:
        for parts in zip_longest(*((each.heading, *each.lines) for each in row), fillvalue=""):
            yield "   ".join(part.ljust(each.width) for part, each in zip(parts, row, strict=True)).rstrip()
