"""The runs of a sweep: planned, compared, ranked."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from specnet.errors import Problem, SpecError, SpecnetError
from specnet.files.paths import user_path
from specnet.training.experiment import load_experiment
from specnet.training.loading import missing_files
from specnet.training.metrics import greater_is_better
from specnet.training.spec.experiment_spec import ExperimentSpec

TABLE = "sweep.csv"


MOST = 10_000
"""Runs of one sweep."""

LONGEST = 160
"""Characters of a run's name."""

SEEDS = ("training.seed", "model.seed")


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
