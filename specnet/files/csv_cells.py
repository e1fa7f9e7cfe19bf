"""Cells of CSV tables: which are numbers, and which text a spreadsheet would run as a formula."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


_NOT_FINITE = ("-inf", "-nan", "+inf", "+nan")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The first characters with which spreadsheets begin a formula, or skip to one."""


def is_number(text: str) -> bool:
    """Return whether text is a finite decimal number, as files hold it."""
    return _NUMBER.fullmatch(text) is not None


def csv_cells(cells: Iterable[object]) -> list[str]:
    """Return cells as text; those that begin like a formula and are no number get an apostrophe in front."""
    return [_quoted(str(cell)) for cell in cells]


def cell_text(cell: str) -> str:
    """Return the text of a cell that `csv_cells` has written."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _quoted(text: str) -> str:
    is_harmless = not text.startswith(_FORMULA) or is_number(text) or text in _NOT_FINITE
    return text if is_harmless else f"'{text}"
