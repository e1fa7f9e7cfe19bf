"""Choose the columns of a table that a new model predicts from, and what to fill in for their missing values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from specnet.arrays.frames import canonical
from specnet.data.raw import RawArray, pick
from specnet.data.tables import Table, numbers_of, open_table, refuse_commas, rows_of
from specnet.document.messages import describe
from specnet.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_ROW_NUMBERS = (
    "",
    "#",
    "id",
    "index",
    "n",
    "no",
    "nr",
    "row",
    "row_id",
    "row_number",
    "rowid",
    "rownames",
    "unnamed: 0",
)
"""Names, in lower case, of columns that are left out if they only count the rows."""


_NAMELESS = "the column without a name"


class ChosenColumns(NamedTuple):
    """The inputs and targets of a table, the names of the input columns, and what to fill in for missing values."""

    inputs: RawArray
    targets: RawArray
    names: tuple[str, ...]
    fill: dict[str, float]


def choose_columns(source: Path, target: str, inputs: Sequence[str] | str | None, notes: list[str]) -> ChosenColumns:
    """Choose the numeric columns of a table that say something, or take `inputs`; add notes on what is left out.

    Raises DataError.
    """
    table = open_table(source, note=lambda text: notes.append(text.removeprefix(f"{source}: ")))
    target = pick(source, canonical(target), table.frame.columns, "column")
    refuse_commas(source, table.frame[target])
    if inputs is None:
        names = _useful_columns(table, target, notes)
    else:
        names = list(map(canonical, [inputs] if isinstance(inputs, str) else inputs))
    fill = _medians(table, [name for name in names if name in table.frame.columns], notes)
    rows = rows_of(table, names, target, fill=fill or None)
    assert rows.targets is not None
    return ChosenColumns(rows.inputs, rows.targets, tuple(names), fill)


def _medians(table: Table, names: list[str], notes: list[str]) -> dict[str, float]:
    """Return the median of each input column if any value is missing: another file may miss values elsewhere."""
    columns = {name: numbers_of(table.frame[name]).fill_nan(None) for name in names}
    counts = {name: count for name, column in columns.items() if (count := column.null_count())}
    if not counts:
        return {}
    rows = ", ".join(f"{name} ({count} rows)" for name, count in counts.items())
    notes.append(f"missing values are filled with the column's median: {rows}")
    medians = {name: column.median() for name, column in columns.items()}
    return {name: median for name, median in medians.items() if isinstance(median, float)}


def _useful_columns(table: Table, target: str, notes: list[str]) -> list[str]:
    """Return the columns of numbers that vary and do not count the rows."""
    text, constant, counting, names = [], [], [], []
    for column in table.frame.iter_columns():
        if column.name == target:
            continue
        refuse_commas(table.path, column)
        numbers = numbers_of(column)
        if numbers.null_count() > column.null_count() or numbers.null_count() == len(column):
            text.append(_text_column(column, numbers))
        elif numbers.n_unique() == 1:
            constant.append(column.name or _NAMELESS)
        elif _counts_rows(column.name, numbers):
            counting.append(column.name or _NAMELESS)
        else:
            names.append(column.name)
    reasons = {"are not numbers": text, "are the same in every row": constant, "only count the rows": counting}
    notes += [f"left out, because they {reason}: {', '.join(found)}" for reason, found in reasons.items() if found]
    if not names:
        msg = f"{table.path}: there is no column of varying numbers to predict from"
        raise DataError(msg)
    return names


def _counts_rows(name: str, numbers: pl.Series) -> bool:
    """Return whether a column named like a row number holds consecutive integers, in any order."""
    if name.lower() not in _ROW_NUMBERS or numbers.null_count():
        return False
    return bool((numbers.sort().diff().drop_nulls() == 1).all())


def _text_column(column: pl.Series, numbers: pl.Series) -> str:
    """Return a text column's name; if at least 90% are numbers, also the first value that is not a number."""
    not_numbers = numbers.is_null() & column.is_not_null()
    if not 0 < not_numbers.sum() <= len(column) / 10:
        return column.name or _NAMELESS
    row = int(not_numbers.arg_max() or 0)
    return f"{column.name} (row {row + 1} is {describe(column[row])})"
