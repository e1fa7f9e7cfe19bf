"""Formulas with numbers filled in: the formula, the same with the arrays that fit a line, and the result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.inspection.explanations.grids import SMALL, compact, number
from specnet.inspection.explanations.windows import images

IMAGES = 4
"""The number of axes of images, (batch, height, width, channels): they are shown as grids, not on one line."""
WIDEST_VECTOR = 8
"""Within an equation, the numbers of vectors with more elements are not shown."""


def formula_lines(name: str, formula: str | None, arrays: Mapping[str, npt.NDArray[Any]], result: Any) -> Iterator[str]:
    """Yield the lines `y = x @ weight`, the formula with numbers, and the result."""
    margin = " " * len(name)
    if formula is None:
        if name == "y":
            yield from array_lines("x", arrays["x"])
        yield from array_lines(name, np.asarray(result))
        return
    yield f"{name} = {formula}"
    numbers = _filled(formula, {each: compact(array) for each, array in arrays.items() if _fits_a_line(array)})
    if numbers != formula:
        yield f"{margin} = {numbers}"
    if np.ndim(result) == IMAGES:
        yield from images(name, result).lines()
    else:
        yield f"{margin} = {compact(np.asarray(result))}"


def array_lines(name: str, array: npt.NDArray[Any]) -> Iterator[str]:
    """Yield images as grids, and other arrays on one line."""
    if array.ndim == IMAGES:
        yield from images(name, array).lines()
    else:
        yield f"{name} = {compact(array)}"


class Equations:
    """Writes equations one after the other; each may refer to the targets of those before it, and to given values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._texts: dict[str, str] = {}
        for name, value in values.items():
            self.know(name, value)

    def know(self, name: str, value: Any) -> None:
        """Fill in this value for a name in the following equations, unless it is a long vector."""
        if np.size(value) <= WIDEST_VECTOR:
            self._texts[name] = text_of(value)

    def write(self, target: str, formula: str, value: Any, between: str = "") -> Iterator[str]:
        """Yield the formula, the formula with numbers, the line `between`, and the value; equal lines only once."""
        margin = " " * len(target)
        yield f"{target} = {formula}"
        lines = (_filled(formula, self._texts), between, text_of(value))
        yield from (f"{margin} = {line}" for line in dict.fromkeys(lines) if line not in ("", formula))
        self.know(target, value)


def text_of(value: Any) -> str:
    """Return a number, or a vector or matrix on one line."""
    return compact(np.asarray(value)) if np.ndim(value) else number(float(value))


def _filled(formula: str, texts: Mapping[str, str]) -> str:
    """Return a formula with texts for names; a name is not the beginning of a longer one, nor of name[0]."""
    names = "|".join(re.escape(name) for name in sorted(texts, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])({names})(?![\w])", lambda match: texts[match[1]], formula) if names else formula


def _fits_a_line(array: npt.NDArray[Any]) -> bool:
    return array.size <= SMALL and array.ndim != IMAGES
