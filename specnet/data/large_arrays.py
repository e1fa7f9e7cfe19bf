"""Arrays that stay in their file and are read in ranges of rows."""

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
from specnet.files.regular import open_regular

RowRange = tuple[int, int]
"""Rows [start, stop)."""


LARGE = 2**30
"""Bytes of inputs from which a file is read in chunks, unless its data entry sets in_memory."""


class LargeArray(ABC):
    """An array in a file that is read a few rows at a time; reading checks that the file has not changed."""

    path: Path
    shape: ShapeTuple
    dtype: np.dtype[Any]
    stride = 1
    """Rows that the file stores as one chunk, and always reads together."""

    def _record_state(self) -> None:
        self._state = self._file_state()

    def _file_state(self) -> tuple[int, int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def read(self, *spans: RowRange) -> list[RawArray]:
        """Read the rows of each span. Raises DataError, also if the file has changed since it was opened."""
        values: list[RawArray] = guarded(self.path, lambda: list(self._read_spans(spans)))
        lengths = [stop - start for start, stop in spans]
        if guarded(self.path, self._file_state) != self._state or list(map(len, values)) != lengths:
            msg = f"{self.path}: has changed since it was opened"
            raise DataError(msg)
        return values

    @abstractmethod
    def _read_spans(self, spans: Sequence[RowRange]) -> Iterator[RawArray]: ...


class NpyArray(LargeArray):
    """The array of a .npy file. Raises DataError if it is not stored row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        guarded(path, self._record_state)
        self.shape, self.dtype, self.offset = guarded(path, lambda: self._read_header(path))

    @staticmethod
    def _read_header(path: Path) -> tuple[ShapeTuple, np.dtype[Any], int]:
        with open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
            if fortran_order or dtype.hasobject:
                msg = f"{path}: is not stored row by row, so it cannot be read in parts; write it in C order"
                raise DataError(msg)
            return shape, dtype, file.tell()

    def _read_spans(self, spans: Sequence[RowRange]) -> Iterator[RawArray]:
        row_size = math.prod(self.shape[1:])
        with open_regular(self.path, buffered=False) as file:
            for start, stop in spans:
                file.seek(self.offset + start * row_size * self.dtype.itemsize)
                values = np.fromfile(file, self.dtype, (stop - start) * row_size)
                if len(values) != (stop - start) * row_size:
                    msg = f"{self.path}: is truncated: its header states {self.shape[0]} rows"
                    raise DataError(msg)
                yield values.reshape(stop - start, *self.shape[1:])


class HDF5Array(LargeArray):
    """A dataset of an HDF5 file, which is open only while it is read."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        guarded(path, self._record_state)
        self.shape, self.dtype, self.stride = guarded(path, self._read_header)

    def _read_header(self) -> tuple[ShapeTuple, np.dtype[Any], int]:
        with open_hdf5(self.path) as file:
            dataset = pick_dataset(self.path, file, self.name)
            self.name = dataset.name
            return dataset.shape, dataset.dtype, dataset.chunks[0] if dataset.chunks else 1

    def _read_spans(self, spans: Sequence[RowRange]) -> Iterator[RawArray]:
        with open_hdf5(self.path) as file:
            dataset = file[self.name]
            for start, stop in spans:
                yield np.asarray(dataset[start:stop])


def open_array(path: Path, name: str | Sequence[str] | None) -> LargeArray:
    """Open the inputs of a .npy or .h5 file. In an .h5 file they are the dataset `name`, by default "x"."""
    if kind_of(path) == "npy":
        return NpyArray(path)
    return HDF5Array(path, array_name(path, "x" if name is None else name))


def open_large(path: Path, name: str | Sequence[str] | None, *, in_memory: bool | None) -> LargeArray | None:
    """Open the inputs of a file that must be read in parts; return None for a file to read into memory.

    Raises DataError if `in_memory` is False and the format cannot be read in parts.
    """
    kind = kind_of(path)
    if kind not in ("npy", "h5"):
        if in_memory is False:
            msg = f"{path}: only .npy and .h5 files can be read in parts; write in_memory: true, or convert it"
            raise DataError(msg)
        return None
    if in_memory or (in_memory is None and guarded(path, lambda: path.stat().st_size) < LARGE):
        return None
    array = open_array(path, name)
    if len(array.shape) < 2 or 0 in array.shape:
        msg = f"{path}: inputs: expected rows of at least one axis, got an array of shape {array.shape}"
        raise DataError(msg)
    if in_memory is None and array.dtype.itemsize * math.prod(array.shape) < LARGE:
        return None
    return array
