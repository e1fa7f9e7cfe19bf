"""Processes: one, or several that share a run through MPI.

Imports only `errors`, and numpy as late as possible, because commands set the number of BLAS threads before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnet.mpi.communicator import MpiWorld as MpiWorld
    from specnet.mpi.communicator import launched_executor as launched_executor
    from specnet.mpi.communicator import launched_world as launched_world

__all__ = ["MpiWorld", "launched_executor", "launched_world"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from specnet.mpi import communicator  # noqa: PLC0415 - imports numpy

        return getattr(communicator, name)
    msg = f"module 'specnet.mpi' has no attribute {name!r}"
    raise AttributeError(msg)
