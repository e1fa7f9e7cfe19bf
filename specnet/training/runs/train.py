"""specnet.train: train from an experiment document, and write the model's checkpoints."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specnet.checkpoint import load, load_parameters
from specnet.checkpoint.format import creation_time
from specnet.checkpoint.transfer import Transfer
from specnet.data.raw import Note, ignore
from specnet.data.streaming import AnyDataset
from specnet.errors import CheckpointMismatchError, SpecnetError
from specnet.files.atomic import write_file
from specnet.files.lock import folder_lock
from specnet.files.paths import exists, is_same_file, relative_path, user_path
from specnet.kernels import backend
from specnet.layers.standardize import fit_standardize
from specnet.model import Model, build
from specnet.mpi.world import SINGLE, World
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.loop import History, Listener, Run
from specnet.training.optimizers.base import Optimizer
from specnet.training.runs.checkpointing import Checkpointer
from specnet.training.runs.environment import processes_of
from specnet.training.runs.run_folder import BEST, EXPERIMENT, LAST, remove_link, run_files
from specnet.training.spec.checks import frozen_names
from specnet.training.spec.experiment_spec import ExperimentSpec
from specnet.training.spec.training_spec import TrainingSpec
from specnet.version import __version__

FITTED_ROWS = 4096
"""Number of rows read at a time to fit a standardize layer."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run: the model after the last step, the metrics of each epoch, and where they are saved.

    `history` maps "epoch", "loss", "accuracy", "val_loss", "val_accuracy" (as far as they apply) to one value per
    epoch. `best_path` is None if no best checkpoint is kept. `finished` is False for a run that was stopped.
    `changes` lists what changed in document or data since a resumed run started, `transfer` the arrays that a new run
    copied from the checkpoint of `initialize_from`. A run that early stopping has ended is finished, and with
    `restore_best` its model is that of best.h5.
    """

    model: Model
    history: History
    checkpoint_path: Path
    best_path: Path | None
    finished: bool
    changes: tuple[str, ...] = ()
    transfer: Transfer | None = None
    stopped_early: bool = False


def train(
    experiment: str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    allow_changes: bool = False,
    overrides: Mapping[str, str] | None = None,
    listeners: Sequence[Listener] = (),
    check_finite: bool = False,
    note: Note = ignore,
    world: World = SINGLE,
) -> TrainingResult:
    """Train from an experiment document, and write experiment.json, last.h5, best.h5 and history.csv into `out`.

    `experiment` is the document's path or the document itself; `out` is runs/<name> by default. An existing run is
    never overwritten, unless `force` starts it again; while another process writes into `out`, the call is refused.
    `resume` continues a run (or starts a new one if there is none), with `allow_changes` also if document or data have
    changed.
    `overrides` maps paths in the document (for example "training.epochs") to JSON values. Listeners are called with
    events, `note` with lines about the data that a user may not expect. `check_finite` checks every array of every
    layer in each step, not only loss and gradients. `world` are the processes that share the run, all of which call
    this function (docs/scaling.md); the first one writes.

    Raises SpecError, DataError, CheckpointError, NotFiniteError, and SpecnetError for an existing run.
    """
    if resume and force:
        msg = "resume continues a run, force overwrites it; choose one"
        raise SpecnetError(msg)

    with contextlib.ExitStack() as locks:

        def prepare() -> _Prepared:
            spec, folder = load_experiment(experiment, overrides)
            creation_time()  # or the first checkpoint would fail, after an epoch
            target = user_path(out) if out is not None else Path("runs") / spec.name
            check = locks.enter_context(folder_lock(target, "a run")) if world.rank == 0 else _nothing
            existing = [path.name for path in run_files(target)]
            if existing and not (resume or force):
                remedy = "resume (--resume) continues it, force (--force) overwrites it"
                msg = f"{target}: holds a run already ({', '.join(existing)}); {remedy}"
                raise SpecnetError(msg)
            _refuse_overwriting(spec, folder, target)
            return _Prepared(check, folder, target, *load_data(spec, folder, note))

        prepared = world.collectively(prepare)
        return _train(prepared, listeners, world, resume=resume, allow_changes=allow_changes, check_finite=check_finite)


class _Prepared(NamedTuple):
    check_folder: Callable[[], None]
    folder: Path
    target: Path
    spec: ExperimentSpec
    data: AnyDataset
    validation: AnyDataset | None


def _train(
    prepared: _Prepared,
    listeners: Sequence[Listener],
    world: World,
    *,
    resume: bool,
    allow_changes: bool,
    check_finite: bool,
) -> TrainingResult:
    """Train what is prepared, in a folder that nobody else writes into."""
    check_folder, folder, target, spec, data, validation = prepared
    saving = Checkpointer(target, spec, data, validation, world, check_folder)
    early = saving.early
    world.collectively(lambda: _check_equal_settings(world, spec, saving.fingerprint))
    model, transfer = world.collectively(lambda: _loaded_or_new(saving, folder, data, resume=resume))
    if world.size > 1:
        model.move_gradients(world.shared_zeros(model.parameter_count + 1, model.dtype))
    run, changes = world.collectively(
        lambda: _started(saving, model, data, validation, world, allow_changes=allow_changes, check_finite=check_finite)
    )
    run.listeners = [*([early] if early else []), saving, *listeners]  # early stopping first, as its state is saved
    if world.rank == 0:
        remove_link(target / EXPERIMENT)
        write_file(target / EXPERIMENT, _resolved_text(spec, folder, target).encode(), SpecnetError)
    if early is None or not early.is_over(run.epoch):
        run.go()
    stopped_early = early is not None and early.is_over(run.epoch)
    finished = stopped_early or run.epoch >= spec.training.epochs
    world.gather(None)  # wait until all files have been written
    best = target / BEST if saving.best is not None and exists(target / BEST) else None
    if finished and early is not None and early.spec.restore_best and best is not None:
        model = load(best)
    return TrainingResult(model, run.history, target / LAST, best, finished, changes, transfer, stopped_early)


def _loaded_or_new(
    saving: Checkpointer, folder: Path, data: AnyDataset, *, resume: bool
) -> tuple[Model, Transfer | None]:
    """Return the model of the checkpoint to resume, or a new one; and the arrays that a new one copied, or None."""
    last = saving.folder / LAST
    saving.replaces = not (resume and exists(last))
    return fresh_model(saving.experiment, folder, data) if saving.replaces else (load(last), None)


def _started(
    saving: Checkpointer,
    model: Model,
    data: AnyDataset,
    validation: AnyDataset | None,
    world: World,
    *,
    allow_changes: bool,
    check_finite: bool,
) -> tuple[Run, tuple[str, ...]]:
    """Return the run of a new model or, with its state restored, of a checkpoint's; and what changed since that."""
    run = make_run(saving.experiment.training, model, data, validation, check_finite=check_finite, world=world)
    if saving.replaces:  # a new model
        return run, ()
    state = model.run_state or {}
    changes = saving.restore(run, state, os.fspath(saving.folder / LAST), allow_changes=allow_changes)
    processes = processes_of(str(state.get("machine", "")))
    if processes != world.size:
        changes = (*changes, f"{processes} processes shared the run, now {world.size}: the last bits may differ")
    return run, changes


def _check_equal_settings(world: World, spec: ExperimentSpec, fingerprint: str) -> None:
    """Check that all processes have the same document, data and versions. Raises SpecnetError with the difference."""
    settings = {
        "the document": spec.model_dump_json(exclude={"data"}),
        "the data": fingerprint,
        "specnet": __version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "the kernels": backend(),
    }
    for rank, others in enumerate(world.gather(settings)):
        different = [name for name in settings if others[name] != settings[name]]
        if different and rank < world.rank:
            message = f"{different[0]} is not that of process {rank}"
            if len(settings[different[0]]) < 40:
                message += f": {settings[different[0]]} here, {others[different[0]]} there"
            raise SpecnetError(message)


def fresh_model(spec: ExperimentSpec, folder: Path, data: AnyDataset) -> tuple[Model, Transfer | None]:
    """Build the experiment's model, fit its first layer to the training rows, and copy arrays by `initialize_from`.

    Raises CheckpointError if the checkpoint has no array that fits the model.
    """
    model = build(spec.built_model)
    fit_first_layer(model, data)
    source = spec.training.initialize_from
    if source is None:
        return model, None
    transfer = load_parameters(model, folder / user_path(source.path), source.names)
    if not transfer.taken:
        reasons = "; ".join(f"{name} {reason}" for name, reason in list(transfer.skipped.items())[:4])
        msg = f"{source.path}: nothing in it fits the model: {reasons}"
        raise CheckpointMismatchError(msg)
    return model, transfer


def fit_first_layer(model: Model, data: AnyDataset) -> None:
    """Fit a first standardize layer that has no values yet to the training rows."""
    fit_standardize(model.layers, (part.inputs for part in data.in_order(FITTED_ROWS)))


def make_run(
    training: TrainingSpec,
    model: Model,
    data: AnyDataset,
    validation: AnyDataset | None,
    *,
    check_finite: bool = False,
    world: World = SINGLE,
) -> Run:
    """Return the run that the settings describe, without listeners."""
    loss, optimizer = training.loss.build(), optimizer_of(training, model)
    return Run(model, loss, optimizer, training, data, validation, check_finite=check_finite, world=world)


def optimizer_of(training: TrainingSpec, model: Model) -> Optimizer:
    """Build the optimizer; weight decay skips biases and norms, and frozen parameters are not updated."""
    decayed = {name for name, parameter in model.spec.parameter_specs().items() if parameter.decay}
    optimizer = training.optimizer.build(model, model.parameters.keys() - decayed)
    optimizer.freeze(frozen_names(model.spec, training.freeze))
    return optimizer


def _nothing() -> None:
    """Check nothing: the first process holds the lock."""


def _refuse_overwriting(spec: ExperimentSpec, folder: Path, target: Path) -> None:
    """Raise SpecnetError if the run would overwrite its data files, or the checkpoint that it starts from."""
    source = spec.training.initialize_from
    existing = run_files(target)
    for path in [*spec.data.files(), *([] if source is None else [str(user_path(source.path))])]:
        if any(is_same_file(folder / path, file) for file in existing):
            msg = f"{path}: the run would write over it; choose another folder (--out)"
            raise SpecnetError(msg)


def _resolved_text(spec: ExperimentSpec, folder: Path, target: Path) -> str:
    """Return the document's text with its model inline and its paths relative to the run's folder."""

    def relative(path: str) -> str:
        return relative_path(folder / user_path(path), target)

    document = spec.model_dump(mode="json", exclude={"schema_"})
    document["model"].pop("$schema", None)
    document["data"] |= {key: entry.relocated(relative) for key, entry in spec.data.entries().items()}
    if spec.training.initialize_from is not None:
        document["training"]["initialize_from"]["path"] = relative(spec.training.initialize_from.path)
    return ExperimentSpec.model_validate(document).to_json()
