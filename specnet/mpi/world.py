"""The processes that share a run: a single process here, several in the subclass for MPI (communicator.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from specnet.errors import SpecnetError

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T")


class World:
    """A run of one process. In a subclass, several processes run the same steps, each on different rows."""

    rank = 0
    """The rank of this process, from 0; rank 0 writes files and reports."""
    size = 1
    """The number of processes."""

    def sum(self, array: npt.NDArray[Any]) -> None:
        """Replace an array by its sum over all processes; all get the same bits."""

    def shared_zeros(self, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a vector of zeros (count,) for this process, which `sum` sums faster than others; collective.

        This holds only for the returned array itself, not for views of it.
        """
        import numpy as np  # noqa: PLC0415 - commands set the threads of BLAS before numpy is imported

        return np.zeros(count, dtype)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank, on every process."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 on every process."""
        return value

    def abort(self, code: int) -> None:
        """End all processes at once: if one cannot continue, the others would wait for it forever."""
        sys.exit(code)

    def share(self, rows: int) -> tuple[int, int]:
        """Return this process's row range [start, stop) among `rows` rows; it may be empty."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def collectively(self, work: Callable[[], T]) -> T:
        """Run `work` on every process and wait for all. An error on one process is raised on all."""
        if self.size == 1:
            return work()
        error: SpecnetError | None = None
        try:
            result = work()
        except SpecnetError as raised:
            error = raised
        messages = self.gather(None if error is None else str(error))
        failed = [rank for rank, message in enumerate(messages) if message is not None]
        if not failed:
            return result
        if error is None or len(set(messages)) > 1:
            error = SpecnetError(f"process {failed[0]} of {self.size}: {messages[failed[0]]}")
        raise self.mark_collective(error)

    @staticmethod
    def mark_collective(error: SpecnetError) -> SpecnetError:
        """Mark an error that all processes raise: rank 0 reports it, and no process needs to end the others."""
        error.collective = True
        return error


SINGLE = World()
