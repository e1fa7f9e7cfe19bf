"""One step of a run: forward, loss, backward, the optimizer's step; for a batch, or several whose gradients add up."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from specnet.model import Model
from specnet.parameters import Array
from specnet.training.finite import NotFiniteError, checked_step, where_not_finite
from specnet.training.losses import Loss
from specnet.training.optimizer import Optimizer
from specnet.training.trainingspec import TrainingSpec

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
        self._number = 0

    def __call__(self, number: int, x: Any, targets: Any, weights: Any, outputs: Array) -> tuple[float, float]:
        """Take step `number`, counted from 0; write the model's outputs into `outputs`.

        Gives the mean loss and what it counts in a mean over steps. Raises NotFiniteError before any
        parameter has moved where loss or gradients are not finite.
        """
        self._number = self.model.draws.step = number
        self.model.draws.first_row = 0
        if self._schedule is not None:
            self.optimizer.learning_rate = self._schedule.rate(self._full_rate, number, *self._length)
        if len(x) <= self.batch_size:
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
        loss, dy = self.loss.of_fitted(y, targets) if weights is None else self.loss(y, targets, weights)
        outputs[...] = y
        if not math.isfinite(loss):
            self._fail(f"the loss is {loss}", x, targets, weights)
        if share != 1:
            dy = dy * share
        self.model.train_backward(dy)
        return loss

    def _accumulated(self, x: Any, targets: Any, weights: Any, outputs: Array) -> tuple[float, float]:
        """Do the same batch by batch; dropout draws for each row what it would draw in one large batch."""
        vector, draws = self.model.store.gradient_vector, self.model.draws
        if self._sum is None:
            self._sum = np.empty_like(vector)
        self._sum.fill(0)
        total, mean, number = self.loss.weight_of(targets, weights), 0.0, draws.step
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            w = None if weights is None else weights[rows]
            share = self.loss.weight_of(targets[rows], w) / total
            draws.step, draws.first_row = number, start
            mean += share * self._gradients(x[rows], targets[rows], w, outputs[rows], share)
            self._sum += vector
        draws.first_row = 0
        vector[...] = self._sum
        return mean, total

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
        self.model.draws.step = self._number
        where = where_not_finite(self.model, self.loss, x, targets, weights)
        self.model.draws.first_row = 0
        raise NotFiniteError(where, what)
