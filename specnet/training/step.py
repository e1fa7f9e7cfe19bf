"""One step of a run: forward, loss, backward, the optimizer's step; for a batch, or several whose gradients add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from specnet.arrays.parameters import Array
from specnet.model import Model
from specnet.mpi.batch_shares import BatchShare
from specnet.mpi.world import SINGLE
from specnet.training.finite_check import NOWHERE, NotFiniteError, checked_step, where_not_finite
from specnet.training.losses.base import Loss
from specnet.training.optimizers.base import Optimizer
from specnet.training.spec.training_spec import TrainingSpec

CLIP_EPSILON = 1e-6
"""What torch adds to a norm before it divides by it."""


class Step:
    """Trains a model on one batch at a time; `check_finite` looks at every array of every layer on the way."""

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
        self._length = steps_per_epoch, training.epochs
        self._sum: Array | None = None
        self._number = self._rows = 0
        self._share = share
        self.asked = self.agreed = False
        """With a share: whether this process asks all to end, and whether one did; told with the gradients."""
        self._weighted = getattr(loss, "class_weights", None) is not None

    def __call__(
        self, number: int, x: Any, targets: Any, weights: Any, outputs: Array, rows: int = 0
    ) -> tuple[float, float]:
        """Take step `number`, counted from 0; write the model's outputs into `outputs`.

        With a share, x are this process's part of `rows`. Gives the mean loss and what it counts in a mean over steps.
        Raises NotFiniteError before any parameter has moved where loss or gradients are not finite.
        """
        self._number, self._rows = number, rows
        self.model.draws.step = number
        self.model.draws.first_row = 0
        if self._schedule is not None:
            self.optimizer.learning_rate = self._schedule.rate(self._full_rate, number, *self._length)
        if self._share is not None:
            loss, weight = self._shared(self._share, rows, x, targets, weights, outputs)
        elif len(x) <= self.batch_size:
            loss, weight = self._gradients(x, targets, weights, outputs), self.loss.weight_of(targets, weights)
        else:
            loss, weight = self._accumulated(x, targets, weights, outputs)
        squares = 0.0
        for gradient in self.optimizer.gradients:
            squares += gradient.dot(gradient)
        if not squares < math.inf:
            squares = self._exact_squares(x, targets, weights)
        if self.clip_norm is not None:
            self._clip(math.sqrt(squares), self.clip_norm)
        self.optimizer.step()
        return loss, weight

    def _gradients(self, x: Any, targets: Any, weights: Any, outputs: Array, share: float = 1.0) -> float:
        """Fill the model's gradients with those of some rows, times their share in the whole; give their mean loss."""
        if self.check_finite:
            outputs[...], loss = checked_step(self.model, self.loss, x, targets, weights, share)
            return loss
        y = self.model.train_forward(x)
        if self._share is not None and not len(x):
            loss, dy = 0.0, y
        else:
            loss, dy = self.loss.of_fitted(y, targets) if weights is None else self.loss(y, targets, weights)
        outputs[...] = y
        if not math.isfinite(loss):
            if self._share is not None:  # the others learn of it by the sum of the gradients
                dy = np.full_like(dy, math.nan)
            else:
                self._fail(f"the loss is {loss}", x, targets, weights)
        if share != 1:
            dy = dy * share
        self.model.train_backward(dy)
        return loss

    def _accumulated(self, x: Any, targets: Any, weights: Any, outputs: Array) -> tuple[float, float]:
        """Do the same batch by batch."""
        total, size = self.loss.weight_of(targets, weights), self.batch_size
        parts = [(start, min(start + size, len(x))) for start in range(0, len(x), size)]
        return self._added_up(parts, total, total, x, targets, weights, outputs), total

    def _shared(
        self, share: BatchShare, rows: int, x: Any, targets: Any, weights: Any, outputs: Array
    ) -> tuple[float, float]:
        """Do it together with the other processes: each adds its rows' part of the gradient of the whole mean.

        All take part in every batch, also without rows, as norms over the batch ask all. A loss that is not finite
        makes the sum of the gradients so, which all see.
        """
        own = self.loss.weight_of(targets, weights)
        total = float(rows)
        if self._weighted or weights is not None:
            counted = np.array([own], np.float64)
            share.world.sum(counted)
            total = float(counted[0])
        mean = self._added_up(share.parts(rows), own, total, x, targets, weights, outputs)
        shared = self.model.store.shared_vector
        shared[-1] = self.asked
        share.world.sum(shared)
        self.agreed = bool(shared[-1])
        return mean, own

    def _added_up(
        self,
        parts: Sequence[tuple[int, int]],
        own: float,
        total: float,
        x: Any,
        targets: Any,
        weights: Any,
        outputs: Array,
    ) -> float:
        """Fill the gradients with the sum over the batches of a step, x being their rows one behind the other.

        `parts` are the places of those rows in the whole step, for which dropout draws what it would draw in one large
        batch. `own` is what x counts and `total` what the whole step does. Gives the mean loss of x.
        """
        vector, draws, number = self.model.store.gradient_vector, self.model.draws, self.model.draws.step
        if self._sum is None:
            self._sum = np.empty_like(vector)
        sum_, several, mean, at = self._sum, len(parts) > 1, 0.0, 0
        if several:
            sum_.fill(0)
        for first, stop in parts:
            rows = slice(at, at + stop - first)
            at = rows.stop
            w = None if weights is None else weights[rows]
            part = self.loss.weight_of(targets[rows], w)
            draws.step, draws.first_row = number, first
            loss = self._gradients(x[rows], targets[rows], w, outputs[rows], part / total)
            mean += part / own * loss if own else 0.0
            if several:
                sum_ += vector
        draws.first_row = 0
        if several:
            vector[...] = sum_
        return mean

    def _exact_squares(self, x: Any, targets: Any, weights: Any) -> float:
        """Sum the squares in float64: float32 ends at 3e38, whose root is no huge gradient. Raises NotFiniteError."""
        squares = sum(float(np.square(g, dtype=np.float64).sum()) for g in self.optimizer.gradients)
        if not math.isfinite(squares):
            self._fail("a gradient is not finite", x, targets, weights)
        return squares

    def _clip(self, norm: float, most: float) -> None:
        if norm + CLIP_EPSILON > most:
            for gradient in self.optimizer.gradients:
                np.multiply(gradient, most / (norm + CLIP_EPSILON), gradient)

    def _fail(self, what: str, x: Any, targets: Any, weights: Any) -> NoReturn:
        draws = self.model.draws
        draws.step = self._number
        if self._share is None:
            where = where_not_finite(self.model, self.loss, x, targets, weights)
            draws.first_row = 0
            raise NotFiniteError(where, what)
        world, draws.world = self._share.world, SINGLE  # each looks at its own rows
        try:
            where = where_not_finite(self.model, self.loss, x, targets, weights) if len(x) else NOWHERE
        finally:
            draws.world = world
        told = world.gather((where, self._share.parts(self._rows)))
        rank, (where, parts) = next(((r, t) for r, t in enumerate(told) if t[0] != NOWHERE), (0, told[0]))
        span = ", ".join(f"{first} to {stop - 1}" for first, stop in parts if stop > first)
        place = f"{where}; in process {rank} of {world.size}, rows {span} of the step's {self._rows}"
        raise NotFiniteError(place, what)
