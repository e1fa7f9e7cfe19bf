"""Runs contenders side by side: each in a process of its own, in turn, for several rounds, beside a floor.

A benchmark names its cases and its contenders, functions from a case to what was measured, and calls `main`. Medians
are over the rounds whose floor is within a tenth of the best one. Where contenders tell what they computed, the
answers have to agree. One whose library is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEADY = 1.1
Found = dict[str, Any]  # "time" in seconds; "answer", numbers that contenders share; "memory" in MB
Contender = Callable[[str], "Found | None"]


def timed(call: Callable[[], object], count: int, bursts: int = 5) -> float:
    """Give the seconds a call takes: the median of several bursts of `count` calls, after a fifth of one to warm up."""
    for _ in range(max(count // 5, 3)):
        call()
    times = []
    for _ in range(bursts):
        began = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def peak_memory() -> float:
    """Give the most memory that this process has held, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kilobytes / 1000


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def main(
    script: str,
    about: str,
    cases: Sequence[str],
    contenders: Mapping[str, Contender],
    *,
    rtol: float = 1e-3,
    rounds: int = 5,
) -> None:
    """Run a benchmark, or, as its child, one contender on one case."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--one-core", action="store_true", help="pin everything to one core: steady on a busy machine")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose names hold TEXT")
    parser.add_argument("--json", type=Path, help="write all figures to a file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        contender, case = options.measure
        print(json.dumps(contenders[contender](case)))
        return
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = {}
    for case in cases:
        if options.only in case:
            figures[case] = _contest(script, case, list(contenders), options.rounds, rtol)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _contest(script: str, case: str, contenders: Sequence[str], rounds: int, rtol: float) -> dict[str, Found]:
    found: dict[str, list[Found]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            if (result := _run(script, name, case)) is not None:
                found[name].append(result)
    found = {name: results for name, results in found.items() if results}
    _check_answers(case, found, rtol)
    floors = [result["time"] for result in found["floor"]]
    steady = [floor <= STEADY * min(floors) for floor in floors]
    medians: dict[str, Found] = {}
    for name, results in found.items():
        kept = [result for result, good in zip(results, steady, strict=True) if good]
        medians[name] = {
            key: statistics.median(result[key] for result in kept) for key in ("time", "memory") if key in kept[0]
        }
    _show(f"{case} (medians of {sum(steady)} of {rounds} rounds, {cores()} cores)", medians)
    return medians


def _run(script: str, name: str, case: str) -> Found | None:
    environment = {**os.environ, "SPECNET_KERNELS": "numpy" if name == "specnet, numpy" else ""}
    environment |= {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, script, "--measure", name, case]
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if made.returncode:
        if "No module named" in made.stderr.splitlines()[-1]:
            return None
        sys.exit(f"{name}, {case}: {made.stderr}")
    result: Found | None = json.loads(made.stdout.splitlines()[-1])
    return result


def _check_answers(case: str, found: Mapping[str, Sequence[Found]], rtol: float) -> None:
    expected = found["specnet"][0].get("answer")
    for name, results in found.items():
        answer = results[0].get("answer")
        if answer is not None and not np.allclose(answer, expected, rtol=rtol, atol=rtol):
            sys.exit(f"{case}: {name} computes {answer}, specnet {expected}")


def _show(title: str, medians: Mapping[str, Found]) -> None:
    print(f"\n{title}")
    ours, floor = medians["specnet"]["time"], medians["floor"]["time"]
    for name, result in medians.items():
        value = result["time"]
        unit, factor = ("s", 1) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
        memory = f"  {result['memory']:7.0f} MB" if "memory" in result else ""
        ratios = f"{value / ours:6.2f} x specnet  {value / floor:6.2f} x floor"
        print(f"  {name:16} {value * factor:8.1f} {unit:2}  {ratios}{memory}")
