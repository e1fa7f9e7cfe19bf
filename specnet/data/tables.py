"""Read tables with named columns, .csv and .parquet, with polars (the extra `data`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnet.arrays.frames import canonical
from specnet.data.csv_text import MISSING, polars, read_csv
from specnet.data.raw import (
    Columns,
    Fill,
    Note,
    RawArray,
    RawRows,
    guarded,
    ignore,
    kind_of,
    pick,
    refuse_bomb,
    text_array,
)
from specnet.data.sequences.list_columns import are_lists, lists_of, refuse_other_lengths
from specnet.document.messages import describe
from specnet.errors import DataError
from specnet.files.regular import check_regular

if TYPE_CHECKING:
    import polars as pl

_REMEDIES = {
    "more fields": "; a row has more fields than the header: put text that contains a comma in quotes",
    "utf-8": "; save it as UTF-8",
}


_COMMA = r"^[+-]?\d+(,\d+)+(\.\d*)?$"


_LEADING_ZERO = r"^0\d"
"""Text of digits that is a name: numbers would lose the zero, and two names could become one."""


class Table(NamedTuple):
    """A whole table and where it comes from; the columns of a .csv are text."""

    path: Path
    frame: pl.DataFrame


def open_table(path: Path, missing: Sequence[str] | None = None, note: Note = ignore) -> Table:
    """Read a whole table; in a .csv, the values of `missing` (default: MISSING) are missing. Raises DataError."""
    pl = polars()
    missing = MISSING if missing is None else missing
    try:
        if kind_of(path) == "parquet":
            frame = guarded(path, lambda: _read_parquet(path))
        else:
            frame = guarded(path, lambda: read_csv(path, missing, note))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        lines = str(error).strip().splitlines()
        detail = lines[0] if lines else type(error).__name__
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in detail), "")
        msg = f"{path}: cannot be read as a table: {detail}{remedy}"
        raise DataError(msg) from None
    frame = _with_canonical_names(path, frame)
    if not len(frame):
        msg = f"{path}: there are no rows below the header"
        raise DataError(msg)
    return Table(path, frame)


def _read_parquet(path: Path) -> pl.DataFrame:
    pl = polars()
    check_regular(path)
    lazy = pl.scan_parquet(path, glob=False)
    rows = lazy.select(pl.len()).collect().item()
    # 16 bytes is the size of polars' largest simple value; numbers become float64
    sizes = [8 if dtype.is_numeric() or dtype == pl.Boolean else 16 for dtype in lazy.collect_schema().dtypes()]
    refuse_bomb(path, rows * sum(sizes))
    return lazy.collect()


def _with_canonical_names(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with names that are equal if they look equal; refuse two columns of one name."""
    names: list[str] = []
    for name in frame.columns:
        plain = canonical(name)
        if plain in names:
            msg = f'{path}: the column "{plain}" appears twice in the header'
            raise DataError(msg)
        names.append(plain)
    frame.columns = names
    return frame


def rows_of(
    table: Table,
    inputs: Columns = None,
    targets: Columns = None,
    weights: str | None = None,
    *,
    beside: Sequence[str] = (),
    fill: Fill = None,
    text_targets: bool = False,
    text_inputs: bool = False,
    shared: bool = False,
) -> RawRows:
    """Return columns by name; with `inputs` None, all columns except targets, weights and `beside`. Raises DataError.

    A single target column may be text (class names), and stays text with `text_targets` though it looks like numbers;
    with `text_inputs` the one input column is text. Other columns are numbers, or in a .parquet file lists. A missing
    value is an error that names row and column, unless `fill` replaces it: a number, or a number for each column. With
    `shared`, a column may be an input and a target. Rows are counted as in the file.
    """
    path, columns = table.path, table.frame.columns
    target_names, weight_names, beside_names = (
        tuple(map(canonical, _column_names(names))) for names in (targets, weights, beside)
    )
    excluded = (*target_names, *weight_names, *beside_names)
    input_names = tuple(map(canonical, _column_names(inputs))) or tuple(n for n in columns if n not in excluded)
    filled = fill if fill is None or isinstance(fill, float | int) else {canonical(k): v for k, v in fill.items()}
    for name in (*target_names, *weight_names, *input_names, *(filled if isinstance(filled, Mapping) else ())):
        pick(path, name, columns, "column")
    both = [name for name in input_names if name in weight_names or (name in target_names and not shared)]
    if both:
        msg = f'{path}: the column "{both[0]}" is both an input and a target or weight; remove it from the inputs'
        raise DataError(msg)
    if not input_names:
        msg = f"{path}: there are no columns for the inputs besides {', '.join(excluded)}"
        raise DataError(msg)
    text = x = lengths = None
    if text_inputs:
        x, text = np.empty(0), _read_text(table, input_names)
    elif are_lists(table.frame, input_names):
        x, lengths = lists_of(path, table.frame, input_names)
    else:
        x = _read_matrix(table, input_names, filled)
    y = None
    if target_names and are_lists(table.frame, target_names):
        if lengths is None:
            msg = f'{path}: column "{target_names[0]}": has lists, which are targets only of inputs that are lists'
            raise DataError(msg)
        y, target_lengths = lists_of(path, table.frame, target_names)
        refuse_other_lengths(path, target_names[0], lengths, target_lengths)
    elif len(target_names) == 1:
        y = _read_target(table, target_names[0], as_text=text_targets)
    elif target_names:
        y = np.stack([_read_numbers(table, name, None, "the target") for name in target_names], axis=1)
    w = _read_numbers(table, weight_names[0], None) if weight_names else None
    return RawRows(x, y, w, input_names, lengths, text)


def _column_names(columns: Columns) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns or ())


def numbers_of(column: pl.Series) -> pl.Series:
    """Return a column as Float64, true and false as 1 and 0; null where it is missing or no number."""
    pl = polars()
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        readable = column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)
        return column.cast(pl.Float64, strict=False) if readable else pl.Series(column.name, [None] * len(column))
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        words = column.str.to_lowercase()
        if (words.is_null() | words.is_in(["true", "false"])).all():
            return (words == "true").cast(pl.Float64)
    return numbers


def refuse_commas(path: Path, column: pl.Series) -> None:
    """Name the cause if a column is text because its numbers have commas. Raises DataError."""
    if column.dtype == polars().String and column.str.contains(_COMMA).sum() > len(column) / 2:
        first = column.filter(column.str.contains(_COMMA))[0]
        remedy = "write decimal points, and no thousands separators"
        msg = f'{path}: column "{column.name}": its numbers have commas ("{first}"); {remedy}'
        raise DataError(msg)


def _read_text(table: Table, names: Sequence[str]) -> list[str]:
    """Return a column of text, without missing values."""
    if len(names) > 1:
        listed = ", ".join(names)
        msg = f"{table.path}: the model's tokenizer takes one column of text, got {listed}; name it under inputs"
        raise DataError(msg)
    column = table.frame[names[0]].cast(polars().String, strict=False)
    _refuse_missing(table.path, column, "text")
    return column.to_list()


def _read_matrix(table: Table, names: Sequence[str], fill: Fill) -> RawArray:
    values = np.empty((len(table.frame), len(names)))
    for index, name in enumerate(names):
        replacement = fill.get(name) if isinstance(fill, Mapping) else fill
        values[:, index] = _read_numbers(table, name, replacement)
    return values


def _read_target(table: Table, name: str, *, as_text: bool) -> RawArray:
    """Return a target column as numbers if it holds nothing else, else as text."""
    pl = polars()
    column = table.frame[name]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        _refuse_missing(table.path, column, "the target")
        refuse_commas(table.path, column)
        if as_text or numbers_of(column).null_count() or column.str.contains(_LEADING_ZERO).any():
            return text_array(table.path, column.to_list(), f'column "{name}"')
        integers = column.cast(pl.Int64, strict=False)
        if not integers.null_count():
            return np.asarray(integers.to_numpy())
    if column.dtype == pl.Boolean and not column.null_count():
        return np.asarray(column.to_numpy()).astype(bool)
    if column.dtype.is_integer() and not column.null_count() and column.dtype != pl.Int128:
        return np.asarray(column.to_numpy())
    return _read_numbers(table, name, None, "the target")


def _read_numbers(table: Table, name: str, fill: float | None, what: str = "an input") -> RawArray:
    path, column = table.path, table.frame[name]
    if fill is None:
        _refuse_missing(path, column, what)
    numbers = numbers_of(column)
    unparsed = numbers.is_null() & column.is_not_null()
    if unparsed.any():
        refuse_commas(path, column)
        row = int(unparsed.arg_max() or 0)
        if column.dtype.is_temporal() or column.dtype.is_nested() or not isinstance(column[row], str):
            msg = f'{path}: column "{name}": expected numbers, got {column.dtype}; it cannot be {what}'
            raise DataError(msg)
        found = describe(column[row])
        msg = f'{path}: row {row + 1}, column "{name}": expected a number, got {found}; text cannot be {what}'
        raise DataError(msg)
    if fill is not None:
        numbers = numbers.fill_null(fill).fill_nan(fill)
    values = np.asarray(numbers.to_numpy())
    not_finite = ~np.isfinite(values)
    if not_finite.any():
        row = int(np.argmax(not_finite))
        msg = f'{path}: row {row + 1}, column "{name}": expected a finite number, got {values[row]}'
        raise DataError(msg)
    return values


def _refuse_missing(path: Path, column: pl.Series, what: str) -> None:
    missing = column.is_null()
    if missing.any():
        row = int(missing.arg_max() or 0)
        remedy = "leave the row out; if its text is a value, put it in quotes or set missing in the data entry"
        if what == "an input":
            remedy = "add it, or set a replacement under fill in the experiment's data entry"
        msg = (
            f'{path}: row {row + 1}, column "{column.name}": a value is missing '
            f"({column.null_count()} in the column); {remedy}"
        )
        raise DataError(msg)
