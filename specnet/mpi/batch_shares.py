"""Which rows of each batch are whose, where several processes share a run: a contiguous part of each batch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from specnet.mpi.world import World


class BatchShare:
    """This process's part of every batch of `batch` rows; of a step, which is one batch or several that add up.

    Parts are as even as they can be, and a process has none of a batch with fewer rows than processes.
    """

    def __init__(self, world: World, batch: int) -> None:
        self.world = world
        self.batch = batch
        self.parts = lru_cache(64)(self._parts)

    def _parts(self, rows: int) -> tuple[tuple[int, int], ...]:
        """Give this process's rows of a step of so many: (first, one behind the last) in each of its batches."""
        found = []
        for start in range(0, rows, self.batch):
            first, stop = self.world.share(min(self.batch, rows - start))
            found.append((start + first, start + stop))
        return tuple(found)

    def count(self, rows: int) -> int:
        """Count this process's rows of a step of `rows`."""
        return sum(stop - first for first, stop in self.parts(rows))

    def places(self, first: int, rows: int, step: int) -> npt.NDArray[np.int64]:
        """Give the places of this process's rows among the first `rows` of an epoch, from `first` on.

        Steps are of `step` rows, and begin at multiples of that.
        """
        spans = [
            np.arange(start + low, start + high)
            for start in range(first, rows, step)
            for low, high in self.parts(min(step, rows - start))
        ]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)
