"""Cells of the CSV tables that specnet writes: text that a spreadsheet would run as a formula is quoted."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The first characters with which spreadsheets begin a formula, or skip to one."""


def csv_cells(cells: Iterable[object]) -> list[str]:
    """Return cells as text; those that begin like a formula and are no number get an apostrophe in front."""
    return [_quoted(str(cell)) for cell in cells]


def cell_text(cell: str) -> str:
    """Return the text of a cell that `csv_cells` has written."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _quoted(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
