"""Types, file formats by suffix, and error handling that all readers of data files share."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from specnet.document.messages import suggestion
from specnet.errors import DataError

RawArray: TypeAlias = npt.NDArray[Any]


Columns: TypeAlias = str | Sequence[str] | None


Fill: TypeAlias = float | Mapping[str, float] | None


TABLES = ("csv", "parquet")


_SUFFIXES = {
    ".npz": "npz",
    ".npy": "npy",
    ".csv": "csv",
    ".parquet": "parquet",
    ".h5": "h5",
    ".hdf5": "h5",
}


_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class RawRows(NamedTuple):
    """Contents of a file before conversion for a model: arrays, and the names of the input columns of a table."""

    inputs: RawArray
    targets: RawArray | None = None
    weights: RawArray | None = None
    names: tuple[str, ...] = ()


def kind_of(path: Path) -> str:
    """Return the format of a data file, from its name. Raises DataError."""
    name = path.name.lower()
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    stem = name.removesuffix(".gz")
    if stem.endswith((".idx", "ubyte")) or "-idx" in stem or ".idx" in stem:
        return "idx"
    known = ", ".join(_SUFFIXES)
    msg = f"{path}: unknown kind of data file; expected {known} or IDX (.idx, -ubyte, with or without .gz)"
    raise DataError(msg)


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


def pick(path: Path, name: str, names: Iterable[str], what: str) -> str:
    """Check that `name` is in `names`, and return it. Raises DataError, which suggests the most similar name."""
    names = list(names)
    if name not in names:
        msg = f'{path}: there is no {what} "{name}"{suggestion(name, names)}'
        raise DataError(msg)
    return name
