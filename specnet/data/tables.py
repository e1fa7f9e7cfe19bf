"""Read tables with named columns, .csv and .parquet, with polars (the extra `data`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specnet.data.raw import Columns, Fill, RawArray, RawRows, guarded, kind_of, pick
from specnet.document.messages import describe
from specnet.errors import DataError, SpecnetError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "NaN", "nan")
"""Values of a .csv file that mean a missing value."""


_REMEDIES = {
    "more fields": "; a row has more fields than the header: put text that contains a comma in quotes",
    "utf-8": "; save it as UTF-8",
}


def polars() -> Any:
    """Import polars and return it. Raises SpecnetError with the command that installs it."""
    try:
        import polars as pl  # noqa: PLC0415 - an extra
    except ImportError:
        msg = "reading .csv and .parquet files needs polars; pip install 'specnet-nn[data]'"
        raise SpecnetError(msg) from None
    return pl


def read_frame(path: Path) -> pl.DataFrame:
    """Read a whole table. Raises DataError."""
    pl = polars()

    def read() -> Any:
        if kind_of(path) == "parquet":
            return pl.read_parquet(path)
        with path.open("rb") as file:
            header = file.readline(2**20)
        separator = max(",;\t", key=lambda mark: header.count(mark.encode()))
        return pl.read_csv(
            path, separator=separator, infer_schema_length=None, null_values=list(MISSING), raise_if_empty=False
        )

    try:
        frame = guarded(path, read)
    except pl.exceptions.PolarsError as error:
        lines = str(error).strip().splitlines()
        detail = lines[0] if lines else type(error).__name__
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in detail), "")
        msg = f"{path}: cannot be read as a table: {detail}{remedy}"
        raise DataError(msg) from None
    duplicates = [name for name in frame.columns if "_duplicated_" in name]
    if duplicates:
        name = duplicates[0].partition("_duplicated_")[0]
        msg = f'{path}: the column "{name}" appears twice in the header'
        raise DataError(msg)
    if len(frame.columns) > 1:  # a blank line is read as a row of missing values
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    if not len(frame):
        msg = f"{path}: there are no rows below the header"
        raise DataError(msg)
    return frame


def read_table(
    path: Path,
    inputs: Columns = None,
    targets: Columns = None,
    weights: str | None = None,
    *,
    beside: Sequence[str] = (),
    fill: Fill = None,
) -> RawRows:
    """Read columns by name; with `inputs` None, all columns except targets, weights and `beside`. Raises DataError.

    A single target column may be text (class names); all other columns must be numbers. A missing value is an error
    that names row and column, unless `fill` replaces it: a number, or a number for each column.
    """
    frame = read_frame(path)
    target_names = _column_names(targets)
    excluded = (*target_names, *_column_names(weights), *beside)
    input_names = _column_names(inputs) or tuple(name for name in frame.columns if name not in excluded)
    for name in (*target_names, *_column_names(weights), *input_names, *(fill if isinstance(fill, Mapping) else ())):
        pick(path, name, frame.columns, "column")
    shared = [name for name in input_names if name in (*target_names, *_column_names(weights))]
    if shared:
        msg = f'{path}: the column "{shared[0]}" is both an input and a target or weight; remove it from the inputs'
        raise DataError(msg)
    if not input_names:
        msg = f"{path}: there are no columns for the inputs besides {', '.join(excluded)}"
        raise DataError(msg)
    x = _read_matrix(path, frame, input_names, fill)
    y = None
    if len(target_names) == 1:
        y = _read_target(path, frame[target_names[0]])
    elif target_names:
        y = np.stack([_read_numbers(path, frame[name], None, "the target") for name in target_names], axis=1)
    w = None if weights is None else _read_numbers(path, frame[weights], None)
    return RawRows(x, y, w, input_names)


def _column_names(columns: Columns) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns or ())


def _read_matrix(path: Path, frame: pl.DataFrame, names: Sequence[str], fill: Fill) -> RawArray:
    values = np.empty((len(frame), len(names)))
    for index, name in enumerate(names):
        replacement = fill.get(name) if isinstance(fill, Mapping) else fill
        values[:, index] = _read_numbers(path, frame[name], replacement)
    return values


def _read_target(path: Path, column: pl.Series) -> RawArray:
    """Return a target column as numbers, or as text if it is text."""
    pl = polars()
    if isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        _refuse_missing(path, column, "the target")
        return np.array(column.to_list(), str)
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int64)
    if column.dtype.is_integer() and not column.null_count():
        return np.asarray(column.to_numpy())
    return _read_numbers(path, column, None, "the target")


def _read_numbers(path: Path, column: pl.Series, fill: float | None, what: str = "an input") -> RawArray:
    pl = polars()
    if column.dtype.is_temporal() or column.dtype.is_nested():
        msg = f'{path}: column "{column.name}": expected numbers, got {column.dtype}; it cannot be {what}'
        raise DataError(msg)
    if fill is None:
        _refuse_missing(path, column, what)
    numbers = column.cast(pl.Float64, strict=False)
    unparsed = numbers.is_null() & column.is_not_null()
    if unparsed.any():
        row = int(unparsed.arg_max() or 0)
        where = f'row {row + 1}, column "{column.name}"'
        msg = f"{path}: {where}: expected a number, got {describe(column[row])}; text cannot be {what}"
        raise DataError(msg)
    if fill is not None:
        numbers = numbers.fill_null(fill).fill_nan(fill)
    values = np.asarray(numbers.to_numpy())
    not_finite = ~np.isfinite(values)
    if not_finite.any():
        row = int(np.argmax(not_finite))
        msg = f'{path}: row {row + 1}, column "{column.name}": expected a finite number, got {values[row]}'
        raise DataError(msg)
    return values


def _refuse_missing(path: Path, column: pl.Series, what: str) -> None:
    missing = column.is_null()
    if missing.any():
        row = int(missing.arg_max() or 0)
        remedy = "leave the row out"
        if what == "an input":
            remedy = "add it, or set a replacement under fill in the experiment's data entry"
        msg = (
            f'{path}: row {row + 1}, column "{column.name}": a value is missing '
            f"({column.null_count()} in the column); {remedy}"
        )
        raise DataError(msg)
