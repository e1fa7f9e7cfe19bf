"""Run contenders side by side: each in its own process, in turn, for several rounds, and next to a floor.

A benchmark passes its cases and its contenders, functions from a case to a measurement, to `main`. Medians are taken
over the rounds in which the floor's time is within a tenth of its best time. The answers of all contenders that return
one must agree. A contender whose library is not installed is left out.
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

STEADY = 1.1  # a round counts if its floor takes at most this many times the best floor
Measurement = dict[str, Any]  # "time" in seconds; "answer", numbers that must agree; "memory" in MB; "cores" busy
Contender = Callable[[str], "Measurement | None"]


def timed(call: Callable[[], object], count: int, bursts: int = 5) -> float:
    """Return the seconds per call: the median over bursts of `count` calls, after a warm-up of a fifth of a burst."""
    for _ in range(max(count // 5, 3)):
        call()
    times = []
    for _ in range(bursts):
        began = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def busy_cores(call: Callable[[], object], count: int) -> float:
    """Return how many cores this process keeps busy during `count` calls: processor time / wall time."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - used) / (time.perf_counter() - began)


def peak_memory() -> float:
    """Return the peak memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kilobytes / 1000


def measured(step: Callable[[bool], Any], count: int) -> Measurement:
    """Return what a contender measures of a step: the answers of three calls, then time, busy cores and peak memory.

    The step's argument says whether its loss is needed; it returns a number, or an array of predictions.
    """
    answer = np.ravel([step(True) for _ in range(3)]).tolist()
    busy = busy_cores(lambda: step(False), count)
    time = timed(lambda: step(False), count)
    return {"time": time, "answer": answer, "cores": busy, "memory": peak_memory()}


def cores() -> int:
    """Return the number of cores that this process may use."""
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
    """Run a benchmark, or, in a child process, one contender on one case."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--one-core", action="store_true", help="pin everything to one core, for steadier times on a busy machine"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="run only the cases whose names contain TEXT")
    parser.add_argument("--json", type=Path, help="write all medians to a file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        contender, case = options.measure
        print(json.dumps(contenders[contender](case)))
        return
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    medians = {}
    for case in cases:
        if options.only in case:
            medians[case] = _run_rounds(script, case, list(contenders), options.rounds, rtol)
    if options.json:
        options.json.write_text(json.dumps(medians, indent=2) + "\n")


def _run_rounds(script: str, case: str, contenders: Sequence[str], rounds: int, rtol: float) -> dict[str, Measurement]:
    measurements: dict[str, list[Measurement]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            if (result := _run_contender(script, name, case)) is not None:
                measurements[name].append(result)
    measurements = {name: results for name, results in measurements.items() if results}
    _check_answers(case, measurements, rtol)
    floors = [result["time"] for result in measurements["floor"]]
    steady = [floor <= STEADY * min(floors) for floor in floors]
    medians: dict[str, Measurement] = {}
    for name, results in measurements.items():
        steady_results = [result for result, is_steady in zip(results, steady, strict=True) if is_steady]
        medians[name] = {
            key: statistics.median(result[key] for result in steady_results)
            for key in ("time", "memory", "cores")
            if key in steady_results[0]
        }
    _print_table(f"{case} (medians of {sum(steady)} of {rounds} rounds, {cores()} cores)", medians)
    return medians


def _run_contender(script: str, name: str, case: str) -> Measurement | None:
    environment = {**os.environ, "SPECNET_KERNELS": "numpy" if name == "specnet, numpy" else ""}
    environment |= {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, script, "--measure", name, case]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode:
        if "No module named" in process.stderr.splitlines()[-1]:
            return None
        sys.exit(f"{name}, {case}: {process.stderr}")
    result: Measurement | None = json.loads(process.stdout.splitlines()[-1])
    return result


def _check_answers(case: str, measurements: Mapping[str, Sequence[Measurement]], rtol: float) -> None:
    expected = measurements["specnet"][0].get("answer")
    for name, results in measurements.items():
        answer = results[0].get("answer")
        if answer is not None and not np.allclose(answer, expected, rtol=rtol, atol=rtol):
            sys.exit(f"{case}: {name} computes {answer}, specnet {expected}")


def _print_table(title: str, medians: Mapping[str, Measurement]) -> None:
    print(f"\n{title}")
    ours, floor = medians["specnet"]["time"], medians["floor"]["time"]
    for name, result in medians.items():
        value = result["time"]
        unit, factor = ("s", 1) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
        memory = f"  {result['memory']:7.0f} MB" if "memory" in result else ""
        memory += f"  {result['cores']:.2f} cores busy" if "cores" in result else ""
        ratios = f"{value / ours:6.2f} x specnet  {value / floor:6.2f} x floor"
        print(f"  {name:16} {value * factor:8.1f} {unit:2}  {ratios}{memory}")
