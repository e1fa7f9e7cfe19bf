"""The runs of a sweep: plan and check them, compare and rank their outcomes."""

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
from specnet.files.csv_cells import csv_cells
from specnet.files.paths import user_path
from specnet.training.experiment import load_experiment
from specnet.training.loading import missing_files
from specnet.training.metrics import greater_is_better
from specnet.training.spec.experiment_spec import ExperimentSpec

TABLE = "sweep.csv"

MOST = 10_000
"""Greatest number of runs of one sweep."""

LONGEST = 160
"""Greatest number of characters of a run's name, without a digest."""

SEEDS = ("training.seed", "model.seed")


class Trial(NamedTuple):
    """One run of a sweep: its folder's name, its overrides (JSON text by path), and its number of epochs."""

    name: str
    overrides: Mapping[str, str]
    epochs: int


@dataclass
class Outcome:
    """The result of a run: the best value of the monitored metric and its epoch; `error` if it failed."""

    trial: Trial
    value: float | None = None
    epoch: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Sweep:
    """All checked combinations, and the folder of their runs; `monitor` is the metric that ranks them."""

    experiment: str
    folder: Path
    monitor: str
    trials: list[Trial]
    paths: tuple[str, ...]
    """Paths of the varied settings, without seeds and settings with one value."""
    outcomes: list[Outcome] = field(default_factory=list)
    data_files: tuple[Path, ...] = ()
    """The files that the runs read, which the sweep must not replace."""

    def place(self, value: float | None) -> tuple[bool, float]:
        """Return a sort key for values of the monitored metric: better values first, None last."""
        sign = -1.0 if greater_is_better(self.monitor) else 1.0
        return value is None, 0.0 if value is None else sign * value

    def ranked(self) -> list[Outcome]:
        """Return the runs, the best first, failed ones last."""
        return sorted(self.outcomes, key=lambda outcome: (*self.place(outcome.value), outcome.trial.name))

    def table(self) -> str:
        """Return the text of a CSV table with one row per run."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        varied = list(dict.fromkeys(path for outcome in self.outcomes for path in outcome.trial.overrides))
        writer.writerow(csv_cells(["rank", "run", *varied, self.monitor, "epoch", "seconds", "error"]))
        for rank, outcome in enumerate(self.ranked(), 1):
            settings = [outcome.trial.overrides.get(path, "") for path in varied]
            value = "" if outcome.value is None else repr(outcome.value)
            row = [outcome.trial.name, *settings, value, outcome.epoch or "", f"{outcome.seconds:.2f}"]
            writer.writerow(csv_cells([rank, *row, outcome.error or ""]))
        return text.getvalue()


def plan_sweep(
    experiment: str | os.PathLike[str],
    settings: Mapping[str, Sequence[str]],
    *,
    seeds: int = 1,
    out: str | os.PathLike[str] | None = None,
) -> Sweep:
    """Check every combination of `settings` (JSON texts by path in the document) before any is run.

    Each combination is run `seeds` times, with consecutive seeds that start at the document's. Raises SpecError for the
    errors of any combination, with the combination; SpecnetError for too many runs.
    """
    count = math.prod(len(values) for values in settings.values()) * seeds
    if not 0 < count <= MOST:
        msg = f"a sweep of {count:,} runs; expected 1 to {MOST:,}"
        raise SpecnetError(msg)
    varied = [path for path, values in settings.items() if len(values) > 1]
    if seeds > 1 and set(varied) & set(SEEDS):
        msg = f"{' and '.join(sorted(set(varied) & set(SEEDS)))}: varied, and so are the seeds; choose one"
        raise SpecnetError(msg)
    trials: list[Trial] = []
    errors: dict[str, list[str]] = {}
    monitors: dict[str, str] = {}
    data_errors: dict[str, SpecError | None] = {}
    name, files = "", set[Path]()
    for values in itertools.product(*settings.values()):
        overrides = dict(zip(settings, values, strict=True))
        combination = " ".join(f"{path}={overrides[path]}" for path in varied)
        try:
            spec, folder = _check_combination(experiment, overrides, data_errors)
        except SpecError as error:
            for line in error.lines():
                errors.setdefault(line, []).append(combination)
            continue
        files |= {folder / path for path in spec.data.files()}
        for path in missing_files(spec, folder):
            errors.setdefault(f"{path}: there is no such file", []).append(combination)
        name = name or spec.name
        monitors.setdefault(_monitor(spec), combination)
        trials += _trials(spec, varied, overrides, seeds)
    if errors:
        problems = [Problem("", f"{line}{_where(places)}", "in_a_sweep") for line, places in errors.items()]
        raise SpecError(problems)
    if len(monitors) > 1:
        listing = "; ".join(f"{monitor} with {combination}" for monitor, combination in monitors.items())
        msg = f"the runs cannot be ranked, because they monitor different metrics: {listing}"
        raise SpecnetError(msg)
    target = user_path(out) if out is not None else Path("runs") / f"{name}-sweep"
    return Sweep(os.fspath(experiment), target, next(iter(monitors)), trials, tuple(varied), data_files=tuple(files))


def _check_combination(
    experiment: str | os.PathLike[str], overrides: Mapping[str, str], data_errors: dict[str, SpecError | None]
) -> tuple[ExperimentSpec, Path]:
    """Check a combination, reading the data files only once for equal requirements. Raises SpecError."""
    spec, folder = load_experiment(experiment, overrides)
    requirements = spec.model_dump_json(include={"data": True, "model": True, "training": {"loss"}})
    if requirements not in data_errors:
        try:
            load_experiment(experiment, overrides, check_data=True)
            data_errors[requirements] = None
        except SpecError as error:
            data_errors[requirements] = error
    error_of_data = data_errors[requirements]
    if error_of_data is not None:
        raise error_of_data
    return spec, folder


def _monitor(spec: ExperimentSpec) -> str:
    return spec.training.checkpoint.monitored or ("val_loss" if spec.data.validation is not None else "loss")


def _where(combinations: list[str]) -> str:
    """Return the text that names the combinations with an error."""
    count = len(combinations) - 1
    more = f", and {count} more combination{'s' if count > 1 else ''}" if count else ""
    return f" (with {combinations[0]}{more})" if combinations[0] else ""


def _trials(spec: ExperimentSpec, varied: Sequence[str], overrides: dict[str, str], seeds: int) -> list[Trial]:
    """Return the runs of a combination, named by the last part of each varied path, or the whole path if ambiguous.

    A name that had to be changed ends in a digest, so that no two names are equal.
    """
    last = [path.rpartition(".")[2] for path in varied]
    parts = [
        f"{short if last.count(short) == 1 else path}={overrides[path]}"
        for path, short in zip(varied, last, strict=True)
    ]
    trials = []
    for seed in range(seeds):
        seeded, full = dict(overrides), "_".join(parts)
        if seeds > 1:
            seeded |= {"training.seed": str(spec.training.seed + seed), "model.seed": str(spec.built_model.seed + seed)}
            full = "_".join([*parts, f"seed={spec.training.seed + seed}"])
        name = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", full)[:LONGEST] or "run"
        if name != full and full:
            name += f"-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
        trials.append(Trial(name, seeded, spec.training.epochs))
    return trials
