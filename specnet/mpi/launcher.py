"""Reads the environment variables of process launchers, and shares a machine's cores between processes.

Imports only the standard library, because the number of BLAS threads must be set before numpy is imported.
"""

from __future__ import annotations

import os
import re

THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")


_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID")
"""Variables with the rank, set by the launchers of MPICH, Open MPI, MVAPICH, Slurm and Cray."""


_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables with the number of processes; Slurm sets its variable also for processes without MPI."""


_LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE")
"""Variables with the number of processes on this machine."""


_SLURM_LOCAL_SIZES = "SLURM_STEP_TASKS_PER_NODE"
"""The same for Slurm's own steps: "2(x4),1" means two on each of four machines and one on the last."""


def is_launched() -> bool:
    """Return whether a launcher started this process, alone or with others."""
    return any(name in os.environ for name in _RANKS) or started() > 1


def is_first() -> bool:
    """Return whether this process is alone, or has rank 0 according to its launcher."""
    return _read_number((*_RANKS, "SLURM_PROCID"), 0) == 0


def started() -> int:
    """Return the number of processes that the launcher started, or 1 without a launcher."""
    return _read_number(_SIZES, 1)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Limit BLAS to this process's share of the cores, unless the environment sets its threads; only for commands.

    If the threads of several processes compete for the same cores, a step takes ten times as long.
    """
    if not is_launched() or any(os.environ.get(name) for name in THREADS):
        return
    local_processes = _read_number(_LOCAL_SIZES, 0)
    threads = 0 if local_processes else min(_read_number(("SLURM_CPUS_PER_TASK",), 0), cores())
    threads = threads or max(cores() // max(local_processes or _read_number((_SLURM_LOCAL_SIZES,), started()), 1), 1)
    os.environ |= dict.fromkeys(THREADS, str(threads))


def _read_number(names: tuple[str, ...], default: int) -> int:
    """Return the leading number of the first of these variables that begins with a number, else `default`."""
    matches = (re.match(r"\d{1,9}", os.environ.get(name, "")) for name in names)
    return next((int(number[0]) for number in matches if number), default)
