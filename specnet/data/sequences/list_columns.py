"""Columns of lists in a .parquet file: rows of differing length, whose steps become one array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specnet.data.csv_text import polars
from specnet.data.raw import RawArray, text_array
from specnet.errors import DataError

if TYPE_CHECKING:
    import polars as pl


def are_lists(frame: pl.DataFrame, names: Sequence[str]) -> bool:
    """Return whether the first of these columns has lists."""
    return isinstance(frame[names[0]].dtype, polars().List | polars().Array)


def lists_of(path: Path, frame: pl.DataFrame, names: Sequence[str]) -> tuple[RawArray, RawArray]:
    """Return the steps of all rows, one row behind the other, and the number of steps of each row.

    A column of lists of numbers makes steps of shape (steps,), one of lists of lists (steps, numbers), and several
    columns of lists of numbers (steps, columns). Raises DataError.
    """
    columns, lengths = [], None
    for name in names:
        steps, counts = _flattened(path, frame[name])
        refuse_other_lengths(path, name, lengths, counts)
        columns.append(steps)
        lengths = counts
    assert lengths is not None
    if len(columns) == 1:
        return columns[0], lengths
    for name, steps in zip(names, columns, strict=True):
        if steps.ndim > 1:
            msg = f'{path}: column "{name}": expected lists of numbers beside other columns, got lists of lists'
            raise DataError(msg)
    return np.stack(columns, axis=1), lengths


def refuse_other_lengths(path: Path, name: str, lengths: RawArray | None, others: RawArray) -> None:
    """Check that the lists of a column are as long as those of other columns, if there are any. Raises DataError."""
    if lengths is not None and (lengths != others).any():
        row = int((lengths != others).argmax())
        found = f"expected a list of {lengths[row]}, like the others, got {others[row]}"
        msg = f'{path}: row {row + 1}, column "{name}": {found}'
        raise DataError(msg)


def _flattened(path: Path, column: pl.Series) -> tuple[RawArray, RawArray]:
    """Return the values of all lists of a column, and the length of each."""
    pl = polars()
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        msg = f'{path}: column "{column.name}": expected lists, like the other columns, got {column.dtype}'
        raise DataError(msg)
    _refuse_nulls(path, column, column.is_null(), "a list is missing")
    _refuse_nulls(path, column, column.list.len() == 0, "expected a list of at least one step, got an empty one")
    lengths = column.list.len().to_numpy().astype(np.int64)
    inner = column.explode()
    if not isinstance(inner.dtype, pl.List | pl.Array):
        return _numbers(path, inner, lengths), lengths
    vectors, widths = _flattened_steps(path, inner, lengths)
    return vectors.reshape(len(inner), widths), lengths


def _flattened_steps(path: Path, steps: pl.Series, lengths: RawArray) -> tuple[RawArray, int]:
    """Return the numbers of steps that are lists, and how many each has: the same number everywhere."""
    pl = polars()
    if isinstance(steps.dtype, pl.Array):
        steps = steps.arr.to_list()
    widths = steps.list.len()
    unusable = widths.is_null() | (widths == 0)
    if unusable.any():
        at = int(unusable.arg_max() or 0)
        found = "an empty list" if widths[at] == 0 else "none"
        msg = f'{path}: {_place(lengths, at)}, column "{steps.name}": expected a list of numbers, got {found}'
        raise DataError(msg)
    wrong = widths != widths[0]
    if wrong.any():
        at = int(wrong.arg_max() or 0)
        msg = f'{path}: {_place(lengths, at)}, column "{steps.name}": expected {widths[0]} numbers, got {widths[at]}'
        raise DataError(msg)
    return _numbers(path, steps.explode(), lengths * widths[0], widths[0]), widths[0]


def _numbers(path: Path, values: pl.Series, lengths: RawArray, width: int = 1) -> RawArray:
    pl = polars()
    if values.dtype == pl.String and not values.null_count():
        return text_array(path, values.to_list(), f'a list of column "{values.name}"')
    if not values.dtype.is_numeric() and values.dtype != pl.Boolean:
        msg = f'{path}: column "{values.name}": expected lists of numbers, got {values.dtype}'
        raise DataError(msg)
    if values.null_count():
        at = int(values.is_null().arg_max() or 0) // width
        msg = f'{path}: {_place(lengths // width, at)}, column "{values.name}": a number is missing; leave the row out'
        raise DataError(msg)
    return np.asarray(values.to_numpy())


def _refuse_nulls(path: Path, column: pl.Series, faulty: pl.Series, what: str) -> None:
    if faulty.any():
        row = int(faulty.arg_max() or 0)
        msg = f'{path}: row {row + 1}, column "{column.name}": {what}; leave the row out'
        raise DataError(msg)


def _place(lengths: RawArray, step: int) -> str:
    """Return the place of a step among those of all rows: "row 3, step 2"."""
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, step, side="right"))
    return f"row {row + 1}, step {step - int(ends[row] - lengths[row]) + 1}"
