"""Rows in memory, ready for a model and its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import size_of
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


class Conversion(NamedTuple):
    """How stored values become inputs: in the model's dtype, divided by `scale`."""

    dtype: np.dtype[Any]
    scale: float | None = None

    def __call__(self, stored: RawArray, out: RawArray | None = None) -> RawArray:
        """Return the inputs, in `out` if it is given."""
        inputs = np.empty(stored.shape, self.dtype) if out is None else out
        if self.scale is None:
            np.copyto(inputs, stored)
        else:
            np.divide(stored, self.dtype.type(self.scale), inputs)
        return inputs


def converted(stored: RawArray, conversion: Conversion | None) -> RawArray:
    """Return stored values as inputs: as they are without a conversion, else a new array."""
    return stored if conversion is None else conversion(stored)


@dataclass(frozen=True)
class Dataset:
    """Rows ready for a model: inputs of its shape and dtype, targets as the loss takes them, weights per row or None.

    `stored` are the inputs, or uint8 values that `conversion` converts a few rows at a time, as they need a quarter of
    the memory of float32. `names` are the names of the input columns, if the rows come from a table.
    `block_rows` is the number of rows in the whole block if these are only the part of one process; otherwise 0.
    `padded` says that rows are sequences of differing length, the inputs of any step of which have the same range.
    """

    stored: RawArray
    targets: RawArray
    weights: RawArray | None = None
    names: tuple[str, ...] = ()
    block_rows: int = 0
    conversion: Conversion | None = None
    padded: bool = False

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def inputs(self) -> RawArray:
        """The inputs of all rows; a new array if they are stored otherwise."""
        return converted(self.stored, self.conversion)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The dtype of `inputs`."""
        return self.stored.dtype if self.conversion is None else self.conversion.dtype

    @property
    def _row_bytes(self) -> int:
        return max(size_of(self.stored.shape[1:]) * self.input_dtype.itemsize, 1)

    def rows(self, indices: RawArray | slice) -> Dataset:
        """Return some rows: copies for indices, views for a slice."""
        weights = None if self.weights is None else self.weights[indices]
        stored, targets = self.stored[indices], self.targets[indices]
        return Dataset(stored, targets, weights, self.names, conversion=self.conversion, padded=self.padded)

    def in_order(self, rows: int, first: int = 0, stop: int | None = None) -> Iterator[Dataset]:
        """Yield rows [first, stop) in order, at most `rows` at a time; fewer if a row is large."""
        rows = min(rows, max(PART_BYTES // self._row_bytes, 1))
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
        step = size * max(BLOCK_BYTES // (size * self._row_bytes), 1)
        if order is None:
            for start in range(first, count, step):
                yield self.rows(slice(start, start + step))
            return
        indices = permutation(order.seed, "shuffle", order.epoch, count)
        gathered = np.empty((min(step, count), *self.stored.shape[1:]), self.stored.dtype)
        converted = gathered if self.conversion is None else np.empty(gathered.shape, self.input_dtype)
        for start in range(first, count, step):
            rows = indices[start : start + step]
            inputs = gathered[: len(rows)]
            self._gather(rows, inputs)
            if self.conversion is not None:
                inputs = self.conversion(inputs, converted[: len(rows)])
            weights = None if self.weights is None else self.weights[rows]
            yield Dataset(inputs, np.ascontiguousarray(self.targets[rows]), weights)

    def _gather(self, rows: RawArray, out: RawArray) -> None:
        """Copy the stored values of some rows into `out`."""
        if not kernels.gather(self.stored, rows, out):
            self.stored.take(rows, 0, out, "clip")

    def _shared_blocks(self, size: int, order: Order | None, first: int, share: BatchShare) -> Iterator[Dataset]:
        """Yield this process's part of the blocks, without reading any other row."""
        count = len(self)
        step = size * max(BLOCK_BYTES // (size * self._row_bytes), 1) * share.world.size
        indices = None if order is None else permutation(order.seed, "shuffle", order.epoch, count)
        for start in range(first, count, step):
            rows = min(step, count - start)
            places = share.places(0, rows, size) + start
            part = self.rows(places if indices is None else indices[places])
            yield replace(part, block_rows=rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that holds the rows."""
        arrays = [self.stored, self.targets, *([] if self.weights is None else [self.weights])]
        bounds = [np.lib.array_utils.byte_bounds(array) for array in arrays]  # views may overlap
        return sum(stop - start for start, stop in bounds)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all values. A run can only resume with the data that it began with."""
        hasher = hashlib.sha256()
        for part in self.in_order(max(len(self), 1)):
            hasher.update(np.ascontiguousarray(part.inputs).data)
        return finish_digest(hasher, self.targets, self.weights)

    def features(self) -> Features:
        """Return the range of each input."""
        low, high = self.stored.min(axis=0), self.stored.max(axis=0)
        if self.padded:
            low[:], high[:] = low.min(axis=0), high.max(axis=0)
        if self.conversion is not None:
            low, high = self.conversion(low), self.conversion(high)
        return Features(low.astype(np.float64), high.astype(np.float64))


def finish_digest(hasher: Any, targets: RawArray, weights: RawArray | None) -> str:
    """Return the SHA-256, in hex, of what `hasher` has seen of the inputs, then targets and weights."""
    step = max(PART_BYTES // max(targets.nbytes // max(len(targets), 1), 1), 1)
    for start in range(0, len(targets), step):  # of overlapping targets, a copy of all is larger than their file
        hasher.update(np.ascontiguousarray(targets[start : start + step]).data)
    if weights is not None:
        hasher.update(weights.data)
    return hasher.hexdigest()
