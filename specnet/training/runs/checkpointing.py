"""Checkpoints of a run: when they are written, what they keep of it, and how it goes on from one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
from specnet.training.loop import Event, Run
from specnet.training.runs.environment import machine_record
from specnet.training.runs.run_folder import BEST, HISTORY, LAST, remove_run_files, rotate_checkpoints, write_history
from specnet.training.runs.run_state import REQUIRED_STATE, below, state_faults
from specnet.training.spec.experiment_spec import ExperimentSpec

_MAY_CHANGE = (
    ("training", "checkpoint", "every_steps"),
    ("training", "checkpoint", "every_epochs"),
    ("training", "checkpoint", "keep_last"),
    ("training", "early_stopping"),
    ("training", "initialize_from"),  # done before the first step
    ("name",),
    ("$schema",),
    *(("model", note) for note in NOTES),
    ("data",),  # its fingerprint tells, wherever the files lie now
)


_BATCHES = tuple(("training", key) for key in ("batch_size", "accumulate", "shuffle", "seed"))


_NEVER = (("training", "optimizer"), ("training", "metrics"))


class Checkpointer:
    """A listener that writes last.h5 and best.h5 into a folder, as the experiment's checkpoint policy says.

    Of a world of processes, the first one writes; all have to listen, as they put together what they have summed up.
    """

    def __init__(
        self,
        folder: Path,
        experiment: ExperimentSpec,
        data: AnyDataset,
        validation: AnyDataset | None,
        world: World = SINGLE,
    ) -> None:
        self.folder = folder
        self.world = world
        self.experiment = experiment
        self.fingerprint = data.fingerprint() + (validation.fingerprint() if validation else "")
        stopping = experiment.training.early_stopping
        self.early = EarlyStopping(stopping) if stopping else None
        self.replaces = False
        """Whether the first checkpoint takes the place of what another run has left in the folder."""
        self.machine = machine_record(world.size)
        self.policy = experiment.training.checkpoint
        self._ranges: dict[str, Any] | None = None
        self.best: float | None = None
        self.best_epoch = 0
        self.saved_step: int | None = None

    def __call__(self, event: Event) -> None:
        """Write what is due after this event; best.h5 before last.h5, so that neither claims what is not there."""
        run, policy = event.run, self.policy
        if event.kind == "start":
            self._hold_together(run, "the processes do not begin alike: all have to see the same files in this folder")
        elif event.kind == "epoch":
            if self._is_best(event):
                self.write(run, BEST)
            if _due(run.epoch, policy.every_epochs) or _due(run.step, policy.every_steps):
                self.write(run, LAST)
        elif event.kind == "step" and run.batch < run.batches and _due(run.step, policy.every_steps):
            self.write(run, LAST)  # the last step of an epoch waits for the epoch's metrics
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
        """Write one checkpoint of the run as it stands. Raises CheckpointError."""
        self._hold_together(run, "the processes' arrays are not the same any more; no checkpoint is written")
        run.model.run_state = self.state(run)
        if self.world.rank:
            self.saved_step = run.step if name == LAST else self.saved_step
            return
        if self.replaces:
            remove_run_files(self.folder)
            self.replaces = False
        if name == LAST:
            write_history(self.folder / HISTORY, run.history)
            rotate_checkpoints(self.folder, self.policy.keep_last, self.saved_step)
        save(self.folder / name, run.model)
        if name == LAST:
            self.saved_step = run.step

    def _hold_together(self, run: Run, otherwise: str) -> None:
        """Hold that all processes stand at one step with the same arrays. Raises CheckpointError, in all of them."""
        if self.world.size == 1:
            return
        hasher = hashlib.sha256(str(run.step).encode())
        for array in (*run.model.parameters.values(), *run.model.buffers.values()):
            hasher.update(np.ascontiguousarray(array).data)
        if len(set(self.world.gather(hasher.digest()))) > 1:
            raise self.world.mark_collective(CheckpointError(f"{self.folder}: at step {run.step}, {otherwise}"))

    def state(self, run: Run) -> dict[str, Any]:
        """Put all that the run is into one plain dict of names, numbers, text and arrays."""
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
        state |= self._features(run.data)
        for key, values in run.history.items():
            state[f"history/{key}"] = np.array(values, np.int64 if key == "epoch" else np.float64)
        return state

    def restore(
        self, run: Run, state: Mapping[str, Any], source: str, *, allow_changes: bool = False
    ) -> tuple[str, ...]:
        """Set a fresh run to where a checkpoint's run was; give what has changed since, where that is allowed.

        Another model or kind of optimizer is never a change but another run. Where the batches are others now, the
        epoch begins anew. Raises CheckpointMismatchError; `source` is the checkpoint's name.
        """
        if not state.keys() >= REQUIRED_STATE:
            msg = f"{source}: holds a model, but no run to go on with"
            raise CheckpointMismatchError(msg)
        wrong = next(state_faults(state), None)
        if wrong:
            msg = f"{source}: the state of its run makes no sense: {wrong}"
            raise CheckpointMismatchError(msg)
        try:
            written = ExperimentSpec.from_text(state["experiment"])
        except SpecError as error:
            msg = f"{source}: the experiment in it is not valid: {error}"
            raise CheckpointMismatchError(msg) from None
        if isinstance(written.model, str) or written.model.identity != run.model.spec.identity:
            msg = f"{source}: its model is not that of its experiment"
            raise CheckpointMismatchError(msg)
        began = written.model_dump(mode="json")
        free = () if self.experiment.training.schedule.needs_total else (("training", "epochs"),)
        found = dict(differences(began, self.experiment.model_dump(mode="json"), (*_MAY_CHANGE, *free)))
        if state["data_sha256"] != self.fingerprint:
            found[("data",)] = "the training or validation data are others"
        never = [path for path in found if path[:1] == ("model",) or path in _NEVER or path[:2] == _NEVER[1]]
        if found and (never or not allow_changes):
            told = "; ".join(found.values())
            more = "" if never else "; allow_changes (--allow-changes) goes on all the same"
            msg = f"{source}: the run cannot go on, it began with another document or data: {told}{more}"
            raise CheckpointMismatchError(msg)
        anew = any(path[:1] == ("data",) or path in _BATCHES for path in found)
        run.step, run.epoch, run.batch = state["step"], state["epoch"], 0 if anew else state["batch"]
        try:
            if run.batch >= max(run.batches, 1):
                msg = f"batch is {run.batch}, an epoch has {run.batches}"
                raise ValueError(msg)  # noqa: TRY301 - told as the others are
            if not anew and self.world.rank == 0:  # the sums are of all processes, and are added up again
                run.epoch_metrics.restore(below(state, "sums/"))
            run.optimizer.restore(below(state, "optimizer/"))
        except ValueError as error:
            msg = f"{source}: the state of its run makes no sense: {error}"
            raise CheckpointMismatchError(msg) from None
        if written.training.checkpoint.monitored == self.policy.monitored:
            self.best, self.best_epoch = state.get("best/value"), state.get("best/epoch", 0)
        then = written.training.early_stopping
        if self.early is not None and then is not None and then.monitored == self.early.spec.monitored:
            self.early.restore(below(state, "early/"))
        elif self.early is not None:
            self.early.best_epoch = run.epoch  # patience begins now
        run.history = {name: values.tolist() for name, values in below(state, "history/").items()}
        self.saved_step = run.step
        return tuple(found.values())

    def _features(self, data: AnyDataset) -> dict[str, Any]:
        """Keep the names and the ranges of the inputs, by which predictions are judged."""
        if self._ranges is None:
            low, high = data.features()
            names = {"features/names": json.dumps(data.names)} if data.names else {}
            self._ranges = {"features/low": low, "features/high": high, **names}
        return self._ranges


def _due(count: int, every: int | None) -> bool:
    return every is not None and count % every == 0
