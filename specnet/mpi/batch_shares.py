"""Splits each batch between the processes of a shared run: each process gets a contiguous part."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from specnet.mpi.world import World


class BatchShare:
    """This process's part of every batch of `batch` rows, and of every step: one batch or several accumulated batches.

    Parts are as even as possible; if a batch has fewer rows than there are processes, some parts are empty.
    """

    def __init__(self, world: World, batch: int) -> None:
        self.world = world
        self.batch = batch
        self.parts = lru_cache(64)(self._row_ranges)

    def _row_ranges(self, rows: int) -> tuple[tuple[int, int], ...]:
        """Return this process's row ranges [start, stop) in a step of `rows` rows, one for each batch."""
        ranges = []
        for start in range(0, rows, self.batch):
            first, stop = self.world.share(min(self.batch, rows - start))
            ranges.append((start + first, start + stop))
        return tuple(ranges)

    def count(self, rows: int) -> int:
        """Return the number of this process's rows in a step of `rows` rows."""
        return sum(stop - first for first, stop in self.parts(rows))

    def places(self, first: int, rows: int, step: int) -> npt.NDArray[np.int64]:
        """Return the positions of this process's rows in the row range [first, rows) of an epoch.

        The range is divided into steps of `step` rows.
        """
        spans = [
            np.arange(start + low, start + high)
            for start in range(first, rows, step)
            for low, high in self.parts(min(step, rows - start))
        ]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)
