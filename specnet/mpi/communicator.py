"""MPI, through mpi4py: the world of processes that an MPI launcher has started. Needs the extra `mpi`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.mpi.launcher import is_launched, started
from specnet.mpi.world import SINGLE, World

if TYPE_CHECKING:
    from concurrent.futures import Executor

T = TypeVar("T")


class MpiWorld(World):
    """The processes of a communicator, by default all that were launched."""

    def __init__(self, comm: Any = None) -> None:
        self.mpi = _mpi4py()
        self.comm = _whole(self.mpi) if comm is None else comm
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


def launched_world(*, wanted: bool | None = None) -> World:
    """Give the world that the launcher made, or this process alone; `wanted` asks for MPI, or for none, in any case.

    Raises SpecnetError where mpi4py, or an MPI library, is missing, or is not the one that the launcher is made for.
    """
    return MpiWorld() if wanted or (wanted is None and is_launched()) else SINGLE


@contextmanager
def launched_executor() -> Iterator[Executor | None]:
    """Give the first process an executor whose workers the others are (itself, where it is alone); them, None.

    Raises SpecnetError as launched_world does.
    """
    _whole(_mpi4py())
    from mpi4py.futures import MPICommExecutor  # noqa: PLC0415

    pool: Any = MPICommExecutor()  # its types do not say that it gives an Executor
    with pool as executor:
        yield executor


def _mpi4py() -> Any:
    """Import MPI and begin with it. Raises SpecnetError where that cannot be, which the library itself ends at once."""
    try:
        import mpi4py  # noqa: PLC0415 - of an extra

        if "mpi4py.MPI" not in sys.modules:  # what a script has set up itself stays
            mpi4py.rc.initialize = False
            mpi4py.rc.finalize = True
        from mpi4py import MPI  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # a RuntimeError where it finds no MPI library
        msg = (
            f"MPI is not there: {str(error).splitlines()[0]:.150}; pip install 'specnet-nn[mpi]', "
            "or --no-mpi where each process is to work alone"
        )
        raise World.mark_collective(SpecnetError(msg)) from error
    if not MPI.Is_initialized():
        if "OMPI_COMM_WORLD_SIZE" in os.environ and started() > 1 and MPI.get_vendor()[0] == "MPICH":
            raise _strangers(MPI, "Open MPI's launcher")
        with warnings.catch_warnings(action="ignore"):  # of a launcher it does not know, which is told below
            MPI.Init_thread()
    return MPI


def _whole(mpi: Any) -> Any:
    """Give the communicator of all processes. Raises SpecnetError where each of several would be alone in its own."""
    if started() > 1 and mpi.COMM_WORLD.Get_size() == 1:
        raise _strangers(mpi, f"the launcher, which has started {started()} processes,")
    return mpi.COMM_WORLD


def _strangers(mpi: Any, launcher: str) -> SpecnetError:
    vendor, version = mpi.get_vendor()
    library = f"mpi4py's {vendor} {'.'.join(map(str, version))}"
    msg = (
        f"{launcher} and {library} do not know each other, so each process would work alone; "
        "use the mpiexec of that MPI, say which MPI to Slurm (srun --mpi=pmi2), "
        "name the launcher's library in MPI4PY_LIBMPI, or say --no-mpi where each is to work alone"
    )
    return World.mark_collective(SpecnetError(msg))
