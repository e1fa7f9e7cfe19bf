"""Checkpoints of a run: when they are written, what they keep of it, and how it goes on from one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specnet.checkpoint import save
from specnet.differences import differences
from specnet.errors import CheckpointMismatchError, SpecError
from specnet.plan import NOTES
from specnet.training.data import Dataset
from specnet.training.experiment import ExperimentSpec
from specnet.training.loop import Event, Run, Sums
from specnet.training.machine import machine_record

LAST, BEST, EXPERIMENT = "last.h5", "best.h5", "experiment.json"
_MAY_CHANGE = (
    ("training", "epochs"),
    ("training", "checkpoint", "every_steps"),
    ("training", "checkpoint", "every_epochs"),
    ("name",),
    ("$schema",),
    *(("model", note) for note in NOTES),
    ("data",),  # its fingerprint tells, wherever the files lie now
)
_BATCHES = (("training", "batch_size"), ("training", "shuffle"), ("training", "seed"))
_KINDS: dict[str, tuple[type[Any], int | None]] = {
    "experiment": (str, None),
    "data_sha256": (str, None),
    "machine": (str, None),
    "step": (int, 0),
    "epoch": (int, 0),
    "batch": (int, 0),
    "sums/rows": (int, 0),
    "sums/loss": (float, None),
    "sums/correct": (float, None),
    "best/value": (float, None),
    "best/epoch": (int, 0),
    "optimizer/steps": (int, 0),
}
_NEEDED = {"experiment", "data_sha256", "step", "epoch", "batch", "sums/rows", "sums/loss", "optimizer/steps"}


class Saving:
    """A listener that writes last.h5 and best.h5 into a folder, as the experiment's checkpoint policy says."""

    def __init__(self, folder: Path, experiment: ExperimentSpec, fingerprint: str) -> None:
        self.folder = folder
        self.experiment = experiment
        self.fingerprint = fingerprint
        self.machine = machine_record()
        self.policy = experiment.training.checkpoint
        self.best: float | None = None
        self.best_epoch = 0
        self.saved_step: int | None = None

    def __call__(self, event: Event) -> None:
        """Write what is due after this event; best.h5 before last.h5, so that neither claims what is not there."""
        run, policy = event.run, self.policy
        if event.kind == "epoch":
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
        if self.best is None or math.isnan(self.best):
            better = True
        else:
            better = value > self.best if monitored.endswith("accuracy") else value < self.best
        if better:
            self.best, self.best_epoch = value, event.run.epoch
        return better

    def write(self, run: Run, name: str) -> None:
        """Write one checkpoint of the run as it stands. Raises CheckpointError."""
        run.model.run_state = self.state(run)
        save(self.folder / name, run.model)
        if name == LAST:
            self.saved_step = run.step

    def state(self, run: Run) -> dict[str, Any]:
        """Put all that the run is into one plain dict of names, numbers, text and arrays."""
        state: dict[str, Any] = {
            "experiment": self.experiment.to_json(),
            "data_sha256": self.fingerprint,
            "machine": self.machine,
            "step": run.step,
            "epoch": run.epoch,
            "batch": run.batch,
            "sums/rows": run.sums.rows,
            "sums/loss": run.sums.loss,
        }
        if run.sums.correct is not None:
            state["sums/correct"] = float(run.sums.correct)
        if self.best is not None:
            state |= {"best/value": float(self.best), "best/epoch": self.best_epoch}
        state |= {f"optimizer/{key}": value for key, value in run.optimizer.state.items()}
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
        if not state.keys() >= _NEEDED:
            msg = f"{source}: holds a model, but no run to go on with"
            raise CheckpointMismatchError(msg)
        wrong = next(_faults(state, run.batches), None)
        if wrong:
            msg = f"{source}: the state of its run makes no sense: {wrong}"
            raise CheckpointMismatchError(msg)
        try:
            began = ExperimentSpec.from_text(state["experiment"]).model_dump(mode="json")
        except SpecError as error:
            msg = f"{source}: the experiment in it is not valid: {error}"
            raise CheckpointMismatchError(msg) from None
        found = dict(differences(began, self.experiment.model_dump(mode="json"), _MAY_CHANGE))
        if state["data_sha256"] != self.fingerprint:
            found[("data",)] = "the training or validation data are others"
        never = [path for path in found if path[:1] == ("model",) or path == ("training", "optimizer")]
        if found and (never or not allow_changes):
            told = "; ".join(found.values())
            more = "" if never else "; allow_changes (--allow-changes) goes on all the same"
            msg = f"{source}: the run cannot go on, it began with another document or data: {told}{more}"
            raise CheckpointMismatchError(msg)
        run.step, run.epoch, run.batch = state["step"], state["epoch"], state["batch"]
        run.sums = Sums(state["sums/rows"], state["sums/loss"], state.get("sums/correct"))
        self.best, self.best_epoch = state.get("best/value"), state.get("best/epoch", 0)
        prefix = "optimizer/"
        run.optimizer.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        prefix = "history/"
        run.history = {k.removeprefix(prefix): v.tolist() for k, v in state.items() if k.startswith(prefix)}
        self.saved_step = run.step
        if any(path[:1] == ("data",) or path in _BATCHES for path in found):
            run.batch, run.sums = 0, Sums()
        return tuple(found.values())


def fingerprint_of(data: Dataset, validation: Dataset | None) -> str:
    """Tell the rows of a run from others: SHA-256s, in hex, of the training and of the validation rows."""
    return data.fingerprint() + (validation.fingerprint() if validation else "")


def _faults(state: Mapping[str, Any], batches: int) -> Iterator[str]:
    """Find values that no run can have written: a file that was forged can hold anything."""
    for key, value in state.items():
        kind, least = _KINDS.get(key, (object, None))
        if not isinstance(value, kind) or (least is not None and value < least):
            yield f"{key} is {value!r:.60}"
    if not isinstance(state["batch"], int) or state["batch"] >= max(batches, 1):
        yield f"batch is {state['batch']!r:.60}, an epoch has {batches}"
    lengths = set()
    for key, value in state.items():
        if key.startswith("history/"):
            if not isinstance(value, np.ndarray) or value.ndim != 1:
                yield f"{key} is no array of one value an epoch"
            lengths.add(np.shape(value))
    if len(lengths) > 1:
        yield "the metrics of the history are of different lengths"


def _due(count: int, every: int | None) -> bool:
    return every is not None and count % every == 0
