"""Many runs of one experiment: every combination of some settings, ranked by the metric that the experiment watches.

Each combination is an ordinary run in a folder of its own, so a sweep that was ended goes on with what is missing.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path

from specnet.errors import SpecnetError
from specnet.files.atomic import write_file
from specnet.mpi.launcher import THREADS, cores
from specnet.training.early_stopping import is_better
from specnet.training.loop import Listener
from specnet.training.runs.run_folder import HISTORY
from specnet.training.runs.train import make_folder, train
from specnet.training.sweep_plan import SEEDS, TABLE, Outcome, Sweep, Trial, plan_sweep

__all__ = ["SEEDS", "TABLE", "Outcome", "Sweep", "Trial", "plan_sweep", "run_sweep", "runs_of", "share_sweep"]

_CHILD = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # be told when the sweep is killed; end with a checkpoint
runpy.run_module("specnet", run_name="__main__", alter_sys=True)
"""


_LAUNCHER = re.compile(r"PMI|MPI|OMPI|PALS|HYDRA|SLURM")


def run_sweep(
    sweep: Sweep, *, jobs: int | None = None, tell: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run what is missing, `jobs` processes at a time (one a core by default), each with its share of BLAS threads.

    A run that fails is an outcome as any other, and the rest goes on. `tell` hears of each. Writes sweep.csv, also
    when it is interrupted. Raises SpecnetError where the folder cannot be written to.
    """
    jobs = min(jobs or cores(), len(sweep.trials))
    environment = {key: value for key, value in os.environ.items() if not _LAUNCHER.match(key)}
    environment |= dict.fromkeys(THREADS, str(max(cores() // jobs, 1)))
    running: set[subprocess.Popen[str]] = set()

    def apart(trial: Trial) -> Outcome:
        begun = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - this very interpreter and program
            _command(sweep, trial),
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which tells them
        )
        running.add(process)
        _, told = process.communicate()
        running.discard(process)
        wrong = (told.strip() or f"ended with exit code {process.returncode}") if process.returncode else None
        return _outcome(sweep, trial, time.monotonic() - begun, wrong)

    make_folder(sweep.folder)
    pool = ThreadPoolExecutor(jobs)
    try:
        return _gathered(sweep, pool, apart, tell)
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
    """Do the same with the workers of an executor, mpi4py's say, each of which trains in its own process.

    `listeners` go to the workers, whose runs they hear.
    """
    make_folder(sweep.folder)
    return _gathered(sweep, executor, _Here(sweep, listeners), tell)


class _Here:
    """Trains in this process; can be sent to another one."""

    def __init__(self, sweep: Sweep, listeners: Sequence[Listener]) -> None:
        self.sweep = Sweep(sweep.experiment, sweep.folder, sweep.monitor, [], sweep.paths)
        self.listeners = listeners

    def __call__(self, trial: Trial) -> Outcome:
        begun, wrong = time.monotonic(), None
        try:
            train(
                self.sweep.experiment,
                out=self.sweep.folder / trial.name,
                resume=True,
                overrides=trial.overrides,
                listeners=self.listeners,
            )
        except SpecnetError as error:
            wrong = str(error)
        except Exception as error:  # noqa: BLE001 - as a process of its own would, it fails alone
            wrong = f"{type(error).__name__}: {error}"
        return _outcome(self.sweep, trial, time.monotonic() - begun, wrong)


def _gathered(
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
    """List the runs of a sweep's folder, the best first, as its table ranks them; `folder` alone for any other."""
    try:
        with (folder / TABLE).open(newline="") as file:
            names = [row["run"] for row in csv.DictReader(file) if not row.get("error")]
    except (OSError, KeyError, csv.Error, UnicodeDecodeError):
        return [folder]
    return [folder / name for name in names[:most]] or [folder]


def _command(sweep: Sweep, trial: Trial) -> list[str]:
    settings = [word for path, value in trial.overrides.items() for word in ("--set", f"{path}={value}")]
    train_it = ["-c", _CHILD, "train", sweep.experiment, "--out", str(sweep.folder / trial.name)]
    return [sys.executable, *train_it, "--resume", "--quiet", *settings]


def _outcome(sweep: Sweep, trial: Trial, seconds: float, wrong: str | None) -> Outcome:
    """Read what a run has come to from its history."""
    found = Outcome(trial, seconds=seconds, error=wrong.splitlines()[-1][:300] if wrong else None)
    if wrong is None:
        for epoch, value in _history(sweep.folder / trial.name / HISTORY, sweep.monitor):
            if epoch <= trial.epochs and is_better(sweep.monitor, value, found.value):
                found.value, found.epoch = value, epoch
        if found.value is None:
            found.error = f"tells no {sweep.monitor}"
    return found


def _history(path: Path, metric: str) -> Iterator[tuple[int, float]]:
    try:
        with path.open(newline="") as file:
            rows: Iterable[dict[str, str]] = list(csv.DictReader(file))
    except OSError:
        rows = []
    for row in rows:
        if row.get(metric):
            yield int(row["epoch"]), float(row[metric])
