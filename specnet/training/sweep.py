"""Many runs of one experiment: every combination of some settings, ranked by the experiment's monitored metric.

Each combination is an ordinary run in a separate folder, so an interrupted sweep resumes with the missing runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path

from specnet.errors import SpecnetError
from specnet.files.atomic import write_file
from specnet.files.csv_cells import cell_text
from specnet.files.lock import folder_lock
from specnet.files.paths import is_same_file
from specnet.files.regular import open_regular
from specnet.mpi.launcher import THREADS, cores
from specnet.training.early_stopping import is_better
from specnet.training.loop import Listener
from specnet.training.runs.run_folder import HISTORY
from specnet.training.runs.train import train
from specnet.training.sweep_plan import SEEDS, TABLE, Outcome, Sweep, Trial, plan_sweep

__all__ = ["SEEDS", "TABLE", "Outcome", "Sweep", "Trial", "plan_sweep", "run_sweep", "runs_of", "share_sweep"]

_CHILD = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # SIGTERM when the sweep is killed: end with a checkpoint
runpy.run_module("specnet", run_name="__main__", alter_sys=True)
"""


_MALFORMED = (ValueError, IndexError, csv.Error)
"""What reading a table raises if it is not the one that was written."""


_LAUNCHER_VARIABLE = re.compile(r"PMI|MPI|OMPI|PALS|HYDRA|SLURM")


def run_sweep(
    sweep: Sweep, *, jobs: int | None = None, tell: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run what is missing, `jobs` processes at a time (one per core by default), each with its share of BLAS threads.

    A failed run becomes an outcome with an error, and the other runs continue. `tell` is called with every outcome.
    Writes sweep.csv, also when interrupted. Raises SpecnetError if the folder cannot be written to.
    """
    jobs = min(jobs or cores(), len(sweep.trials))
    environment = {key: value for key, value in os.environ.items() if not _LAUNCHER_VARIABLE.match(key)}
    environment |= dict.fromkeys(THREADS, str(max(cores() // jobs, 1)))
    running: set[subprocess.Popen[str]] = set()

    def run_process(trial: Trial) -> Outcome:
        start = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - runs this interpreter and this package
            _command(sweep, trial),
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # only the sweep receives a terminal's Ctrl-C, and it ends the runs
        )
        running.add(process)
        _, stderr = process.communicate()
        running.discard(process)
        error = (stderr.strip() or f"ended with exit code {process.returncode}") if process.returncode else None
        return _outcome(sweep, trial, time.monotonic() - start, error)

    with _locked(sweep):
        pool = ThreadPoolExecutor(jobs)
        try:
            return _collect_outcomes(sweep, pool, run_process, tell)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):  # each writes a checkpoint and ends
                process.terminate()
            raise
        finally:
            pool.shutdown()


def share_sweep(
    sweep: Sweep,
    executor: Executor,
    *,
    listeners: Sequence[Listener] = (),
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Do what `run_sweep` does with the workers of an executor, for example mpi4py's, each in its own process.

    `listeners` are sent to the workers and receive the events of their runs.
    """
    with _locked(sweep):
        return _collect_outcomes(sweep, executor, _WorkerRun(sweep, listeners), tell)


def _locked(sweep: Sweep) -> contextlib.AbstractContextManager[object]:
    """Lock the folder of a sweep. Raises SpecnetError, also if the table would replace a data file."""
    for path in sweep.data_files:
        if is_same_file(path, sweep.folder / TABLE):
            msg = f"{path}: the sweep would write over it; choose another folder (--out)"
            raise SpecnetError(msg)
    return folder_lock(sweep.folder, "a sweep")


class _WorkerRun:
    """Trains in the process that calls it; can be pickled and sent to a worker."""

    def __init__(self, sweep: Sweep, listeners: Sequence[Listener]) -> None:
        self.sweep = Sweep(sweep.experiment, sweep.folder, sweep.monitor, [], sweep.paths)
        self.listeners = listeners

    def __call__(self, trial: Trial) -> Outcome:
        start, message = time.monotonic(), None
        try:
            train(
                self.sweep.experiment,
                out=self.sweep.folder / trial.name,
                resume=True,
                overrides=trial.overrides,
                listeners=self.listeners,
            )
        except SpecnetError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001 - like a separate process, it fails without the other runs
            message = f"{type(error).__name__}: {error}"
        return _outcome(self.sweep, trial, time.monotonic() - start, message)


def _collect_outcomes(
    sweep: Sweep, executor: Executor, work: Callable[[Trial], Outcome], tell: Callable[[Outcome], None]
) -> list[Outcome]:
    try:
        for future in as_completed([executor.submit(work, trial) for trial in sweep.trials]):
            sweep.outcomes.append(future.result())
            tell(sweep.outcomes[-1])
    finally:
        write_file(sweep.folder / TABLE, sweep.table().encode(), SpecnetError)
    return sweep.ranked()


def runs_of(folder: Path, most: int = 12) -> list[Path]:
    """List the runs in a sweep's folder, the best first by its table; only `folder` itself for any other folder.

    Raises SpecnetError if the table names a run outside the folder.
    """
    try:
        rows = [cell_text(run) for run, error in _read_columns(folder / TABLE, "run", "error") if not error]
    except (*_MALFORMED, OSError):
        return [folder]
    for name in rows[:most]:
        if Path(name).name != name or name in ("", "..") or not _is_inside(folder / name, folder):
            msg = f"{folder / TABLE}: expected the name of a run in this folder, got {name!r:.80}"
            raise SpecnetError(msg)
    return [folder / name for name in rows[:most]] or [folder]


def _is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _command(sweep: Sweep, trial: Trial) -> list[str]:
    settings = [argument for path, value in trial.overrides.items() for argument in ("--set", f"{path}={value}")]
    command = ["-c", _CHILD, "train", sweep.experiment, "--out", str(sweep.folder / trial.name)]
    return [sys.executable, *command, "--resume", "--quiet", *settings]


def _outcome(sweep: Sweep, trial: Trial, seconds: float, error: str | None) -> Outcome:
    """Return the outcome of a run, with the best value of the monitored metric from its history."""
    outcome = Outcome(trial, seconds=seconds, error=error.splitlines()[-1][:300] if error else None)
    if error is None:
        try:
            history = _history(sweep.folder / trial.name / HISTORY, sweep.monitor)
        except SpecnetError as damage:
            history, outcome.error = [], str(damage)
        for epoch, value in history:
            if epoch <= trial.epochs and is_better(sweep.monitor, value, outcome.value):
                outcome.value, outcome.epoch = value, epoch
        if outcome.value is None:
            outcome.error = outcome.error or f"its history has no value of {sweep.monitor}"
    return outcome


def _history(path: Path, metric: str) -> list[tuple[int, float]]:
    """Return epochs and values of a metric. Raises SpecnetError if the table is damaged."""
    try:
        return [(int(epoch), float(value)) for epoch, value in _read_columns(path, "epoch", metric) if value]
    except FileNotFoundError:
        return []
    except (*_MALFORMED, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"{HISTORY} cannot be read ({reason}); remove the folder of the run to repeat it"
        raise SpecnetError(msg) from error


def _read_columns(path: Path, *names: str) -> list[list[str]]:
    """Read columns of a table with a header; no rows if one is missing, as in a history without this metric.

    Raises OSError, and the errors in _MALFORMED, also for a table with none of the columns.
    """
    with open_regular(path) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        reader = csv.reader(text)
        header = next(reader, [])
        places = [header.index(name) for name in names if name in header]
        if not places:
            msg = f"there is no column {names[0]}"
            raise ValueError(msg)
        if len(places) < len(names):
            return []
        return [[row[place] for place in places] for row in reader if row]
