"""Tables with named columns, .csv and .parquet, read by polars (the extra `data`)."""

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
"""What a .csv file writes where there is no value."""


_REMEDIES = {
    "more fields": "; a row has more fields than the header: text with a comma in it stands in quotes",
    "utf-8": "; save it as UTF-8",
}


def polars() -> Any:
    """Import polars. Raises SpecnetError that says how to install it."""
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
        told = lines[0] if lines else type(error).__name__
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in told), "")
        msg = f"{path}: cannot be read as a table: {told}{remedy}"
        raise DataError(msg) from None
    twice = [name for name in frame.columns if "_duplicated_" in name]
    if twice:
        name = twice[0].partition("_duplicated_")[0]
        msg = f'{path}: the column "{name}" stands in the header twice'
        raise DataError(msg)
    if len(frame.columns) > 1:  # blank lines
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
    """Read columns by name; `inputs` None: all that are neither targets nor weights nor `beside`. Raises DataError.

    One target column may be text (names of classes); all else has to be numbers. A value that is missing is refused
    by row and column, unless `fill` says what to take for it: a number, or one for each column.
    """
    frame = read_frame(path)
    target_names = _names(targets)
    taken = (*target_names, *_names(weights), *beside)
    input_names = _names(inputs) or tuple(name for name in frame.columns if name not in taken)
    for name in (*target_names, *_names(weights), *input_names, *(fill if isinstance(fill, Mapping) else ())):
        pick(path, name, frame.columns, "column")
    both = [name for name in input_names if name in (*target_names, *_names(weights))]
    if both:
        msg = f'{path}: the column "{both[0]}" is a target or weight, and among the inputs too; leave it out of those'
        raise DataError(msg)
    if not input_names:
        msg = f"{path}: there are no columns for the inputs beside {', '.join(taken)}"
        raise DataError(msg)
    x = _matrix(path, frame, input_names, fill)
    y = None
    if len(target_names) == 1:
        y = _target(path, frame[target_names[0]])
    elif target_names:
        y = np.stack([_numbers(path, frame[name], None, "the target") for name in target_names], axis=1)
    w = None if weights is None else _numbers(path, frame[weights], None)
    return RawRows(x, y, w, input_names)


def _names(columns: Columns) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns or ())


def _matrix(path: Path, frame: pl.DataFrame, names: Sequence[str], fill: Fill) -> RawArray:
    values = np.empty((len(frame), len(names)))
    for place, name in enumerate(names):
        filling = fill.get(name) if isinstance(fill, Mapping) else fill
        values[:, place] = _numbers(path, frame[name], filling)
    return values


def _target(path: Path, column: pl.Series) -> RawArray:
    """Give one column as numbers, or as text where it is text."""
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
    return _numbers(path, column, None, "the target")


def _numbers(path: Path, column: pl.Series, fill: float | None, what: str = "an input") -> RawArray:
    pl = polars()
    if column.dtype.is_temporal() or column.dtype.is_nested():
        msg = f'{path}: column "{column.name}": expected numbers, got {column.dtype}; it cannot be {what}'
        raise DataError(msg)
    if fill is None:
        _refuse_missing(path, column, what)
    numbers = column.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & column.is_not_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        where = f'row {row + 1}, column "{column.name}"'
        msg = f"{path}: {where}: expected a number, got {describe(column[row])}; text cannot be {what}"
        raise DataError(msg)
    if fill is not None:
        numbers = numbers.fill_null(fill).fill_nan(fill)
    values = np.asarray(numbers.to_numpy())
    odd = ~np.isfinite(values)
    if odd.any():
        row = int(np.argmax(odd))
        msg = f'{path}: row {row + 1}, column "{column.name}": expected a finite number, got {values[row]}'
        raise DataError(msg)
    return values


def _refuse_missing(path: Path, column: pl.Series, what: str) -> None:
    missing = column.is_null()
    if missing.any():
        row = int(missing.arg_max() or 0)
        remedy = "leave the row out"
        if what == "an input":
            remedy = "write one, or declare in the experiment's data entry, under fill, what to take for it"
        msg = (
            f'{path}: row {row + 1}, column "{column.name}": a value is missing '
            f"({column.null_count()} in the column); {remedy}"
        )
        raise DataError(msg)
