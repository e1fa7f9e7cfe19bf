"""The processes that share a run: here one alone, which is all there is without MPI (mpi.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy.typing as npt

from specnet.errors import SpecnetError

T = TypeVar("T")


class World:
    """One process that does everything; a subclass is one of several that do the same steps on rows of their own."""

    rank = 0
    """The number of this process, from 0; 0 writes and tells."""
    size = 1
    """How many there are."""

    def sum(self, array: npt.NDArray[Any]) -> None:
        """Replace an array by its sum over all processes, which all get with the same bits."""

    def gather(self, value: T) -> list[T]:
        """Give the values of all processes, to all, by rank."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Give all what the first has."""
        return value

    def abort(self, code: int) -> None:
        """End all processes at once: one alone cannot go on, and the others would wait for it."""
        sys.exit(code)

    def share(self, rows: int) -> tuple[int, int]:
        """Give the first of this process's rows, of so many, and the one behind its last; it may have none."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def collectively(self, work: Callable[[], T]) -> T:
        """Do what every process has to have done before any goes on. Raises the error of one in all of them."""
        if self.size == 1:
            return work()
        error: SpecnetError | None = None
        try:
            result = work()
        except SpecnetError as raised:
            error = raised
        told = self.gather(None if error is None else str(error))
        wrong = [rank for rank, text in enumerate(told) if text is not None]
        if not wrong:
            return result
        if error is None or len(set(told)) > 1:
            error = SpecnetError(f"process {wrong[0]} of {self.size}: {told[wrong[0]]}")
        raise self.mark_collective(error)

    @staticmethod
    def mark_collective(error: SpecnetError) -> SpecnetError:
        """Mark an error that all processes raise: the first one tells it, and none has to end the others."""
        error.collective = True
        return error


SINGLE = World()
