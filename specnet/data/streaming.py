"""Rows of files larger than memory: read in chunks, shuffled by chunk and then within groups of chunks, prefetched.

Each epoch shuffles the chunks and then the rows of every `MIXED` consecutive chunks. The last chunk, which may be
short, is always in the last group.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from specnet.arrays.randomness import permutation
from specnet.data.conform import conform_inputs
from specnet.data.dataset import Dataset, Features, Order, finish_digest
from specnet.data.large_arrays import LargeArray, RowRange
from specnet.data.prefetch import prefetch
from specnet.data.raw import RawArray
from specnet.errors import DataError
from specnet.mpi.batch_shares import BatchShare
from specnet.spec.model_spec import ModelSpec

CHUNK_BYTES = 2**24


MIXED = 4
"""Chunks whose rows are shuffled together. Memory holds two groups of them: one in use, one being prefetched."""


GAP_BYTES = 2**17
"""Most bytes of unneeded rows that are read to join two needed ones; the system reads this far ahead anyway."""


class StreamedDataset:
    """Rows whose inputs stay in their file; targets and weights are in memory. It has the interface of Dataset.

    The constructor reads all inputs once: it checks every value and computes their range and digest.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        inputs: LargeArray,
        targets: RawArray,
        weights: RawArray | None,
        spec: ModelSpec,
        source: str,
        scale: float | None = None,
    ) -> None:
        self._file = inputs
        self.targets = targets
        self.weights = weights
        self._spec = spec
        self._source = source
        self._scale = scale
        self._row_bytes = max(inputs.dtype.itemsize, np.dtype(spec.dtype).itemsize) * math.prod(inputs.shape[1:])
        self._features, self._inputs_digest, no_inputs = self._scan()
        self._no_rows = (no_inputs, targets[:0], None if weights is None else weights[:0])

    def __len__(self) -> int:
        return self._file.shape[0]

    def _scan(self) -> tuple[Features, str, RawArray]:
        """Read all inputs; return their range, their digest, and zero rows with the model's input shape and dtype."""
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

    def _read(self, *spans: RowRange) -> Iterator[RawArray]:
        for (start, _), values in zip(spans, self._file.read(*spans), strict=True):
            yield conform_inputs(values, self._spec, self._source, self._scale, first_row=start)

    def _read_parts(self, *spans: RowRange) -> Iterator[Dataset]:
        for (start, stop), inputs in zip(spans, self._read(*spans), strict=True):
            weights = None if self.weights is None else self.weights[start:stop]
            yield Dataset(inputs, self.targets[start:stop], weights)

    def in_order(self, rows: int, first: int = 0, stop: int | None = None) -> Iterator[Dataset]:
        """Yield rows [first, stop) in order, at most `rows` at a time; fewer if a row is large."""
        stop = len(self) if stop is None else stop
        rows = min(rows, max(CHUNK_BYTES // self._row_bytes, 1))
        chunk = max(CHUNK_BYTES // (self._row_bytes * rows), 1) * rows
        spans = [(start, min(start + chunk, stop)) for start in range(first, stop, chunk)]
        for part in prefetch(part for span in spans for part in self._read_parts(span)):
            yield from part.in_order(rows)

    def blocks(
        self, size: int, order: Order | None, first: int = 0, share: BatchShare | None = None
    ) -> Iterator[Dataset]:
        """Yield the rows of an epoch from row `first` on, in blocks of whole batches of `size` rows.

        With `share`, yield only this process's part of each block; other rows are read only if they are in short gaps.
        """
        return prefetch(self._blocks(size, order, first, share))

    def _blocks(self, size: int, order: Order | None, first: int, share: BatchShare | None) -> Iterator[Dataset]:
        chunk = max(CHUNK_BYTES // (self._row_bytes * size), 1) * size
        full_chunks = len(self) // chunk
        chunks = list(range(full_chunks)) if order is None else _shuffle(order, "chunks", full_chunks).tolist()
        if len(self) % chunk:
            chunks.append(full_chunks)
        for at in range(0, len(chunks), MIXED):
            spans = [(index * chunk, min(index * chunk + chunk, len(self))) for index in chunks[at : at + MIXED]]
            count = sum(stop - start for start, stop in spans)
            if first >= count:
                first -= count
                continue
            places = np.arange(count) if order is None else np.argsort(_shuffle(order, f"rows {at}", count))
            if share is None:
                yield self._mix_rows(spans, places, np.arange(count)).rows(slice(first, None))
            else:
                yield replace(self._mix_rows(spans, places, share.places(first, count, size)), block_rows=count - first)
            first = 0

    def _mix_rows(self, spans: list[RowRange], places: RawArray, wanted: RawArray) -> Dataset:
        """Move the rows of chunks to `places`, and return those at the places `wanted`. Reads one chunk at a time."""
        empty = (None if a is None else np.empty((len(wanted), *a.shape[1:]), a.dtype) for a in self._no_rows)
        block = Dataset(*empty)  # type: ignore[arg-type]
        rows_done = 0
        target = np.full(len(places), -1)
        target[wanted] = np.arange(len(wanted))
        for first, last in spans:
            to = target[places[rows_done : rows_done + last - first]]
            rows_done += last - first
            needed = self._spans_to_read(np.flatnonzero(to >= 0))
            parts = self._read_parts(*((first + start, first + stop) for start, stop in needed))
            for (start, stop), part in zip(needed, parts, strict=True):
                positions = to[start:stop]
                selected = slice(None) if len(wanted) == len(places) else positions >= 0
                rows, at = part.rows(selected), positions[selected]
                block.inputs[at], block.targets[at] = rows.inputs, rows.targets
                if block.weights is not None:
                    block.weights[at] = rows.weights
        return block

    def _spans_to_read(self, rows: RawArray) -> list[RowRange]:
        """Return the spans to read for ascending rows of a chunk; a gap that is too long to read ends a span."""
        longest_gap = max(GAP_BYTES // self._row_bytes, self._file.stride - 1)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) - 1 > longest_gap) + 1)
        return [(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]

    def rows(self, indices: RawArray | slice) -> Dataset:
        """Raise DataError: selecting rows needs all of them in memory."""
        msg = (
            f"{self._source}: is read in parts, so none of its rows can be held out; "
            "name a separate file in data.validation, or write in_memory: true"
        )
        raise DataError(msg)

    def working_bytes(self, size: int) -> int:
        """Return the bytes of inputs in memory with batches of `size` rows, both in use and prefetched."""
        return min((3 * MIXED + 1) * max(CHUNK_BYTES, size * self._row_bytes), len(self) * self._row_bytes)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all values. A run can only resume with the data that it began with."""
        return finish_digest(hashlib.sha256(self._inputs_digest.encode()), self.targets, self.weights)

    def features(self) -> Features:
        """Return the range of each input."""
        return self._features


AnyDataset = Dataset | StreamedDataset


def _shuffle(order: Order, what: str, count: int) -> RawArray:
    return permutation(order.seed, f"shuffle {what}", order.epoch, count)
