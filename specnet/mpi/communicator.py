"""MPI through mpi4py: the processes that an MPI launcher started. Needs the extra `mpi`."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.mpi.launcher import is_launched, started
from specnet.mpi.shared_memory import LEAST, SharedSum, map_together, vector_bytes, vector_of
from specnet.mpi.world import SINGLE, World

if TYPE_CHECKING:
    from concurrent.futures import Executor

T = TypeVar("T")


class MpiWorld(World):
    """The processes of a communicator, by default all launched processes."""

    def __init__(self, comm: Any = None) -> None:
        self.mpi = _initialized_mpi()
        self.comm = _connected_communicator(self.mpi) if comm is None else comm
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()
        self._shared_sums: dict[int, SharedSum] = {}  # by the id of the vector

    def sum(self, array: npt.NDArray[Any]) -> None:
        shared_sum = self._shared_sums.get(id(array))
        if shared_sum is None:
            self.comm.Allreduce(self.mpi.IN_PLACE, array)
        else:
            shared_sum()

    def shared_zeros(self, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a vector in memory that the processes of a machine share, or an ordinary one if it would not help.

        It is ordinary, on all processes, if it is short, if no machine runs several processes or not all machines run
        equally many, and if the memory cannot be shared on one of them.
        """
        kind, machine = np.dtype(dtype), self._machine
        alike = len(set(self.gather((count, kind.str, machine.Get_size())))) == 1
        if not alike or count < LEAST or machine.Get_size() == 1:
            return super().shared_zeros(count, kind)
        memory = map_together(machine, vector_bytes(count, kind))
        if not all(self.gather(memory is not None)) or memory is None:
            return super().shared_zeros(count, kind)
        vector = vector_of(memory, count, kind, machine.Get_rank())
        self._shared_sums[id(vector)] = SharedSum(memory, count, kind, machine, self._peers)
        weakref.finalize(vector, self._shared_sums.pop, id(vector)).atexit = False  # frees the memory with the vector
        return vector

    @cached_property
    def _machine(self) -> Any:
        """The communicator of the processes of this machine; the first access is collective."""
        return self.comm.Split_type(self.mpi.COMM_TYPE_SHARED, self.rank)

    @cached_property
    def _peers(self) -> Any:
        """The communicator of the processes with this rank on their machine; None if there is only one machine."""
        machine = self._machine
        return None if machine.Get_size() == self.size else self.comm.Split(machine.Get_rank(), self.rank)

    def gather(self, value: T) -> list[T]:
        values: list[T] = self.comm.allgather(value)
        return values

    def broadcast(self, value: T) -> T:
        received: T = self.comm.bcast(value)
        return received

    def abort(self, code: int) -> None:
        self.comm.Abort(code)


def launched_world(*, wanted: bool | None = None) -> World:
    """Return the world of the launched processes, or of this process alone; `wanted` turns MPI on or off explicitly.

    Raises SpecnetError if mpi4py or an MPI library is missing, or if the library does not match the launcher.
    """
    return _world_of_all() if wanted or (wanted is None and is_launched()) else SINGLE


@cache
def _world_of_all() -> MpiWorld:
    """Return the world of all processes: one object, since it makes communicators, and their number is limited."""
    return MpiWorld()


@contextmanager
def launched_executor() -> Iterator[Executor | None]:
    """Yield, on the first process, an executor whose workers are the others (or itself, if alone); on the others, None.

    Raises SpecnetError under the same conditions as launched_world.
    """
    _connected_communicator(_initialized_mpi())
    from mpi4py.futures import MPICommExecutor  # noqa: PLC0415

    pool: Any = MPICommExecutor()  # its types do not declare that it yields an Executor
    with pool as executor:
        yield executor


def _initialized_mpi() -> Any:
    """Import and initialize MPI. Raises SpecnetError if it would fail, before the library ends the process."""
    try:
        import mpi4py  # noqa: PLC0415 - an optional dependency

        if "mpi4py.MPI" not in sys.modules:  # a script that has imported MPI keeps its settings
            mpi4py.rc.initialize = False
            mpi4py.rc.finalize = True
        from mpi4py import MPI  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library was found
        msg = (
            f"MPI is not available: {str(error).splitlines()[0]:.150}; pip install 'specnet-nn[mpi]', "
            "or use --no-mpi if each process is to work alone"
        )
        raise World.mark_collective(SpecnetError(msg)) from error
    if not MPI.Is_initialized():
        if "OMPI_COMM_WORLD_SIZE" in os.environ and started() > 1 and MPI.get_vendor()[0] == "MPICH":
            raise _mismatch_error(MPI, "Open MPI's launcher")
        with warnings.catch_warnings(action="ignore"):  # a launcher mismatch is reported as an error below
            MPI.Init_thread()
    return MPI


def _connected_communicator(mpi: Any) -> Any:
    """Return the communicator of all processes. Raises SpecnetError if MPI did not connect them."""
    if started() > 1 and mpi.COMM_WORLD.Get_size() == 1:
        raise _mismatch_error(mpi, f"the launcher, which started {started()} processes,")
    return mpi.COMM_WORLD


def _mismatch_error(mpi: Any, launcher: str) -> SpecnetError:
    vendor, version = mpi.get_vendor()
    library = f"mpi4py's {vendor} {'.'.join(map(str, version))}"
    msg = (
        f"{launcher} and {library} do not match, so each process would work alone; "
        "use the mpiexec of that MPI, select the MPI in Slurm (srun --mpi=pmi2), "
        "set MPI4PY_LIBMPI to the launcher's library, or use --no-mpi if each process is to work alone"
    )
    return World.mark_collective(SpecnetError(msg))
