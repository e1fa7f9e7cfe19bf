"""Rows of files larger than memory: read in chunks, shuffled by chunk and then within, the next ones read ahead.

An epoch takes the chunks in an order of its own and mixes the rows of every `MIXED` chunks that come together; the
last chunk, which may be short, is always among the last of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from specnet.arrays.randomness import permutation
from specnet.data.conform import conform_inputs
from specnet.data.dataset import Dataset, Features, Order, rows_digest
from specnet.data.large_arrays import LargeArray, RowRange
from specnet.data.prefetch import prefetch
from specnet.data.raw import RawArray
from specnet.errors import DataError
from specnet.mpi.batch_shares import BatchShare
from specnet.spec.model_spec import ModelSpec

CHUNK_BYTES = 2**24


MIXED = 4
"""Chunks whose rows are mixed; so many are in memory twice, once in use and once being read ahead."""


GAP_BYTES = 2**17
"""Rows between those that a process needs are read, too, where they take no more; the system reads that far ahead."""


class StreamedDataset:
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

    def _read(self, *spans: RowRange) -> Iterator[RawArray]:
        for (start, _), values in zip(spans, self._file.read(*spans), strict=True):
            yield conform_inputs(values, self._spec, self._source, first_row=start)

    def _parts(self, *spans: RowRange) -> Iterator[Dataset]:
        for (start, stop), inputs in zip(spans, self._read(*spans), strict=True):
            weights = None if self.weights is None else self.weights[start:stop]
            yield Dataset(inputs, self.targets[start:stop], weights)

    def in_order(self, rows: int, first: int = 0, stop: int | None = None) -> Iterator[Dataset]:
        """Yield the rows from `first` to before `stop`, so many at a time at most; fewer where a row is large."""
        stop = len(self) if stop is None else stop
        rows = min(rows, max(CHUNK_BYTES // self._row_bytes, 1))
        chunk = max(CHUNK_BYTES // (self._row_bytes * rows), 1) * rows
        spans = [(start, min(start + chunk, stop)) for start in range(first, stop, chunk)]
        for part in prefetch(part for span in spans for part in self._parts(span)):
            yield from part.in_order(rows)

    def blocks(
        self, size: int, order: Order | None, first: int = 0, share: BatchShare | None = None
    ) -> Iterator[Dataset]:
        """Yield the rows of an epoch from row `first` on, in blocks of whole batches of `size` rows.

        With `share`, a process's part of each, the only rows that are read but for what lies closely between them.
        """
        return prefetch(self._blocks(size, order, first, share))

    def _blocks(self, size: int, order: Order | None, first: int, share: BatchShare | None) -> Iterator[Dataset]:
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

    def _mixed(self, spans: list[RowRange], places: RawArray, wanted: RawArray) -> Dataset:
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

    def _needed(self, rows: RawArray) -> list[RowRange]:
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


AnyDataset = Dataset | StreamedDataset


def _order(order: Order, what: str, count: int) -> RawArray:
    return permutation(order.seed, f"shuffle {what}", order.epoch, count)
