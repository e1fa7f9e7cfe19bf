"""Many runs of one experiment: every combination of some settings, ranked by the metric that the experiment watches.

Each combination is an ordinary run in a folder of its own, so a sweep that was ended goes on with what is missing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from specnet.errors import Problem, SpecError, SpecnetError
from specnet.files.atomic import write_file
from specnet.files.paths import user_path
from specnet.mpi.launcher import THREADS, cores
from specnet.training.early_stopping import is_better
from specnet.training.experiment import load_experiment
from specnet.training.loading import missing_files
from specnet.training.loop import Listener
from specnet.training.metrics import greater_is_better
from specnet.training.runs.run_folder import HISTORY
from specnet.training.runs.train import make_folder, train
from specnet.training.spec.experiment_spec import ExperimentSpec

TABLE = "sweep.csv"
MOST = 10_000
"""Runs of one sweep."""
LONGEST = 160
"""Characters of a run's name."""
SEEDS = ("training.seed", "model.seed")
_CHILD = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # be told when the sweep is killed; end with a checkpoint
runpy.run_module("specnet", run_name="__main__", alter_sys=True)
"""
_LAUNCHER = re.compile(r"PMI|MPI|OMPI|PALS|HYDRA|SLURM")


class Trial(NamedTuple):
    """One run of a sweep: its folder's name, what it changes, by path, as JSON text, and how many epochs it has."""

    name: str
    overrides: Mapping[str, str]
    epochs: int


@dataclass
class Outcome:
    """What became of a run: the best value of the monitored metric and its epoch; `error` where it failed."""

    trial: Trial
    value: float | None = None
    epoch: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Sweep:
    """All combinations, checked, and the folder of their runs; `monitor` is the metric that ranks them."""

    experiment: str
    folder: Path
    monitor: str
    trials: list[Trial]
    paths: tuple[str, ...]
    """What is varied, seeds and what has one value aside."""
    outcomes: list[Outcome] = field(default_factory=list)

    def place(self, value: float | None) -> tuple[bool, float]:
        """Give what sorts values of the monitored metric: the better first, none last."""
        sign = -1.0 if greater_is_better(self.monitor) else 1.0
        return value is None, 0.0 if value is None else sign * value

    def ranked(self) -> list[Outcome]:
        """Give the runs, the best first, those that failed last."""
        return sorted(self.outcomes, key=lambda outcome: (*self.place(outcome.value), outcome.trial.name))

    def table(self) -> str:
        """Write every run as a row of a table."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        varied = list(dict.fromkeys(path for outcome in self.outcomes for path in outcome.trial.overrides))
        writer.writerow(["rank", "run", *varied, self.monitor, "epoch", "seconds", "error"])
        for rank, outcome in enumerate(self.ranked(), 1):
            settings = [outcome.trial.overrides.get(path, "") for path in varied]
            value = "" if outcome.value is None else repr(outcome.value)
            row = [outcome.trial.name, *settings, value, outcome.epoch or "", f"{outcome.seconds:.2f}"]
            writer.writerow([rank, *row, outcome.error or ""])
        return text.getvalue()


def plan_sweep(
    experiment: str | os.PathLike[str],
    settings: Mapping[str, Sequence[str]],
    *,
    seeds: int = 1,
    out: str | os.PathLike[str] | None = None,
) -> Sweep:
    """Check every combination of `settings` (JSON texts by path in the document) before any is run.

    With `seeds`, each is run so often, from the document's seeds upwards. Raises SpecError for what is wrong in any,
    with the combination; SpecnetError for too many.
    """
    count = math.prod(len(values) for values in settings.values()) * seeds
    if not 0 < count <= MOST:
        msg = f"a sweep of {count:,} runs; expected 1 to {MOST:,}"
        raise SpecnetError(msg)
    varied = [path for path, values in settings.items() if len(values) > 1]
    if seeds > 1 and set(varied) & set(SEEDS):
        msg = f"{' and '.join(sorted(set(varied) & set(SEEDS)))}: varied, and so do the seeds; choose one"
        raise SpecnetError(msg)
    trials: list[Trial] = []
    faults: dict[str, list[str]] = {}
    monitors: dict[str, str] = {}
    data: dict[str, SpecError | None] = {}
    name = ""
    for values in itertools.product(*settings.values()):
        overrides = dict(zip(settings, values, strict=True))
        told = " ".join(f"{path}={overrides[path]}" for path in varied)
        try:
            spec, folder = _checked(experiment, overrides, data)
        except SpecError as error:
            for line in error.lines():
                faults.setdefault(line, []).append(told)
            continue
        for path in missing_files(spec, folder):
            faults.setdefault(f"{path}: there is no such file", []).append(told)
        name = name or spec.name
        monitors.setdefault(_monitor(spec), told)
        trials += _trials(spec, varied, overrides, seeds)
    if faults:
        raise SpecError([Problem("", f"{line}{_where(told)}", "in_a_sweep") for line, told in faults.items()])
    if len(monitors) > 1:
        told = "; ".join(f"{monitor} with {where}" for monitor, where in monitors.items())
        msg = f"the runs cannot be ranked, as they watch different metrics: {told}"
        raise SpecnetError(msg)
    target = user_path(out) if out is not None else Path("runs") / f"{name}-sweep"
    return Sweep(os.fspath(experiment), target, next(iter(monitors)), trials, tuple(varied))


def _checked(
    experiment: str | os.PathLike[str], overrides: Mapping[str, str], known: dict[str, SpecError | None]
) -> tuple[ExperimentSpec, Path]:
    """Check a combination; the data files once for all combinations that ask the same of them. Raises SpecError."""
    spec, folder = load_experiment(experiment, overrides)
    asked = spec.model_dump_json(include={"data": True, "model": True, "training": {"loss"}})
    if asked not in known:
        try:
            load_experiment(experiment, overrides, check_data=True)
            known[asked] = None
        except SpecError as error:
            known[asked] = error
    problem = known[asked]
    if problem is not None:
        raise problem
    return spec, folder


def _monitor(spec: ExperimentSpec) -> str:
    return spec.training.checkpoint.monitored or ("val_loss" if spec.data.validation is not None else "loss")


def _where(combinations: list[str]) -> str:
    """Say which combinations have a fault."""
    count = len(combinations) - 1
    more = f", and {count} more combination{'s' if count > 1 else ''}" if count else ""
    return f" (with {combinations[0]}{more})" if combinations[0] else ""


def _trials(spec: ExperimentSpec, varied: Sequence[str], overrides: dict[str, str], seeds: int) -> list[Trial]:
    """Name the runs of a combination by what is varied: by the last part of each path, where that is enough.

    A name that had to be changed ends in a digest, so that no two are alike.
    """
    last = [path.rpartition(".")[2] for path in varied]
    parts = [
        f"{short if last.count(short) == 1 else path}={overrides[path]}"
        for path, short in zip(varied, last, strict=True)
    ]
    made = []
    for seed in range(seeds):
        own, full = dict(overrides), "_".join(parts)
        if seeds > 1:
            own |= {"training.seed": str(spec.training.seed + seed), "model.seed": str(spec.built_model.seed + seed)}
            full = "_".join([*parts, f"seed={spec.training.seed + seed}"])
        name = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", full)[:LONGEST] or "run"
        if name != full and full:
            name += f"-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
        made.append(Trial(name, own, spec.training.epochs))
    return made


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
