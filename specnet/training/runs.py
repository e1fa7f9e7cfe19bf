"""specnet.train: an experiment document in, a trained model and its checkpoints out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specnet.checkpoint import load
from specnet.checkpoint.durable import replace_file, write_at
from specnet.errors import SpecnetError
from specnet.layers.standardize import fit_inputs
from specnet.model import Model, build
from specnet.paths import user_path
from specnet.training.experiment import ExperimentSpec, load_data, load_experiment, loss_of
from specnet.training.loop import History, Listener, Run
from specnet.training.optimizer import Optimizer
from specnet.training.saving import BEST, EXPERIMENT, LAST, Saving, fingerprint_of

FITTED_ROWS = 4096
"""Rows at a time from which a standardize layer takes its values."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run left: the model as it is after the last step, the metrics of each epoch, and where they are saved.

    `history` maps "epoch", "loss", "accuracy", "val_loss", "val_accuracy" (as far as they apply) to one value an
    epoch. `best_path` is None where no best checkpoint is kept. `finished` is False for a run that was stopped.
    `changes` says what of document or data is other than when a resumed run began.
    """

    model: Model
    history: History
    checkpoint_path: Path
    best_path: Path | None
    finished: bool
    changes: tuple[str, ...] = ()


def train(
    experiment: str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    allow_changes: bool = False,
    overrides: Mapping[str, str] | None = None,
    listeners: Sequence[Listener] = (),
) -> TrainingResult:
    """Train as an experiment document says, and write experiment.json, last.h5 and best.h5 into `out`.

    `experiment` is the document's path or the document itself; `out` is runs/<name> by default. A run that is there
    already is never overwritten: `resume` goes on with it (or begins, where there is none), with `allow_changes` also
    where document or data have changed; `force` begins anew.
    `overrides` maps paths in the document, "training.epochs", to JSON values. Listeners are called with events.

    Raises SpecError, DataError, CheckpointError, and SpecnetError for an existing run.
    """
    spec, folder = load_experiment(experiment, overrides)
    target = user_path(out) if out is not None else Path("runs") / spec.name
    if resume and force:
        msg = "resume goes on with a run, force overwrites it; choose one"
        raise SpecnetError(msg)
    there = [name for name in (LAST, BEST) if (target / name).exists()]
    if there and not (resume or force):
        ways = "resume (--resume) goes on with it, force (--force) overwrites it"
        msg = f"{target}: holds a run already ({', '.join(there)}); {ways}"
        raise SpecnetError(msg)
    data, validation = load_data(spec, folder)
    saving = Saving(target, spec, fingerprint_of(data, validation))
    state = None
    if resume and (target / LAST).exists():
        model = load(target / LAST)
        state = model.run_state or {}
    else:
        model = build(spec.built_model)
        starts = range(0, len(data), FITTED_ROWS)
        fit_inputs(model.layers, (data.inputs[start : start + FITTED_ROWS] for start in starts))
        _clear(target, there)
    optimizer = optimizer_of(spec, model)
    run = Run(model, loss_of(spec), optimizer, spec.training, data, validation, [saving, *listeners])
    changes: tuple[str, ...] = ()
    if state is not None:
        changes = saving.restore(run, state, os.fspath(target / LAST), allow_changes=allow_changes)
    _write_document(target, spec, folder)
    run.go()
    best = target / BEST
    finished = run.epoch >= spec.training.epochs
    kept = best if saving.best is not None else None
    return TrainingResult(model, run.history, target / LAST, kept, finished, changes)


def optimizer_of(spec: ExperimentSpec, model: Model) -> Optimizer:
    """Make the experiment's optimizer; weight decay leaves biases and norms alone."""
    decayed = {name for name, parameter in spec.built_model.parameter_specs().items() if parameter.decay}
    return spec.training.optimizer.build(model, model.parameters.keys() - decayed)


def _clear(target: Path, there: list[str]) -> None:
    """Make the run's folder, without what an overwritten run left."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in there:
            (target / name).unlink()
    except OSError as error:
        msg = f"{target}: cannot be written to: {error.strerror or error}"
        raise SpecnetError(msg) from error


def _write_document(target: Path, spec: ExperimentSpec, folder: Path) -> None:
    text = _resolved(spec, folder, target).encode()
    try:
        replace_file(target / EXPERIMENT, lambda descriptor: write_at(descriptor, 0, text))
    except OSError as error:
        msg = f"{target / EXPERIMENT}: cannot be written: {error.strerror or error}"
        raise SpecnetError(msg) from error


def _resolved(spec: ExperimentSpec, folder: Path, target: Path) -> str:
    """Write the document with its model inline and its paths relative to the run's folder."""

    def relative(path: str) -> str:
        moved = os.path.relpath(folder / path, target)
        return Path(moved).as_posix()

    document = spec.model_dump(mode="json", exclude={"schema_"})
    document["model"].pop("$schema", None)
    for entry in document["data"].values():
        keys = ("path",) if entry and entry.get("path") else ("inputs", "targets")
        for key in keys if entry and "fraction" not in entry else ():
            entry[key] = relative(entry[key])
    return ExperimentSpec.model_validate(document).to_json()
