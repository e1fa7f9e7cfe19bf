"""Check that a run can be repeated: train from one checkpoint to a later one, and compare them bit for bit."""

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
    """The result of a replay.

    `machine` lists differences from the machine on which the checkpoints were made. If there are any, equal bits
    cannot be expected, and the run is not comparable. `compared` and `different` name arrays.
    """

    first_step: int
    last_step: int
    machine: tuple[str, ...]
    compared: tuple[str, ...]
    different: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every array is equal bit for bit."""
        return not self.different


def replay(
    begin: str | os.PathLike[str], end: str | os.PathLike[str], experiment: str | os.PathLike[str] | None = None
) -> Replay:
    """Train from the checkpoint `begin` to the step of the checkpoint `end`, and compare all arrays.

    Nothing is written. `experiment` is the document's path, by default experiment.json beside `begin`. Raises
    CheckpointMismatchError for checkpoints of two different runs, and whatever loading and training raise.
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
        msg = f"{os.fspath(end)}: is at step {last}, before step {run.step} of {os.fspath(begin)}; swap the two"
        raise CheckpointMismatchError(msg)
    if (goal.run_state or {}).get("data_sha256") != saving.fingerprint or goal.spec.identity != model.spec.identity:
        msg = f"{os.fspath(end)}: belongs to another run, with another model or other data"
        raise CheckpointMismatchError(msg)
    first = run.step
    if first < last:
        run.listeners.append(_StopAt(last))
        run.go()
    if run.step != last:
        msg = f"{os.fspath(end)}: is at step {last}, but the run ended at step {run.step}"
        raise CheckpointMismatchError(msg)
    run.model.run_state = saving.state(run)
    replayed, expected = _arrays(run.model), _arrays(goal)
    names = dict.fromkeys([*expected, *replayed])
    different = [name for name in names if not _equal_bits(replayed.get(name), expected.get(name))]
    machine = tuple(machine_differences(str((goal.run_state or {}).get("machine", ""))))
    return Replay(first, last, machine, tuple(expected), tuple(different))


class _StopAt:
    """A listener that ends the run after a given step."""

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
    """Return every array that a run determines, by name: weights, gradients, buffers and optimizer state."""
    state = {key: value for key, value in (model.run_state or {}).items() if isinstance(value, np.ndarray)}
    return {
        **model.parameters,
        **{f"gradient of {name}": gradient for name, gradient in model.gradients.items()},
        **model.buffers,
        **{key: value for key, value in state.items() if key.startswith("optimizer/")},
    }


def _equal_bits(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> bool:
    if a is None or b is None:
        return False
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
