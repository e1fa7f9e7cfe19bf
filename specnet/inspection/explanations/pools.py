"""Pools: an output as the maximum or the mean of its window, and an element of dx as the sum of its shares of dy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from specnet.inspection.explanations.grids import SMALL, added, number
from specnet.inspection.explanations.windows import Axis, Index, Named, Place, axes_of, first_and_largest, images
from specnet.inspection.trace import LayerTrace
from specnet.layers.spatial.pool import pool_settings_of
from specnet.layers.spatial.windows import find_windows


def pool_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield x, the first and the largest output as the maximum or the mean of a window, and y."""
    pool, y = _Pool.of(layer), images("y", layer.y)
    yield from pool.x.lines()
    yield ""
    for place, word in first_and_largest(y.array):
        window = pool.window(place)
        values = pool.x.matrices(window).reshape(-1).tolist()
        yield f"The {word} output:"
        if pool.is_maximum:
            formula, numbers = f"{pool.x.text(window)}.max()", f"max({', '.join(map(number, values))})"
        else:
            count = pool.count(place)
            formula, numbers = f"{pool.x.text(window)}.sum() / {count}", f"({added(map(number, values))}) / {count}"
        yield from _lines(y, place, formula, numbers if len(values) <= SMALL else f"that of {len(values)} numbers")
    yield from y.lines()


def pool_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield dy, an element of dx as the sum of its shares of dy, and dx."""
    assert layer.dy is not None
    assert layer.dx is not None
    pool, dy, dx = _Pool.of(layer), images("dy", layer.dy), images("dx", layer.dx)
    yield from dy.lines()
    yield ""
    if dy.array.size and dx.array.size:
        if pool.is_maximum:
            yield "Each dy goes to the first maximum of its window; one that receives some:"
            place = pool.first_maximum((0, 0, 0, 0))
        else:
            yield "Each dy is divided among the positions of its window; one in the middle receives:"
            place = (0, dx.size[0] // 2, dx.size[1] // 2, 0)
        shares = [(dy.text(window), float(dy.array[window]), divisor) for window, divisor in pool.shares(place)]
        formula = " + ".join(text + (f" / {divisor}" if divisor > 1 else "") for text, _, divisor in shares)
        numbers = [number(value) + (f" / {divisor}" if divisor > 1 else "") for _, value, divisor in shares]
        if 0 < len(shares) <= SMALL:
            yield from _lines(dx, place, formula, added(numbers))
        else:
            yield from _lines(dx, place, f"{len(shares)} shares of dy", "their sum")
    yield from dx.lines()


@dataclass(frozen=True)
class _Pool:
    """The input of a pool and its windows."""

    x: Named
    rows: Axis
    columns: Axis
    is_maximum: bool
    counts_padding: bool

    @classmethod
    def of(cls, layer: LayerTrace) -> _Pool:
        x, fields = images("x", layer.x), layer.fields
        settings = pool_settings_of(fields, 1 if x.is_sequence else 2)
        rows, columns = axes_of(find_windows(settings, x.size))
        return cls(x, rows, columns, layer.type.startswith("max_pool"), fields.get("count_padding", False))

    def window(self, place: Place) -> Index:
        """Return the part of x in the window of an output."""
        n, row, column, c = place
        return n, self.rows.of_window(row)[0], self.columns.of_window(column)[0], c

    def count(self, place: Place) -> int:
        """Return the number by which the sum over the window of an output is divided."""
        if self.counts_padding:
            return self.rows.kernel * self.columns.kernel
        return self.x.matrices(self.window(place)).size

    def first_maximum(self, place: Place) -> Place:
        """Return the place in x of the first maximum in the window of an output."""
        matrix = self.x.matrices(self.window(place))[0]
        row, column = np.unravel_index(matrix.argmax(), matrix.shape)
        n, window_row, window_column, c = place
        return n, int(self.rows.of_window(window_row)[0][row]), int(self.columns.of_window(window_column)[0][column]), c

    def shares(self, place: Place) -> Iterator[tuple[Place, int]]:
        """Yield the outputs that pass their gradient on to an element of x, and by what it is divided."""
        n, row, column, c = place
        for window in product(self.rows.of_input(row)[0].tolist(), self.columns.of_input(column)[0].tolist()):
            output = (n, *window, c)
            if not self.is_maximum:
                yield output, self.count(output)
            elif self.first_maximum(output) == place:
                yield output, 1


def _lines(target: Named, place: Place, formula: str, numbers: str) -> Iterator[str]:
    """Yield an element as a formula, with the numbers, and its value."""
    name = target.text(place)
    margin = " " * len(name)
    yield f"{name} = {formula}"
    value = number(float(target.array[place]))
    yield from (f"{margin} = {text}" for text in dict.fromkeys((numbers, value)))
    yield ""
