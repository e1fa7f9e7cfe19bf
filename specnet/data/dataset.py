"""Rows in memory, ready for a model and its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.randomness import permutation
from specnet.data.raw import RawArray
from specnet.mpi.batch_shares import BatchShare

PART_BYTES = 2**24
"""Most bytes of inputs that are read or evaluated at once."""


BLOCK_BYTES = 2**17
"""Bytes of inputs that are gathered at once: a numpy call costs as much as copying about 50 rows of 64 numbers."""


class Order(NamedTuple):
    """Seed and epoch, which determine the order of the rows in an epoch."""

    seed: int
    epoch: int


class Features(NamedTuple):
    """Range of each input over the training rows, to warn of inputs far outside it; arrays of the input's shape."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dataset:
    """Rows ready for a model: inputs of its shape and dtype, targets as the loss takes them, weights per row or None.

    `names` are the names of the input columns, if the rows come from a table. `block_rows` is the number of rows in
    the whole block if these are only the part of one process; otherwise 0.
    """

    inputs: RawArray
    targets: RawArray
    weights: RawArray | None = None
    names: tuple[str, ...] = ()
    block_rows: int = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: RawArray | slice) -> Dataset:
        """Return some rows: copies for indices, views for a slice."""
        weights = None if self.weights is None else self.weights[indices]
        return Dataset(self.inputs[indices], self.targets[indices], weights, self.names)

    def in_order(self, rows: int, first: int = 0, stop: int | None = None) -> Iterator[Dataset]:
        """Yield rows [first, stop) in order, at most `rows` at a time; fewer if a row is large."""
        rows = min(rows, max(PART_BYTES // max(self.inputs[:1].nbytes, 1), 1))
        stop = len(self) if stop is None else stop
        for start in range(first, stop, rows):
            yield self.rows(slice(start, min(start + rows, stop)))

    def blocks(
        self, size: int, order: Order | None, first: int = 0, share: BatchShare | None = None
    ) -> Iterator[Dataset]:
        """Yield the rows of an epoch from row `first` on, in blocks of whole batches of `size` rows.

        With `share`, yield only this process's part of each block. The next block may overwrite the memory of this one.
        """
        if share is not None:
            yield from self._shared_blocks(size, order, first, share)
            return
        count = len(self)
        row_bytes = max(self.inputs[:1].nbytes, 1)
        step = size * max(BLOCK_BYTES // (size * row_bytes), 1)
        if order is None:
            for start in range(first, count, step):
                yield self.rows(slice(start, start + step))
            return
        indices = permutation(order.seed, "shuffle", order.epoch, count)
        buffer = np.empty((min(step, count), *self.inputs.shape[1:]), self.inputs.dtype)
        for start in range(first, count, step):
            rows = indices[start : start + step]
            inputs = buffer[: len(rows)]
            if not kernels.gather(self.inputs, rows, inputs):
                self.inputs.take(rows, 0, inputs, "clip")
            weights = None if self.weights is None else self.weights[rows]
            yield Dataset(inputs, self.targets[rows], weights)

    def _shared_blocks(self, size: int, order: Order | None, first: int, share: BatchShare) -> Iterator[Dataset]:
        """Yield this process's part of the blocks, without reading any other row."""
        count = len(self)
        step = size * max(BLOCK_BYTES // (size * max(self.inputs[:1].nbytes, 1)), 1) * share.world.size
        indices = None if order is None else permutation(order.seed, "shuffle", order.epoch, count)
        for start in range(first, count, step):
            rows = min(step, count - start)
            places = share.places(0, rows, size) + start
            part = self.rows(places if indices is None else indices[places])
            yield replace(part, block_rows=rows)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all values. A run can only resume with the data that it began with."""
        return rows_digest(np.ascontiguousarray(self.inputs).data, self.targets, self.weights)

    def features(self) -> Features:
        """Return the range of each input."""
        return Features(self.inputs.min(axis=0).astype(np.float64), self.inputs.max(axis=0).astype(np.float64))


def rows_digest(inputs: bytes | memoryview, targets: RawArray, weights: RawArray | None) -> str:
    """Return the SHA-256, in hex, of inputs (or of their digest), targets and weights, in this order."""
    hasher = hashlib.sha256(inputs)
    hasher.update(np.ascontiguousarray(targets).data)
    if weights is not None:
        hasher.update(weights.data)
    return hasher.hexdigest()
