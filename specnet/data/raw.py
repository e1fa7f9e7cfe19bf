"""Types, file formats by suffix, names of columns, and error handling that all readers of data files share."""

from __future__ import annotations

import gzip
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from specnet.arrays.frames import canonical
from specnet.document.messages import suggestion
from specnet.errors import DataError
from specnet.files.paths import is_folder
from specnet.files.regular import most_unpacked, open_regular

RawArray: TypeAlias = npt.NDArray[Any]


Columns: TypeAlias = str | Sequence[str] | None


Fill: TypeAlias = float | Mapping[str, float] | None


Note: TypeAlias = Callable[[str], None]
"""Receives a line about a data file that a user may not expect, such as what a reader left out."""


TABLES = ("csv", "parquet")


_SUFFIXES = {
    ".npz": "npz",
    ".npy": "npy",
    ".csv": "csv",
    ".parquet": "parquet",
    ".h5": "h5",
    ".hdf5": "h5",
    ".txt": "txt",
}


IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""The types of numbers in an IDX file, by the third byte of the file."""


_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


STEPWISE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The methods of a zip file that unpack step by step; the others unpack all that they get, whatever that becomes."""


class RawRows(NamedTuple):
    """Contents of a file before conversion for a model: arrays, and the names of the input columns of a table.

    With `lengths`, the numbers of steps of the rows, `inputs` has the steps of all rows, one row behind the other.
    With `text`, a text for each row, `inputs` is empty; `lines` are the numbers of the rows' lines in a text file.
    """

    inputs: RawArray
    targets: RawArray | None = None
    weights: RawArray | None = None
    names: tuple[str, ...] = ()
    lengths: RawArray | None = None
    text: Sequence[str] | None = None
    lines: Sequence[int] | None = None


def ignore(_text: str) -> None:
    """Ignore a note."""


def kind_by_name(path: str | Path) -> str | None:
    """Return the format that a file's name states, None for names that state none."""
    name = Path(path).name.lower()
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    stem = name.removesuffix(".gz")
    return "idx" if stem.endswith((".idx", "ubyte")) or "-idx" in stem or ".idx" in stem else None


def kind_of(path: Path) -> str:
    """Return the format of a data file by its name; if that states none, "images" for a folder, or "idx" by content.

    Raises DataError.
    """
    kind = kind_by_name(path)
    if kind is None and is_folder(path):
        kind = "images"
    elif kind is None and _begins_as_idx(path):
        kind = "idx"
    if kind is None:
        known = ", ".join(_SUFFIXES)
        msg = f"{path}: unknown kind of data file; expected {known}, IDX (.idx, -ubyte) or a folder of images"
        raise DataError(msg)
    return kind


def _begins_as_idx(path: Path) -> bool:
    try:
        with open_regular(path) as opened, unpacked(opened) as file:
            magic = file.read(4)
    except _UNREADABLE:
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_TYPES and magic[3] > 0


def unpacked(file: BinaryIO) -> BinaryIO:
    """Return a file that yields what gzip has packed into `file`, or `file` itself if it is not packed."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")) if packed else file


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call `read` and return its result; raise every error of the file as a DataError that names it."""
    try:
        return read()
    except DataError:
        raise
    except FileNotFoundError:
        msg = f"{path}: there is no such file"
        raise DataError(msg) from None
    except MemoryError:
        msg = f"{path}: does not fit into memory"
        raise DataError(msg) from None
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        msg = f"{path}: cannot be read: {reason}"
        raise DataError(msg) from error


def refuse_bomb(path: Path, size: int) -> None:
    """Check that a compressed file does not unpack to far more bytes than it has. Raises DataError."""
    limit = most_unpacked(path.stat().st_size)
    if size > limit:
        msg = f"{path}: would unpack to {size:,} bytes, more than the {limit:,} for its size; store it uncompressed"
        raise DataError(msg)


LONGEST_NAME = 1000
"""Most characters of a class name: numpy gives every name of an array the space of the longest."""


def text_array(path: Path, names: Sequence[str], what: str) -> RawArray:
    """Return names as an array of text. Raises DataError for a name too long to be one; `what` says where it is."""
    longest = max(range(len(names)), key=lambda index: len(names[index]), default=0)
    if names and len(names[longest]) > LONGEST_NAME:
        found = f"a text of {len(names[longest]):,} characters"
        msg = f"{path}: row {longest + 1}, {what}: expected a class name of at most {LONGEST_NAME:,}, got {found}"
        raise DataError(msg)
    return np.array(names, str)


def checked_text(path: Path, array: RawArray) -> RawArray:
    """Return an array that is not text, or whose text consists of valid code points. Raises DataError."""
    if array.dtype.kind == "U" and array.size:
        points = (
            np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(-1).view(np.uint32)
        )
        if points.max() > 0x10FFFF or ((points >= 0xD800) & (points <= 0xDFFF)).any():
            msg = f"{path}: holds text with invalid code points"
            raise DataError(msg)
    return array


class NotThereError(DataError):
    """A file has no array or column of this name."""


def pick(path: Path, name: str, names: Iterable[str], what: str) -> str:
    """Return the one of `names` that is `name`, or looks equal. Raises NotThereError, which suggests a similar one."""
    names = list(names)
    if name in names:
        return name
    for other in names:
        if canonical(other) == canonical(name):
            return other
    msg = f'{path}: there is no {what} "{name}"{suggestion(name, names)}'
    raise NotThereError(msg)
