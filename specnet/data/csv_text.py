"""Read a .csv file with polars as a table of text: separator, encoding, missing values and blank lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specnet.data.raw import Note
from specnet.errors import DataError, SpecnetError
from specnet.files.regular import open_regular

if TYPE_CHECKING:
    import polars as pl

MISSING = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "?")
"""Values of a .csv file that mean a missing value, unless its data entry declares others; an empty value always is."""


_READ = b",;\t"
_OTHERS = {"|": "vertical bars (|)", " ": "spaces"}
"""Separators that are recognized only to name them."""


_LINES = 2**20
"""Bytes at the beginning that are searched for the header and the first row."""


_QUOTED = "\ufdd0"
"""Marks a quoted value that would mean a missing one without quotes: a code point that Unicode keeps out of text."""


def polars() -> Any:
    """Import polars and return it. Raises SpecnetError with the command that installs it."""
    try:
        import polars as pl  # noqa: PLC0415 - an extra
    except ImportError:
        msg = "reading .csv and .parquet files needs polars; pip install 'specnet-nn[data]'"
        raise SpecnetError(msg) from None
    return pl


def read_csv(path: Path, missing: Sequence[str], note: Note) -> pl.DataFrame:
    """Return the table, all of whose columns are text without blanks at the ends, null where missing.

    A value in quotes is a value, not a marker of `missing`. Raises DataError for what is not a table.
    """
    with open_regular(path) as file:
        data = file.read()
    missing = [marker.strip() for marker in missing]
    _check_encoding(path, data)
    header, first, *_ = *data[:_LINES].split(b"\n", 2), b""
    separator = bytes([max(_READ, key=header.count)])
    _check_separator(path, header, first, separator)
    data, blank = _without_blank_end(data, separator)
    if blank:
        note(f"{path}: {'a blank line' if blank == 1 else f'{blank} blank lines'} at the end left out")
    data, protected = _protect_quoted(data, separator, missing)
    pl = polars()
    frame = pl.read_csv(data, separator=separator.decode(), infer_schema=False, raise_if_empty=False)
    frame.columns = [name.removeprefix(_QUOTED) for name in frame.columns]
    for name in frame.columns:
        if "_duplicated_" in name and name.encode() not in header:  # polars renames the second of two equal names
            msg = f'{path}: the column "{name.rpartition("_duplicated_")[0]}" appears twice in the header'
            raise DataError(msg)
    stripped = pl.all().str.strip_chars()
    frame = frame.with_columns(pl.when(~stripped.is_in(["", *missing])).then(stripped).name.keep())
    return frame.with_columns(pl.all().str.strip_prefix(_QUOTED)) if protected else frame


def _check_encoding(path: Path, data: bytes) -> None:
    """Name the encodings and line ends of other programs."""
    reason = ""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:1024]:
        reason = "its text is UTF-16, or it holds zero bytes; save it as UTF-8"
    elif b"\n" not in data and b"\r" in data:
        reason = "its lines end in a carriage return alone; save it with line feeds (Unix or Windows line ends)"
    else:
        try:
            data.partition(b"\n")[0].decode()
        except UnicodeDecodeError:  # polars checks the rows, not the header
            reason = "its header is not UTF-8; save it as UTF-8"
    if reason:
        msg = f"{path}: cannot be read as a table: {reason}"
        raise DataError(msg)


def _check_separator(path: Path, header: bytes, first: bytes, separator: bytes) -> None:
    """Name a separator that is not read, instead of reading one column with a long name."""
    if separator in header or not first.strip():
        return
    for mark, name in _OTHERS.items():
        count = header.strip().count(mark.encode())
        if count and first.strip().count(mark.encode()) == count:
            msg = f"{path}: its columns are separated by {name}; expected the separator comma, semicolon or tab"
            raise DataError(msg)


def _without_blank_end(data: bytes, separator: bytes) -> tuple[bytes, int]:
    """Return the data without the blank lines at its end, and their number."""
    body = data.rstrip(b" \r\n" if separator == b"\t" else b" \t\r\n")
    end = data[len(body) :]
    blank = end.count(b"\n") - end.endswith(b"\n")  # the first line feed ends the last row
    return (body + b"\n", blank) if blank > 0 and body else (data, 0)


def _protect_quoted(data: bytes, separator: bytes, missing: Sequence[str]) -> tuple[bytes, int]:
    """Mark quoted values that are markers of missing values; return the data and the number of marks.

    In a table a quote after a separator opens a value, because those inside a quoted value are doubled.
    """
    if b'"' not in data or not missing:
        return data, 0
    markers = b"|".join(re.escape(marker.encode()) for marker in missing)
    ends = re.escape(separator) + rb"\r\n"
    quoted = re.compile(rb'(?<![^%b])"[ ]*(%b)[ ]*"(?=[%b]|\Z)' % (ends, markers, ends))
    return quoted.subn(b'"' + _QUOTED.encode() + rb'\1"', data)
