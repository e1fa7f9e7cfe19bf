"""Proof that a run can be repeated: from one of its checkpoints to another, and both compared bit for bit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import load
from specnet.errors import CheckpointMismatchError
from specnet.files.paths import user_path
from specnet.model import Model
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.loop import Event
from specnet.training.runs.checkpointing import Checkpointer
from specnet.training.runs.environment import machine_differences
from specnet.training.runs.run_folder import EXPERIMENT
from specnet.training.runs.train import make_run


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    `machine` lists what is other than where the checkpoints were made: then equal bits cannot be expected, and the
    run is not comparable. `compared` and `different` name arrays.
    """

    first_step: int
    last_step: int
    machine: tuple[str, ...]
    compared: tuple[str, ...]
    different: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every array came out bit for bit."""
        return not self.different


def replay(
    begin: str | os.PathLike[str], end: str | os.PathLike[str], experiment: str | os.PathLike[str] | None = None
) -> Replay:
    """Train from the checkpoint `begin` to the step of the checkpoint `end`, and compare all arrays.

    Nothing is written. `experiment` is the document's path, by default experiment.json beside `begin`. Raises
    CheckpointMismatchError for checkpoints of two runs, and what loading and training raise.
    """
    source = user_path(begin).parent / EXPERIMENT if experiment is None else user_path(experiment)
    spec, folder = load_experiment(source)
    model, goal = load(begin), load(end)
    spec, data, validation = load_data(spec, folder)
    saving = Checkpointer(user_path(begin).parent, spec, data, validation)
    run = make_run(spec.training, model, data, validation)
    saving.restore(run, model.run_state or {}, os.fspath(begin))
    last = _step_of(goal, end)
    if last < run.step:
        msg = f"{os.fspath(end)}: is of step {last}, before step {run.step} of {os.fspath(begin)}; exchange them"
        raise CheckpointMismatchError(msg)
    if (goal.run_state or {}).get("data_sha256") != saving.fingerprint or goal.spec.identity != model.spec.identity:
        msg = f"{os.fspath(end)}: is of another run, with another model or other data"
        raise CheckpointMismatchError(msg)
    first = run.step
    if first < last:
        run.listeners.append(_StopsAt(last))
        run.go()
    if run.step != last:
        msg = f"{os.fspath(end)}: is of step {last}, and the run ended with step {run.step}"
        raise CheckpointMismatchError(msg)
    run.model.run_state = saving.state(run)
    ours, theirs = _arrays(run.model), _arrays(goal)
    names = dict.fromkeys([*theirs, *ours])
    different = [n for n in names if n not in ours or n not in theirs or not _same(ours[n], theirs[n])]
    machine = tuple(machine_differences(str((goal.run_state or {}).get("machine", ""))))
    return Replay(first, last, machine, tuple(theirs), tuple(different))


class _StopsAt:
    """A listener that ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Event) -> None:
        if event.run.step >= self.step:
            event.run.stop()


def _step_of(model: Model, path: str | os.PathLike[str]) -> int:
    step = (model.run_state or {}).get("step")
    if not isinstance(step, int):
        msg = f"{os.fspath(path)}: holds a model, but no run to compare with"
        raise CheckpointMismatchError(msg)
    return step


def _arrays(model: Model) -> dict[str, npt.NDArray[Any]]:
    """Name every array that a run decides: weights, gradients, buffers, and what the optimizer keeps."""
    state = {key: value for key, value in (model.run_state or {}).items() if isinstance(value, np.ndarray)}
    return {
        **model.parameters,
        **{f"gradient of {name}": gradient for name, gradient in model.gradients.items()},
        **model.buffers,
        **{key: value for key, value in state.items() if key.startswith("optimizer/")},
    }


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
