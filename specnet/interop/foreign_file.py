"""Reading of files from other programs: regular files only, and memory bounded by the size of the file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from specnet.data.raw import STEPWISE
from specnet.errors import CheckpointError, SpecnetError, printable
from specnet.files.regular import open_regular
from specnet.interop.imported_model import one_line, unsupported

SMALL_TEXT, LARGEST_TEXT = 2**22, 2**24
"""The most bytes of JSON in a small file and in any; as Python objects, they take up to 25 times as much memory."""


_CHUNK = 2**16


def unpacked_limit(size: int) -> int:
    """Return the most bytes that a file of `size` bytes may unpack to: 64 MiB, and eight times its size.

    Weights hardly compress. A model is copied a few times while it is read, so the memory is a multiple of this.
    """
    return 2**26 + 8 * size


@contextlib.contextmanager
def open_foreign(path: str | os.PathLike[str], name: str) -> Iterator[BinaryIO]:
    """Open a regular file, whose error messages call it `name`. Raises CheckpointError, also for errors in reading."""
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error


class Archive:
    """A zip archive whose members are stored or deflated, have different names, and unpack to a bounded size."""

    def __init__(self, name: str, archive: zipfile.ZipFile, size: int) -> None:
        entries = archive.infolist()
        self.size = size
        self.members = {entry.filename: entry for entry in entries}
        self._archive = archive
        if len(self.members) != len(entries):
            raise unsupported(name, "the archive contains two members with the same name")
        for entry in entries:
            what = printable(entry.filename)[:100]
            if entry.compress_type not in STEPWISE:
                raise unsupported(name, f"{what} is compressed by another method than deflate")
            is_text = entry.filename.endswith(".json")
            limit = min(SMALL_TEXT + size, LARGEST_TEXT) if is_text else unpacked_limit(size)
            _check_unpacked(name, what, entry.file_size, size, limit)
        _check_unpacked(name, "the archive", sum(entry.file_size for entry in entries), size, unpacked_limit(size))

    def copy(self, member: str, target: Any) -> None:
        """Unpack a member into a file that is open for writing."""
        with self._archive.open(member) as source:
            shutil.copyfileobj(source, target, _CHUNK)  # a single read would unpack more than the member claims

    def read(self, member: str) -> bytes:
        """Return the bytes of a member."""
        data = io.BytesIO()
        self.copy(member, data)
        return data.getvalue()


def _check_unpacked(name: str, what: str, unpacked: int, size: int, limit: int) -> None:
    if unpacked > limit:
        raise unsupported(name, f"{what} unpacks to {unpacked:,} bytes; the limit for a file of {size:,} is {limit:,}")


@contextlib.contextmanager
def open_archive(path: str | os.PathLike[str], name: str, kind: str) -> Iterator[Archive]:
    """Open a zip archive, a file of this `kind`. Raises CheckpointError, also for errors in reading its members."""
    with open_foreign(path, name) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield Archive(name, archive, os.fstat(file.fileno()).st_size)
        except (SpecnetError, MemoryError, OSError):
            raise
        except Exception as error:
            raise unsupported(name, f"cannot be read as {kind}: {one_line(error)}") from error


def json_object(name: str, text: Any, what: str) -> dict[str, Any]:
    """Return a JSON object from a file. Raises CheckpointUnsupportedError, also if an object has a key twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except _TwiceError as error:
        raise unsupported(name, f"its {what} has the key {error.args[0]!r:.60} twice") from None
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unsupported(name, f"its {what} is not a JSON object")
    return value


class _TwiceError(Exception):
    """A key that an object has twice."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, inner in pairs:
        if key in value:
            raise _TwiceError(key)
        value[key] = inner
    return value
