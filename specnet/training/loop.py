"""The training loop: a step is forward, loss, backward, step. What happens around it listens to its events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from specnet.errors import SpecnetError
from specnet.model import Model
from specnet.randomness import permutation
from specnet.training.data import Dataset
from specnet.training.experiment import TrainingSpec
from specnet.training.losses import Loss
from specnet.training.optimizer import Optimizer

EVALUATION_ROWS = 1024

EventKind: TypeAlias = Literal["start", "step", "epoch", "end", "failed"]
History: TypeAlias = dict[str, list[float]]


@dataclass
class Sums:
    """What an epoch has added up so far."""

    rows: int = 0
    loss: float = 0.0
    correct: float | None = None

    def add(self, rows: int, loss: float, correct: float | None) -> None:
        """Count a batch."""
        self.rows += rows
        self.loss += loss * rows
        if correct is not None:
            self.correct = (self.correct or 0.0) + correct

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Give the means over the rows."""
        means = {f"{prefix}loss": self.loss / self.rows}
        if self.correct is not None:
            means[f"{prefix}accuracy"] = self.correct / self.rows
        return means


@dataclass(frozen=True)
class Event:
    """Something happened in a run: it began, a step or an epoch was finished, it ended or failed."""

    kind: EventKind
    run: Run
    metrics: dict[str, float] = field(default_factory=dict)


Listener: TypeAlias = Callable[[Event], None]


class Run:
    """A model in training, between any two steps: all that is needed to go on.

    `epoch` counts finished epochs, `batch` the finished batches of the current one, `step` all batches so far.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Optimizer,
        training: TrainingSpec,
        data: Dataset,
        validation: Dataset | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.training = training
        self.data = data
        self.validation = validation
        self.listeners = list(listeners)
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.sums = Sums()
        self.history: History = {}
        self.stopping = False

    @property
    def batches(self) -> int:
        """Number of steps of an epoch."""
        return -(-len(self.data) // self.training.batch_size)

    def stop(self) -> None:
        """Ask the run to end after the current step."""
        self.stopping = True

    def go(self) -> None:
        """Train until the last epoch is finished or someone asks to stop. Raises SpecnetError for a loss of NaN."""
        self.model.draws.seed = self.training.seed
        self._tell("start")
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a loss that overflows is told by what becomes of it
                while self.epoch < self.training.epochs and not self.stopping:
                    self._epoch()
        except BaseException:
            self._tell("failed")  # what was saved last stays
            raise
        self._tell("end")

    def _epoch(self) -> None:
        for rows in self._remaining_batches():
            self._step(rows)
            if self.stopping:
                break
        if self.batch == self.batches:
            self._finish_epoch()

    def _remaining_batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the rows of the epoch's batches, from the first that has not been seen."""
        count, size = len(self.data), self.training.batch_size
        order = (
            permutation(self.training.seed, "shuffle", self.epoch, count) if self.training.shuffle else np.arange(count)
        )
        for start in range(self.batch * size, count, size):
            yield order[start : start + size]

    def _step(self, rows: np.ndarray[Any, Any]) -> None:
        x, targets = self.data.inputs[rows], self.data.targets[rows]
        self.model.draws.step = self.step
        outputs = self.model.forward(x, training=True)
        loss, gradient = self.loss(outputs, targets)
        if not math.isfinite(loss):
            msg = f"the loss is {loss} at step {self.step + 1}, in epoch {self.epoch + 1}: lower the learning_rate"
            raise SpecnetError(msg)
        self.model.backward(gradient, input_gradient=False)
        self.optimizer.step()
        self.sums.add(len(rows), loss, self.loss.correct(outputs, targets))
        self.step += 1
        self.batch += 1
        self._tell("step")

    def _finish_epoch(self) -> None:
        metrics = self.sums.metrics()
        if self.validation is not None:
            metrics |= evaluate(self.model, self.loss, self.validation).metrics("val_")
        self.epoch += 1
        self.batch, self.sums = 0, Sums()
        for name, value in {"epoch": self.epoch, **metrics}.items():
            self.history.setdefault(name, []).append(value)
        self._tell("epoch", metrics)

    def _tell(self, kind: EventKind, metrics: dict[str, float] | None = None) -> None:
        event = Event(kind, self, metrics or {})
        for listener in self.listeners:
            listener(event)


def evaluate(model: Model, loss: Loss, data: Dataset) -> Sums:
    """Give the sums of loss and right answers over all rows."""
    sums = Sums()
    for start in range(0, len(data), EVALUATION_ROWS):
        span = slice(start, start + EVALUATION_ROWS)
        outputs, targets = model.predict(data.inputs[span]), data.targets[span]
        sums.add(len(outputs), loss(outputs, targets)[0], loss.correct(outputs, targets))
    return sums
