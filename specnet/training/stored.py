"""Rows of files larger than memory: read in chunks, shuffled by chunk and then within, the next ones read ahead.

An epoch takes the chunks in an order of its own and mixes the rows of every `MIXED` chunks that come together; the
last chunk, which may be short, is always among the last of them.
"""

from __future__ import annotations

import hashlib
import math
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from specnet.errors import DataError
from specnet.parameters import ShapeTuple
from specnet.randomness import permutation
from specnet.spec import ModelSpec
from specnet.training.data import Dataset, Features, Order, fit_inputs, rows_digest
from specnet.training.datafiles import RawArray, array_name, guarded, kind_of, open_hdf5, pick_dataset
from specnet.training.sharing import Share

T = TypeVar("T")
Span = tuple[int, int]
"""Rows from the first number to before the second."""

LARGE = 2**30
"""Bytes of inputs from which a file is read in chunks, unless its entry says in_memory."""

CHUNK_BYTES = 2**24
MIXED = 4
"""Chunks whose rows are mixed; so many are in memory twice, once in use and once being read ahead."""

GAP_BYTES = 2**17
"""Rows between those that a process needs are read, too, where they take no more; the system reads that far ahead."""


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

    def read(self, *spans: Span) -> list[RawArray]:
        """Read the rows of each span. Raises DataError, also for a file that has changed."""
        values: list[RawArray] = guarded(self.path, lambda: list(self._read(spans)))
        lengths = [stop - start for start, stop in spans]
        if guarded(self.path, self._look) != self._state or list(map(len, values)) != lengths:
            msg = f"{self.path}: has changed since it was opened"
            raise DataError(msg)
        return values

    @abstractmethod
    def _read(self, spans: Sequence[Span]) -> Iterator[RawArray]: ...


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

    def _read(self, spans: Sequence[Span]) -> Iterator[RawArray]:
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

    def _read(self, spans: Sequence[Span]) -> Iterator[RawArray]:
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


class StoredRows:
    """Rows whose inputs stay in their file; targets and weights are in memory. What Dataset offers, it offers too.

    Making one reads all inputs once: every value is checked, and their range and fingerprint are taken.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self, inputs: LargeArray, targets: RawArray, weights: RawArray | None, spec: ModelSpec, source: str
    ) -> None:
        self._file = inputs
        self.targets = targets
        self.weights = weights
        self._spec = spec
        self._source = source
        self._row_bytes = max(inputs.dtype.itemsize, np.dtype(spec.dtype).itemsize) * math.prod(inputs.shape[1:])
        self._features, self._inputs_digest, none = self._scan()
        self._none = (none, targets[:0], None if weights is None else weights[:0])

    def __len__(self) -> int:
        return self._file.shape[0]

    def _scan(self) -> tuple[Features, str, RawArray]:
        """Look at all inputs; give their range, their digest, and none of them, as a model takes them."""
        hasher, low, high = hashlib.sha256(), None, None
        rows = max(CHUNK_BYTES // self._row_bytes, 1)
        for start in range(0, len(self), rows):
            (values,) = self._read((start, min(start + rows, len(self))))
            hasher.update(np.ascontiguousarray(values).data)
            least, most = values.min(axis=0), values.max(axis=0)
            low = least if low is None else np.minimum(low, least)
            high = most if high is None else np.maximum(high, most)
        assert low is not None
        assert high is not None
        return Features(low.astype(np.float64), high.astype(np.float64)), hasher.hexdigest(), values[:0].copy()

    def _read(self, *spans: Span) -> Iterator[RawArray]:
        for (start, _), values in zip(spans, self._file.read(*spans), strict=True):
            yield fit_inputs(values, self._spec, self._source, first_row=start)

    def _parts(self, *spans: Span) -> Iterator[Dataset]:
        for (start, stop), inputs in zip(spans, self._read(*spans), strict=True):
            weights = None if self.weights is None else self.weights[start:stop]
            yield Dataset(inputs, self.targets[start:stop], weights)

    def in_order(self, rows: int, first: int = 0, stop: int | None = None) -> Iterator[Dataset]:
        """Yield the rows from `first` to before `stop`, so many at a time at most; fewer where a row is large."""
        stop = len(self) if stop is None else stop
        rows = min(rows, max(CHUNK_BYTES // self._row_bytes, 1))
        chunk = max(CHUNK_BYTES // (self._row_bytes * rows), 1) * rows
        spans = [(start, min(start + chunk, stop)) for start in range(first, stop, chunk)]
        for part in ahead(part for span in spans for part in self._parts(span)):
            yield from part.in_order(rows)

    def blocks(self, size: int, order: Order | None, first: int = 0, share: Share | None = None) -> Iterator[Dataset]:
        """Yield the rows of an epoch from row `first` on, in blocks of whole batches of `size` rows.

        With `share`, a process's part of each, the only rows that are read but for what lies closely between them.
        """
        return ahead(self._blocks(size, order, first, share))

    def _blocks(self, size: int, order: Order | None, first: int, share: Share | None) -> Iterator[Dataset]:
        chunk = max(CHUNK_BYTES // (self._row_bytes * size), 1) * size
        whole = len(self) // chunk
        chunks = list(range(whole)) if order is None else _order(order, "chunks", whole).tolist()
        if len(self) % chunk:
            chunks.append(whole)
        for at in range(0, len(chunks), MIXED):
            spans = [(index * chunk, min(index * chunk + chunk, len(self))) for index in chunks[at : at + MIXED]]
            count = sum(stop - start for start, stop in spans)
            if first >= count:
                first -= count
                continue
            places = np.arange(count) if order is None else np.argsort(_order(order, f"rows {at}", count))
            if share is None:
                yield self._mixed(spans, places, np.arange(count)).rows(slice(first, None))
            else:
                yield replace(self._mixed(spans, places, share.places(first, count, size)), of=count - first)
            first = 0

    def _mixed(self, spans: list[Span], places: RawArray, wanted: RawArray) -> Dataset:
        """Put the rows of some chunks where `places` says, one chunk in memory beside them; keep those `wanted`."""
        empty = (None if a is None else np.empty((len(wanted), *a.shape[1:]), a.dtype) for a in self._none)
        block = Dataset(*empty)  # type: ignore[arg-type]
        done = 0
        target = np.full(len(places), -1)
        target[wanted] = np.arange(len(wanted))
        for first, last in spans:
            to = target[places[done : done + last - first]]
            done += last - first
            needed = self._needed(np.flatnonzero(to >= 0))
            parts = self._parts(*((first + start, first + stop) for start, stop in needed))
            for (start, stop), part in zip(needed, parts, strict=True):
                own = to[start:stop]
                kept = slice(None) if len(wanted) == len(places) else own >= 0
                rows, at = part.rows(kept), own[kept]
                block.inputs[at], block.targets[at] = rows.inputs, rows.targets
                if block.weights is not None:
                    block.weights[at] = rows.weights
        return block

    def _needed(self, rows: RawArray) -> list[Span]:
        """Give the spans that are read for some rows, in order, of a chunk: they end where long gaps begin."""
        longest = max(GAP_BYTES // self._row_bytes, self._file.stride - 1)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) - 1 > longest) + 1)
        return [(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]

    def rows(self, indices: RawArray | slice) -> Dataset:
        """Refuse what needs all rows at once. Raises DataError."""
        msg = (
            f"{self._source}: is read in parts, so no rows of it can be held out; "
            "give data.validation a file of its own, or write in_memory: true"
        )
        raise DataError(msg)

    def working_bytes(self, size: int) -> int:
        """Give the bytes of inputs in memory at batches of `size` rows: what is in use and what is read ahead."""
        return min((3 * MIXED + 1) * max(CHUNK_BYTES, size * self._row_bytes), len(self) * self._row_bytes)

    def fingerprint(self) -> str:
        """Give the SHA-256, in hex, of all values: tells whether a run goes on with the data it began with."""
        return rows_digest(self._inputs_digest.encode(), self.targets, self.weights)

    def features(self) -> Features:
        """Give the range of each input."""
        return self._features


Rows = Dataset | StoredRows


def _order(order: Order, what: str, count: int) -> RawArray:
    return permutation(order.seed, f"shuffle {what}", order.epoch, count)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each made by a second thread while the one before it is in use.

    The thread ends with the iteration, also with one that is given up.
    """
    done = threading.Event()
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not done.is_set():
            try:
                waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if done.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - raised where the item is asked for
            put((None, error))

    try:
        threading.Thread(target=work, name="specnet: reading ahead", daemon=True).start()
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        done.set()
