"""The training loop: epochs of steps. Saving, printing and stopping are listeners to its events."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from specnet.arrays.parameters import Array
from specnet.data.dataset import Dataset, Order
from specnet.data.streaming import AnyDataset
from specnet.errors import DataError, SpecnetError
from specnet.model import Model
from specnet.mpi.batch_shares import BatchShare
from specnet.mpi.world import SINGLE, World
from specnet.training.epoch_metrics import EpochMetrics, evaluate
from specnet.training.finite_check import NotFiniteError
from specnet.training.losses.base import Loss
from specnet.training.optimizers.base import Optimizer
from specnet.training.spec.checks import metric_specs
from specnet.training.spec.training_spec import TrainingSpec
from specnet.training.step import Step

EventKind: TypeAlias = Literal["start", "step", "epoch", "end", "failed"]
History: TypeAlias = dict[str, list[float]]


@dataclass
class Event:
    """An event of a run: it started, finished a step or an epoch, ended or failed.

    `metrics` are those of a finished epoch. All step events of a run are the same object.
    """

    kind: EventKind
    run: Run
    metrics: dict[str, float] = field(default_factory=dict)


Listener: TypeAlias = Callable[[Event], None]


class Run:
    """A model in training: its state between two steps, with everything needed to resume.

    `epoch` counts finished epochs, `batch` the finished steps of the current one, `step` all steps so far.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Optimizer,
        training: TrainingSpec,
        data: AnyDataset,
        validation: AnyDataset | None = None,
        listeners: Sequence[Listener] = (),
        *,
        check_finite: bool = False,
        world: World = SINGLE,
    ) -> None:
        if isinstance(data, Dataset) and data.input_dtype != model.input_dtype:  # steps do not check rows
            msg = f"Run: expected inputs of the model's dtype {model.input_dtype}, got {data.input_dtype}"
            raise SpecnetError(msg)
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.training = training
        self.data = data
        self.validation = validation
        self.listeners = list(listeners)
        self.metrics = metric_specs(training)
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.epoch_metrics = self.new_tally()
        self.history: History = {}
        self.stopping = self.saving = False
        self.world = model.draws.world = world
        self.share = BatchShare(world, training.batch_size) if world.size > 1 else None
        if self.share is not None and check_finite:
            msg = "check_finite looks at one process's arrays; run it without MPI"
            raise SpecnetError(msg)
        self.take_step = Step(
            model, loss, optimizer, training, self.batches, check_finite=check_finite, share=self.share
        )
        self._outputs: Array = np.empty((0, *model.output_shape), model.dtype)
        self._step_event = Event("step", self)

    @property
    def batches(self) -> int:
        """Number of steps per epoch."""
        return -(-len(self.data) // self.training.step_rows)

    def new_tally(self) -> EpochMetrics:
        """Return the empty sums of a new epoch."""
        return EpochMetrics(self.metrics, self.model.output_shape, self.loss, masked=self.model.masks_outputs)

    def stop(self) -> None:
        """End the run after the current step; if several processes share it, all end after the next step."""
        self.take_step.stop_requested = True
        if self.share is None:
            self.stopping = True

    def save(self) -> None:
        """Set `saving` in the next step, if several processes share the run on all of them; a checkpointer ends it."""
        self.take_step.save_requested = True
        if self.share is None:
            self.saving = True

    def saved(self) -> None:
        """Record that a checkpoint was written."""
        self.saving = self.take_step.save_requested = False

    def go(self) -> None:
        """Train until the last epoch is finished or `stop` is called.

        Raises NotFiniteError if loss or gradients stop being finite, with the step and where it first appeared.
        """
        self.model.draws.seed = self.training.seed
        try:
            self._notify(Event("start", self))
            with np.errstate(all="ignore"):  # loss and gradients are checked instead
                while self.epoch < self.training.epochs and not self.stopping:
                    self._run_epoch()
            self._notify(Event("end", self))
        except BaseException:  # the last saved checkpoint stays
            for listener in self.listeners:
                with contextlib.suppress(Exception):  # notify all, and raise the original error
                    listener(Event("failed", self))
            raise

    def _run_epoch(self) -> None:
        size = self.training.step_rows
        order = Order(self.training.seed, self.epoch) if self.training.shuffle else None
        for block in self.data.blocks(size, order, self.batch * size, self.share):
            self._train_on(block, size)
            if self.stopping:
                break
        if self.batch == self.batches:
            self._finish_epoch()
        elif not self.stopping:
            msg = f"the rows of epoch {self.epoch + 1} ended after {self.batch} of {self.batches} steps"
            raise DataError(msg)

    def _train_on(self, block: Dataset, size: int) -> None:
        """Take the steps of a block of rows."""
        x, targets, weights = block.inputs, block.targets, block.weights
        if len(x) > len(self._outputs):
            self._outputs = np.empty((len(x), *self.model.output_shape), self.model.dtype)
        outputs, epoch_metrics, event = self._outputs, self.epoch_metrics, self._step_event
        epoch_metrics.begin(outputs, targets, size, self.model.output_mask(x))
        stop = 0
        for first in range(0, block.block_rows or len(x), size):
            count = min(size, (block.block_rows or len(x)) - first)
            start, stop = stop, stop + (count if self.share is None else self.share.count(count))
            rows = slice(start, stop)
            w = None if weights is None else weights[rows]
            try:
                loss, weight = self.take_step(self.step, x[rows], targets[rows], w, outputs[rows], count)
            except NotFiniteError as error:
                place = f"{error.what} at step {self.step + 1}, in epoch {self.epoch + 1}"
                msg = f"{place}: {error}; lower the learning_rate, or set clip_norm"
                raise self.world.mark_collective(NotFiniteError(msg)) from None
            epoch_metrics.add(loss, weight, stop)
            self.step += 1
            self.batch += 1
            self.saving |= self.take_step.save_agreed
            for listener in self.listeners:
                listener(event)
            if self.share is not None:
                self.stopping |= self.take_step.stop_agreed
            if self.stopping:
                break
        epoch_metrics.flush()

    def _finish_epoch(self) -> None:
        metrics = self.epoch_metrics.combined(self.world).values()
        if self.validation is not None:
            validated = evaluate(self.model, self.loss, self.validation, self.metrics, self.world)
            metrics |= validated.values("val_")
        metrics |= {"learning_rate": float(self.optimizer.learning_rate), **gradient_statistics(self.model)}
        self.epoch += 1
        self.batch, self.epoch_metrics = 0, self.new_tally()
        row = {"epoch": self.epoch, **metrics}
        for name in dict.fromkeys([*self.history, *row]):  # a resumed run may have other metrics
            values = self.history.setdefault(name, [math.nan] * (self.epoch - 1))
            values.append(row.get(name, math.nan))
        self._notify(Event("epoch", self, metrics))
        self.stopping |= any(self.world.gather(self.take_step.stop_requested))

    def _notify(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def gradient_statistics(model: Model) -> dict[str, float]:
    """Return norm and zero fraction of each layer's last gradients: gradient_norm.<layer>, gradient_zeros.<layer>."""
    layers: dict[str, list[Any]] = {}
    for name, gradient in model.gradients.items():
        layers.setdefault(name.rpartition(".")[0], []).append(gradient)
    statistics = {}
    for layer, gradients in layers.items():
        squares = sum(float(np.square(gradient, dtype=np.float64).sum()) for gradient in gradients)
        zeros = sum(gradient.size - int(np.count_nonzero(gradient)) for gradient in gradients)
        statistics[f"gradient_norm.{layer}"] = squares**0.5
        statistics[f"gradient_zeros.{layer}"] = zeros / sum(gradient.size for gradient in gradients)
    return statistics
