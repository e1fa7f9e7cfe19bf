"""Checkpoints of a run: when they are written, what they contain, and how a run resumes from one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specnet.checkpoint import save
from specnet.data.streaming import AnyDataset
from specnet.document.diff import differences
from specnet.errors import CheckpointError, CheckpointMismatchError, SpecError
from specnet.mpi.world import SINGLE, World
from specnet.plan import NOTES
from specnet.training.early_stopping import EarlyStopping, is_better
from specnet.training.loading import data_digest
from specnet.training.loop import Event, Run
from specnet.training.runs.environment import machine_record
from specnet.training.runs.run_folder import (
    BEST,
    HISTORY,
    LAST,
    remove_link,
    remove_run_files,
    rotate_checkpoints,
    write_history,
)
from specnet.training.runs.run_state import REQUIRED_STATE, below, feature_state, state_faults
from specnet.training.spec.experiment_spec import ExperimentSpec

_MAY_CHANGE = (
    ("training", "checkpoint", "every_steps"),
    ("training", "checkpoint", "every_epochs"),
    ("training", "checkpoint", "keep_last"),
    ("training", "early_stopping"),
    ("training", "initialize_from"),  # it has no effect after the first step
    ("name",),
    ("$schema",),
    *(("model", note) for note in NOTES if note != "tokenizer"),  # of another vocabulary, the weights mean nothing
    ("data",),  # the fingerprint is compared instead, so that files may move
)


_DETERMINES_BATCHES = tuple(("training", key) for key in ("batch_size", "accumulate", "shuffle", "seed"))


_FIXED = (("training", "optimizer"), ("training", "metrics"))


class Checkpointer:
    """A listener that writes last.h5 and best.h5 into a folder, by the experiment's checkpoint policy.

    If several processes share the run, the first one writes. All must listen, because their sums are combined.
    """

    def __init__(
        self,
        folder: Path,
        experiment: ExperimentSpec,
        data: AnyDataset,
        validation: AnyDataset | None,
        world: World = SINGLE,
        check_folder: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.check_folder = check_folder
        self.world = world
        self.experiment = experiment
        self.fingerprint = data_digest(data, validation)
        stopping = experiment.training.early_stopping
        self.early = EarlyStopping(stopping) if stopping else None
        self.replaces = False
        """Whether to remove the files of another run from the folder before the first checkpoint."""
        self.machine = machine_record(world.size)
        self.policy = experiment.training.checkpoint
        self._features: dict[str, Any] = {}
        self.best: float | None = None
        self.best_epoch = 0
        self.saved_step: int | None = None

    def __call__(self, event: Event) -> None:
        """Write the checkpoints that are due; best.h5 first, so that last.h5 never names a best epoch not yet saved."""
        run, policy = event.run, self.policy
        if event.kind == "start":
            self._check_processes(run, "the processes start differently: all must see the same files in this folder")
        elif event.kind == "epoch":
            if self._is_best(event):
                self.write(run, BEST)
            if run.saving or _is_due(run.epoch, policy.every_epochs) or _is_due(run.step, policy.every_steps):
                self.write(run, LAST)
        elif event.kind == "step" and run.batch < run.batches and (run.saving or _is_due(run.step, policy.every_steps)):
            self.write(run, LAST)  # the last step of an epoch is saved with the epoch's metrics
        elif event.kind == "end" and self.saved_step != run.step:
            self.write(run, LAST)

    def _is_best(self, event: Event) -> bool:
        monitored = self.policy.monitored
        if monitored is None:
            return False
        value = event.metrics[monitored]
        better = is_better(monitored, value, self.best)
        if better:
            self.best, self.best_epoch = value, event.run.epoch
        return better

    def write(self, run: Run, name: str) -> None:
        """Write one checkpoint of the run's current state. Raises CheckpointError."""
        if name == LAST:
            run.saved()
        self._check_processes(run, "the arrays of the processes differ; no checkpoint is written")
        run.model.run_state = self.state(run)
        if self.world.rank:
            self.saved_step = run.step if name == LAST else self.saved_step
            return
        self.check_folder()
        if self.replaces:
            remove_run_files(self.folder)
            self.replaces = False
        for written in (name, HISTORY):
            remove_link(self.folder / written)
        if name == LAST:
            write_history(self.folder / HISTORY, run.history)
            rotate_checkpoints(self.folder, self.policy.keep_last, self.saved_step)
        save(self.folder / name, run.model)
        if name == LAST:
            self.saved_step = run.step

    def _check_processes(self, run: Run, message: str) -> None:
        """Check that all processes are at one step with equal arrays. Raises CheckpointError on all of them."""
        if self.world.size == 1:
            return
        hasher = hashlib.sha256(str(run.step).encode())
        for array in (*run.model.parameters.values(), *run.model.buffers.values()):
            hasher.update(np.ascontiguousarray(array).data)
        if len(set(self.world.gather(hasher.digest()))) > 1:
            raise self.world.mark_collective(CheckpointError(f"{self.folder}: at step {run.step}, {message}"))

    def state(self, run: Run) -> dict[str, Any]:
        """Return the whole state of the run as one dict of numbers, text and arrays by name."""
        state: dict[str, Any] = {
            "experiment": self.experiment.to_json(),
            "data_sha256": self.fingerprint,
            "machine": self.machine,
            "step": run.step,
            "epoch": run.epoch,
            "batch": run.batch,
        }
        state |= {f"sums/{key}": value for key, value in run.epoch_metrics.combined(self.world).state().items()}
        if self.early is not None:
            state |= {f"early/{key}": value for key, value in self.early.state().items()}
        if self.best is not None:
            state |= {"best/value": float(self.best), "best/epoch": self.best_epoch}
        state |= {f"optimizer/{key}": value for key, value in run.optimizer.state.items()}
        self._features = self._features or feature_state(run.data)
        state |= self._features
        for key, values in run.history.items():
            state[f"history/{key}"] = np.array(values, np.int64 if key == "epoch" else np.float64)
        return state

    def restore(
        self, run: Run, state: Mapping[str, Any], source: str, *, allow_changes: bool = False
    ) -> tuple[str, ...]:
        """Restore the state of a checkpoint's run into a new run; return the allowed changes of document and data.

        The model, the type of optimizer and the metrics must never change. If the batches differ, the epoch restarts.
        Raises CheckpointMismatchError; `source` is the checkpoint's name.
        """
        if not state.keys() >= REQUIRED_STATE:
            msg = f"{source}: holds a model, but no run to resume"
            raise CheckpointMismatchError(msg)
        fault = next(state_faults(state), None)
        if fault:
            msg = f"{source}: the state of its run is not valid: {fault}"
            raise CheckpointMismatchError(msg)
        try:
            written = ExperimentSpec.from_text(state["experiment"])
        except SpecError as error:
            msg = f"{source}: the experiment in it is not valid: {error}"
            raise CheckpointMismatchError(msg) from None
        if isinstance(written.model, str) or written.model.identity != run.model.spec.identity:
            msg = f"{source}: its model differs from the model of its experiment"
            raise CheckpointMismatchError(msg)
        before = written.model_dump(mode="json")
        free = () if self.experiment.training.schedule.needs_total else (("training", "epochs"),)
        changes = dict(differences(before, self.experiment.model_dump(mode="json"), (*_MAY_CHANGE, *free)))
        if state["data_sha256"] != self.fingerprint:
            changes[("data",)] = "the training or validation data differ"
        refused = [path for path in changes if path[:1] == ("model",) or path in _FIXED or path[:2] == _FIXED[1]]
        if changes and (refused or not allow_changes):
            listing = "; ".join(changes.values())
            remedy = "" if refused else "; allow_changes (--allow-changes) resumes nevertheless"
            msg = f"{source}: cannot resume the run, the experiment or the data changed: {listing}{remedy}"
            raise CheckpointMismatchError(msg)
        restart_epoch = any(path[:1] == ("data",) or path in _DETERMINES_BATCHES for path in changes)
        run.step, run.epoch, run.batch = state["step"], state["epoch"], 0 if restart_epoch else state["batch"]
        try:
            if run.batch >= max(run.batches, 1):
                msg = f"batch is {run.batch}, but an epoch has {run.batches} steps"
                raise ValueError(msg)  # noqa: TRY301 - reported like the errors of restore
            if not restart_epoch and self.world.rank == 0:  # the sums are of all processes, so one restores them
                run.epoch_metrics.restore(below(state, "sums/"))
            run.optimizer.restore(below(state, "optimizer/"))
        except ValueError as error:
            msg = f"{source}: the state of its run is not valid: {error}"
            raise CheckpointMismatchError(msg) from None
        if written.training.checkpoint.monitored == self.policy.monitored:
            self.best, self.best_epoch = state.get("best/value"), state.get("best/epoch", 0)
        earlier = written.training.early_stopping
        if self.early is not None and earlier is not None and earlier.monitored == self.early.spec.monitored:
            self.early.restore(below(state, "early/"))
        elif self.early is not None:
            self.early.best_epoch = run.epoch  # count patience from here
        run.history = {name: values.tolist() for name, values in below(state, "history/").items()}
        self.saved_step = run.step
        return tuple(changes.values())


def _is_due(count: int, every: int | None) -> bool:
    return every is not None and count % every == 0
