"""MPI, through mpi4py: the world of processes that an MPI launcher has started. Needs the extra `mpi`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.world import ALONE, World

if TYPE_CHECKING:
    from concurrent.futures import Executor

T = TypeVar("T")

_LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID")
"""What launchers of MPICH, Open MPI, MVAPICH, Slurm and Cray set."""


class MpiWorld(World):
    """The processes of a communicator, by default all that were launched."""

    def __init__(self, comm: Any = None) -> None:
        self.mpi = _mpi4py()
        self.comm = self.mpi.COMM_WORLD if comm is None else comm
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()

    def sum(self, array: npt.NDArray[Any]) -> None:
        self.comm.Allreduce(self.mpi.IN_PLACE, array)

    def gather(self, value: T) -> list[T]:
        found: list[T] = self.comm.allgather(value)
        return found

    def broadcast(self, value: T) -> T:
        found: T = self.comm.bcast(value)
        return found

    def abort(self, code: int) -> None:
        self.comm.Abort(code)


def is_launched() -> bool:
    """Tell whether an MPI launcher has started this process; imports nothing."""
    return any(name in os.environ for name in _LAUNCHED)


def launched_world(*, wanted: bool = False) -> World:
    """Give the world that the launcher made, or this process alone; `wanted` asks for MPI without a launcher, too.

    Raises SpecnetError where mpi4py, or an MPI library, is missing.
    """
    return MpiWorld() if wanted or is_launched() else ALONE


@contextmanager
def launched_executor() -> Iterator[Executor | None]:
    """Give the first process an executor whose workers the others are (itself, where it is alone); them, None.

    Raises SpecnetError where mpi4py, or an MPI library, is missing.
    """
    _mpi4py()
    from mpi4py.futures import MPICommExecutor  # noqa: PLC0415

    pool: Any = MPICommExecutor()  # its types do not say that it gives an Executor
    with pool as executor:
        yield executor


def _mpi4py() -> Any:
    try:
        from mpi4py import MPI  # noqa: PLC0415 - of an extra
    except (ImportError, RuntimeError) as error:  # a RuntimeError where it finds no MPI library
        msg = f"MPI is not there: {str(error).splitlines()[0]:.150}; pip install 'specnet-nn[mpi]'"
        raise SpecnetError(msg) from error
    return MPI
