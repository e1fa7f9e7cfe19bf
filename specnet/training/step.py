"""One step of a run: forward, loss, backward and the optimizer's step, for one batch or several accumulated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from specnet.arrays.parameters import Array
from specnet.layer import TimeMask
from specnet.model import Model
from specnet.mpi.batch_shares import BatchShare
from specnet.mpi.world import SINGLE
from specnet.training.augmentation import Augmenter
from specnet.training.finite_check import NOWHERE, NotFiniteError, checked_step, where_not_finite
from specnet.training.losses.base import Loss
from specnet.training.optimizers.base import Optimizer
from specnet.training.spec.training_spec import TrainingSpec

CLIP_EPSILON = 1e-6
"""Added to a norm before dividing by it, as in torch."""


MOST_PROCESSES = 4096
"""Both requests of every process are one number in the sum of the gradients, exact in float32 up to this count."""


class Step:
    """Trains a model step by step; with `check_finite`, checks every array of every layer."""

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Optimizer,
        training: TrainingSpec,
        steps_per_epoch: int,
        *,
        check_finite: bool = False,
        share: BatchShare | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.clip_norm = training.clip_norm
        self.batch_size = training.batch_size
        self.check_finite = check_finite
        self._full_rate = optimizer.learning_rate
        self._schedule = None if training.schedule.is_constant else training.schedule
        self._run_length = steps_per_epoch, training.epochs
        self._gradient_sum: Array | None = None
        self._step_number = self._step_rows = 0
        self._share = share
        self.stop_requested = self.stop_agreed = False
        """With a share: whether this process asks all to stop, and whether any did; summed with the gradients."""
        self.save_requested = self.save_agreed = False
        """The same for a checkpoint."""
        self._augment = Augmenter(training.augment, model.input_shape, model.draws) if training.augment else None
        self._class_weighted = getattr(loss, "class_weights", None) is not None

    def __call__(
        self, number: int, x: Any, targets: Any, weights: Any, outputs: Array, rows: int = 0
    ) -> tuple[float, float]:
        """Take step `number`, counted from 0; write the model's outputs into `outputs`.

        With a share, x is this process's part of the step's `rows`. Returns the mean loss and its weight in a mean over
        steps. Raises NotFiniteError, before any parameter is updated, if loss or gradients are not finite.
        """
        self._step_number, self._step_rows = number, rows
        self.model.draws.step = number
        self.model.draws.first_row = 0
        if self._augment is not None:
            x = self._augment(x, [(0, len(x))] if self._share is None else self._share.parts(rows))
        if self._schedule is not None:
            self.optimizer.learning_rate = self._schedule.rate(self._full_rate, number, *self._run_length)
        mask = self.model.output_mask(x)
        if self._share is not None:
            loss, weight = self._sum_over_processes(self._share, rows, x, targets, weights, mask, outputs)
        elif len(x) <= self.batch_size:
            loss = self._batch_gradients(x, targets, weights, mask, outputs)
            weight = self.loss.weight_of(targets, weights, mask)
        else:
            loss, weight = self._accumulate_batches(x, targets, weights, mask, outputs)
        squares = 0.0
        for gradient in self.optimizer.gradients:
            squares += gradient.dot(gradient)
        if not squares < math.inf:
            squares = self._exact_squares(x, targets, weights)
        if self.clip_norm is not None:
            self._clip(math.sqrt(squares), self.clip_norm)
        self.optimizer.step()
        return loss, weight

    def _batch_gradients(
        self, x: Any, targets: Any, weights: Any, mask: TimeMask | None, outputs: Array, fraction: float = 1.0
    ) -> float:
        """Set the model's gradients to those of some rows, times their fraction of the step; return their mean loss."""
        if self.check_finite:
            outputs[...], loss = checked_step(self.model, self.loss, x, targets, weights, fraction)
            return loss
        y = self.model.train_forward(x, outputs)
        if self._share is not None and not len(x):
            loss, dy = 0.0, y
        else:
            of_rows = self.loss.of_fitted(y, targets, mask) if weights is None else self.loss(y, targets, weights, mask)
            loss, dy = of_rows
        if y is not outputs:
            outputs[...] = y
        if not math.isfinite(loss):
            if self._share is not None:  # NaN reaches the other processes in the sum of the gradients
                dy = np.full_like(dy, math.nan)
            else:
                self._raise_not_finite(f"the loss is {loss}", x, targets, weights)
        if fraction != 1:
            dy = dy * fraction
        self.model.train_backward(dy)
        return loss

    def _accumulate_batches(
        self, x: Any, targets: Any, weights: Any, mask: TimeMask | None, outputs: Array
    ) -> tuple[float, float]:
        """Set the model's gradients to those of all rows, computed batch by batch; return mean loss and weight."""
        total, size = self.loss.weight_of(targets, weights, mask), self.batch_size
        parts = [(start, min(start + size, len(x))) for start in range(0, len(x), size)]
        return self._sum_over_batches(parts, total, total, x, targets, weights, mask, outputs), total

    def _sum_over_processes(
        self,
        share: BatchShare,
        rows: int,
        x: Any,
        targets: Any,
        weights: Any,
        mask: TimeMask | None,
        outputs: Array,
    ) -> tuple[float, float]:
        """Set the gradients to the sum over all processes, each of which adds the part of its rows.

        Every process takes part in every batch, also without rows, because norms over the batch are collective calls.
        A loss that is not finite makes the sum of the gradients not finite, on every process.
        """
        weight = self.loss.weight_of(targets, weights, mask)
        total = float(rows)
        if self._class_weighted or weights is not None or mask is not None:
            weight_sum = np.array([weight], np.float64)
            share.world.sum(weight_sum)
            total = float(weight_sum[0])
        mean = self._sum_over_batches(share.parts(rows), weight, total, x, targets, weights, mask, outputs)
        shared = self.model.store.shared_vector
        shared[-1] = self.stop_requested + MOST_PROCESSES * self.save_requested
        share.world.sum(shared)
        saves, stops = divmod(int(shared[-1]) if math.isfinite(shared[-1]) else 0, MOST_PROCESSES)
        self.stop_agreed, self.save_agreed = stops > 0, saves > 0
        return mean, weight

    def _sum_over_batches(
        self,
        parts: Sequence[tuple[int, int]],
        weight: float,
        total: float,
        x: Any,
        targets: Any,
        weights: Any,
        mask: TimeMask | None,
        outputs: Array,
    ) -> float:
        """Set the gradients to the sum over the batches of a step, whose rows follow each other in x.

        `parts` are the row ranges [start, stop) of the batches in the whole step, so that dropout draws the same as
        for one large batch. `weight` is the weight of x, `total` that of the whole step. Returns the mean loss of x.
        """
        vector, draws, number = self.model.store.gradient_vector, self.model.draws, self.model.draws.step
        if self._gradient_sum is None:
            self._gradient_sum = np.empty_like(vector)
        sum_, several, mean, start = self._gradient_sum, len(parts) > 1, 0.0, 0
        if several:
            sum_.fill(0)
        for first, stop in parts:
            rows = slice(start, start + stop - first)
            start = rows.stop
            w = None if weights is None else weights[rows]
            counts = None if mask is None else mask[rows]
            batch_weight = self.loss.weight_of(targets[rows], w, counts)
            draws.step, draws.first_row = number, first
            fraction = batch_weight / total if total else 0.0  # 0 if every time step is padding
            loss = self._batch_gradients(x[rows], targets[rows], w, counts, outputs[rows], fraction)
            mean += batch_weight / weight * loss if weight else 0.0
            if several:
                sum_ += vector
        draws.first_row = 0
        if several:
            vector[...] = sum_
        return mean

    def _exact_squares(self, x: Any, targets: Any, weights: Any) -> float:
        """Sum the squares in float64: in float32 they overflow at 3e38, a norm of only 2e19. Raises NotFiniteError."""
        squares = sum(float(np.square(g, dtype=np.float64).sum()) for g in self.optimizer.gradients)
        if not math.isfinite(squares):
            self._raise_not_finite("a gradient is not finite", x, targets, weights)
        return squares

    def _clip(self, norm: float, limit: float) -> None:
        if norm + CLIP_EPSILON > limit:
            for gradient in self.optimizer.gradients:
                np.multiply(gradient, limit / (norm + CLIP_EPSILON), gradient)

    def _raise_not_finite(self, what: str, x: Any, targets: Any, weights: Any) -> NoReturn:
        draws = self.model.draws
        draws.step = self._step_number
        if self._share is None:
            where = where_not_finite(self.model, self.loss, x, targets, weights)
            draws.first_row = 0
            raise NotFiniteError(where, what)
        world, draws.world = self._share.world, SINGLE  # each process repeats its own rows, without collective calls
        try:
            where = where_not_finite(self.model, self.loss, x, targets, weights) if len(x) else NOWHERE
        finally:
            draws.world = world
        reports = world.gather((where, self._share.parts(self._step_rows)))
        rank, (where, parts) = next((entry for entry in enumerate(reports) if entry[1][0] != NOWHERE), (0, reports[0]))
        span = ", ".join(f"{first} to {stop - 1}" for first, stop in parts if stop > first)
        place = f"{where}; in process {rank} of {world.size}, rows {span} of the step's {self._step_rows}"
        raise NotFiniteError(place, what)
