"""What the launcher of several processes says in the environment, and how these share a machine's cores.

Imports nothing but the standard library: how many threads BLAS has is decided before numpy is imported.
"""

from __future__ import annotations

import os
import re

THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")


_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID")
"""What launchers of MPICH, Open MPI, MVAPICH, Slurm and Cray set."""


_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where they say how many processes there are; Slurm says so also where it starts them without MPI."""


_HERE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE")
"""How many of them are on this machine."""


_SLURM_HERE = "SLURM_STEP_TASKS_PER_NODE"
"""The same of Slurm's own steps: "2(x4),1" is two on each of four machines, and one on the last."""


def is_launched() -> bool:
    """Tell whether a launcher has started this process, or several of which it is one."""
    return any(name in os.environ for name in _RANKS) or started() > 1


def is_first() -> bool:
    """Tell whether this process is alone, or the first one by what its launcher says."""
    return _told((*_RANKS, "SLURM_PROCID"), 0) == 0


def started() -> int:
    """Count the processes that the launcher started."""
    return _told(_SIZES, 1)


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let BLAS use this process's share of the cores, unless the environment says otherwise; for commands alone.

    Threads of several processes that wait for each other's cores make a step ten times as long.
    """
    if not is_launched() or any(os.environ.get(name) for name in THREADS):
        return
    here = _told(_HERE, 0)
    own = 0 if here else min(_told(("SLURM_CPUS_PER_TASK",), 0), cores())
    own = own or max(cores() // max(here or _told((_SLURM_HERE,), started()), 1), 1)
    os.environ |= dict.fromkeys(THREADS, str(own))


def _told(names: tuple[str, ...], otherwise: int) -> int:
    """Give the first number that one of these variables begins with."""
    found = (re.match(r"\d{1,9}", os.environ.get(name, "")) for name in names)
    return next((int(number[0]) for number in found if number), otherwise)
