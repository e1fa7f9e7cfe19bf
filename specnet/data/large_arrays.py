"""Arrays that stay in their file and are read in row ranges."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specnet.arrays.parameters import ShapeTuple
from specnet.data.files import array_name, open_hdf5, pick_dataset
from specnet.data.raw import RawArray, guarded, kind_of
from specnet.errors import DataError

RowRange = tuple[int, int]
"""Rows from the first number to before the second."""


LARGE = 2**30
"""Bytes of inputs from which a file is read in chunks, unless its entry says in_memory."""


class LargeArray(ABC):
    """An array in a file, some rows of which are read at a time; holds that it is the file that was opened."""

    path: Path
    shape: ShapeTuple
    dtype: np.dtype[Any]
    stride = 1
    """Rows that the file stores as one piece, and that are read together whatever is asked."""

    def _watch(self) -> None:
        self._state = self._look()

    def _look(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino

    def read(self, *spans: RowRange) -> list[RawArray]:
        """Read the rows of each span. Raises DataError, also for a file that has changed."""
        values: list[RawArray] = guarded(self.path, lambda: list(self._read(spans)))
        lengths = [stop - start for start, stop in spans]
        if guarded(self.path, self._look) != self._state or list(map(len, values)) != lengths:
            msg = f"{self.path}: has changed since it was opened"
            raise DataError(msg)
        return values

    @abstractmethod
    def _read(self, spans: Sequence[RowRange]) -> Iterator[RawArray]: ...


class NpyArray(LargeArray):
    """The array of a .npy file. Raises DataError for one that is not stored row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        guarded(path, self._watch)
        self.shape, self.dtype, self.offset = guarded(path, lambda: self._head(path))

    @staticmethod
    def _head(path: Path) -> tuple[ShapeTuple, np.dtype[Any], int]:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
            if by_columns or dtype.hasobject:
                msg = f"{path}: is not stored row by row, so it cannot be read in parts; write it in C order"
                raise DataError(msg)
            return shape, dtype, file.tell()

    def _read(self, spans: Sequence[RowRange]) -> Iterator[RawArray]:
        row = math.prod(self.shape[1:])
        with self.path.open("rb", buffering=0) as file:
            for start, stop in spans:
                file.seek(self.offset + start * row * self.dtype.itemsize)
                values = np.fromfile(file, self.dtype, (stop - start) * row)
                if len(values) != (stop - start) * row:
                    msg = f"{self.path}: is not whole: its head promises {self.shape[0]} rows"
                    raise DataError(msg)
                yield values.reshape(stop - start, *self.shape[1:])


class HDF5Array(LargeArray):
    """A dataset of an HDF5 file; the file is open only while it is read."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        guarded(path, self._watch)
        self.shape, self.dtype, self.stride = guarded(path, self._head)

    def _head(self) -> tuple[ShapeTuple, np.dtype[Any], int]:
        with open_hdf5(self.path) as file:
            stored = pick_dataset(self.path, file, self.name)
            return stored.shape, stored.dtype, stored.chunks[0] if stored.chunks else 1

    def _read(self, spans: Sequence[RowRange]) -> Iterator[RawArray]:
        with open_hdf5(self.path) as file:
            stored = file[self.name]
            for start, stop in spans:
                yield np.asarray(stored[start:stop])


def open_array(path: Path, name: str | Sequence[str] | None) -> LargeArray:
    """Open the inputs of a .npy file, or of an .h5 file, where they are called "x" unless `name` says otherwise."""
    if kind_of(path) == "npy":
        return NpyArray(path)
    return HDF5Array(path, array_name(path, "x" if name is None else name))


def open_large(path: Path, name: str | Sequence[str] | None, *, in_memory: bool | None) -> LargeArray | None:
    """Open the inputs of a file that is to be read in parts; None for one that is to be read whole.

    Raises DataError where `in_memory` is False and the format cannot be read in parts.
    """
    kind = kind_of(path)
    if kind not in ("npy", "h5"):
        if in_memory is False:
            msg = f"{path}: only .npy and .h5 files can be read in parts; write in_memory: true, or convert it"
            raise DataError(msg)
        return None
    if in_memory or (in_memory is None and path.exists() and path.stat().st_size < LARGE):
        return None
    array = open_array(path, name)
    if len(array.shape) < 2 or 0 in array.shape:
        msg = f"{path}: inputs: expected rows of at least one axis, got an array of shape {array.shape}"
        raise DataError(msg)
    if in_memory is None and array.dtype.itemsize * math.prod(array.shape) < LARGE:
        return None
    return array
