"""What determines the last bits of a result beside the document: recorded with a run, compared by a replay."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specnet.kernels import backend
from specnet.mpi.launcher import THREADS, cores


def machine_record(processes: int = 1) -> str:
    """Describe processor, BLAS, its threads, numpy, the kernels, and how many processes share a run, as JSON text."""
    record: dict[str, Any] = {
        "processor": _processor(),
        "blas": _blas(),
        "threads": _threads(),
        "numpy": np.__version__,
        "kernels": backend(),
    }
    if processes > 1:
        record["processes"] = processes
    return json.dumps(record)


def processes_of(record: str) -> int:
    """Return the number of processes that shared a run; 1 if the record has no number."""
    try:
        processes = json.loads(record).get("processes", 1)
    except (ValueError, AttributeError):
        return 1
    return processes if isinstance(processes, int) else 1


def machine_differences(record: str) -> Iterator[str]:
    """Yield the differences between this machine and the recorded one on which a run was trained."""
    try:
        recorded = json.loads(record)
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        yield "the file does not record the machine on which it was trained"
        return
    for key, current in {**json.loads(machine_record()), "processes": 1}.items():
        was = recorded.get(key, 1 if key == "processes" else None)
        if was != current:
            yield f"{key} was {was!r:.80}, is {current!r:.80}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', '')} {blas.get('version', '')}".strip()


def _threads() -> int:
    """Return the number of threads that BLAS may use: from the environment, otherwise the number of cores."""
    for name in THREADS:
        text = os.environ.get(name, "").split(",")[0]
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return cores()
