"""What decides the last bits of a result beside the document: recorded with a run, compared before a replay."""

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
    """Tell how many processes a run was shared by; 1 where the record does not say."""
    try:
        found = json.loads(record).get("processes", 1)
    except (ValueError, AttributeError):
        return 1
    return found if isinstance(found, int) else 1


def machine_differences(record: str) -> Iterator[str]:
    """Say what is other here than where a run was trained, as far as the record knows."""
    try:
        then = json.loads(record)
    except ValueError:
        then = None
    if not isinstance(then, dict):
        yield "the file does not say on what machine it was trained"
        return
    for key, here in {**json.loads(machine_record()), "processes": 1}.items():
        was = then.get(key, 1 if key == "processes" else None)
        if was != here:
            yield f"{key} was {was!r:.80}, is {here!r:.80}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _blas() -> str:
    found: Any = np.show_config(mode="dicts")
    blas = found.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', '')} {blas.get('version', '')}".strip()


def _threads() -> int:
    """Count the threads that BLAS may use: those of the processor, unless the environment says otherwise."""
    for name in THREADS:
        given = os.environ.get(name, "").split(",")[0]
        if given.isdecimal() and int(given) > 0:
            return int(given)
    return cores()
