"""Softmax cross-entropy: the compiled kernel when it applies, otherwise numpy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import as_array, as_floats
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import TimeMask
from specnet.training.losses.base import Loss, row_weights

FEW_CLASSES = 32
"""Up to this number of classes, a product with a matrix of ones sums each row."""

TABLED_CLASSES = 512
"""Up to this number of classes, the target distribution of every class is kept in a table of classes x classes."""


class _Work(NamedTuple):
    """Work arrays for one batch size and number of classes."""

    table: Array  # target distribution of each class / batch size; only its first TABLED_CLASSES if there are more
    ones: Array
    z: Array
    e: Array
    target: Array
    sums: Array


class SoftmaxCrossEntropy(Loss):
    """-sum(q * log(softmax(outputs))), mean over rows, or over all time steps.

    outputs: (batch, classes) or (batch, time, classes), logits; targets: class indices, without the last axis, or
    distributions of the outputs' shape. q is the target's distribution, mixed with the uniform one by
    `label_smoothing`. `class_weights`, one per class, multiply the terms of the sum, and the mean divides by the sum of
    the weights of the rows' classes, as in torch.
    """

    name = "softmax_cross_entropy"
    doubled_by = ("softmax", "log_softmax", "sigmoid")

    def __init__(self, label_smoothing: float = 0.0, class_weights: npt.ArrayLike | None = None) -> None:
        if not 0 <= label_smoothing <= 1:
            msg = f"{self.name}: expected label_smoothing in [0, 1], got {label_smoothing!r}"
            raise SpecnetError(msg)
        self.label_smoothing = float(label_smoothing)
        self.class_weights = None if class_weights is None else np.asarray(class_weights, np.float64)
        if self.class_weights is not None and (self.class_weights.ndim != 1 or not (self.class_weights > 0).all()):
            msg = f"{self.name}: expected class_weights of positive numbers, one per class, got {class_weights!r:.80}"
            raise SpecnetError(msg)
        self._work: _Work | None = None

    def mean(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the mean loss over the rows and its gradient. Raises ShapeError, also for a class out of range."""
        x = as_floats(outputs, None, self.name)
        if x.ndim not in (2, 3) or 0 in x.shape:
            msg = f"{self.name}: expected outputs of shape (batch, classes) or (batch, time, classes), got {x.shape}"
            raise ShapeError(msg)
        t = targets if type(targets) is np.ndarray else as_array(targets, self.name, f"({len(x)},)")
        if x.ndim == 3:
            return self._mean_over_steps(x, t, weights)
        if weights is None and (result := self._by_kernel(x, t)) is not None:
            return result
        work = self._work_for(x)
        q = self._target_distributions(work, t, x.shape)
        if weights is not None or self.class_weights is not None:
            return self._weighted(x, q, t, weights)
        return self._unweighted(x, work, q)

    def _mean_over_steps(
        self, x: Array, targets: npt.NDArray[Any], weights: npt.ArrayLike | None
    ) -> tuple[float, Array]:
        """Return the mean loss over all steps of sequences, as if they were rows, and its gradient."""
        if targets.shape not in (x.shape[:2], x.shape):
            msg = f"{self.name}: expected targets of shape {x.shape[:2]}, a class for each step, got {targets.shape}"
            raise ShapeError(msg)
        steps = x.shape[0] * x.shape[1]
        w = None if weights is None else np.repeat(row_weights(self.name, weights, x), x.shape[1])
        loss, gradient = self.mean(x.reshape(steps, -1), targets.reshape(steps, *targets.shape[2:]), w)
        return loss, gradient.reshape(x.shape)

    def of_fitted(self, outputs: Array, targets: npt.NDArray[Any], mask: TimeMask | None = None) -> tuple[float, Array]:
        if mask is not None or outputs.ndim != 2 or self.class_weights is not None:
            return self(outputs, targets, None, mask)
        if (result := self._by_kernel(outputs, targets)) is not None:
            return result
        work = self._work_for(outputs)
        return self._unweighted(outputs, work, self._one_hot(work, targets))

    def _by_kernel(self, x: Array, targets: npt.NDArray[Any]) -> tuple[float, Array] | None:
        """Return loss and gradient for class indices; None without kernels, or if a class is out of range."""
        if self.class_weights is not None or targets.shape != x.shape[:1]:
            return None
        gradient = np.empty(x.shape, x.dtype)
        loss = kernels.cross_entropy(x, targets, gradient, self.label_smoothing)
        return None if loss is None else (loss, gradient)

    def _unweighted(self, x: Array, work: _Work, q: Array) -> tuple[float, Array]:
        """Return loss and gradient with equal weights; `q` holds each row's q / number of rows."""
        z, e = work.z, work.e
        np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), z)
        np.exp(z, e)
        sums = np.dot(e, work.ones, work.sums)  # with few classes, each sum is repeated over its row
        first = sums[:, :1]
        expected = float(np.vdot(z, q))
        if math.isnan(expected):  # a logit of -inf with target 0 contributes nothing
            expected = float(np.multiply(z, q, out=np.zeros_like(z), where=q != 0).sum())
        loss = float(np.log(first).sum()) / len(x) - expected
        gradient = e / (sums if sums.shape == e.shape else first)  # softmax
        gradient *= work.sums.dtype.type(1 / len(x))
        gradient -= q
        return loss, gradient

    def _weighted(
        self, x: Array, q: Array, targets: npt.NDArray[Any], weights: npt.ArrayLike | None
    ) -> tuple[float, Array]:
        """Return loss and gradient with weights of rows or classes; `q` holds each row's q / number of rows."""
        classes = x.shape[1]
        w = None if weights is None else row_weights(self.name, weights, x)
        if self.class_weights is not None and len(self.class_weights) != classes:
            count = len(self.class_weights)
            msg = f"{self.name}: expected outputs of {count} classes, one per class weight, got {classes}"
            raise ShapeError(msg)
        q = q * x.dtype.type(len(x) / self.weight_of(targets, w))
        if self.class_weights is not None:
            q *= self.class_weights.astype(x.dtype)
        if w is not None:
            q *= w[:, np.newaxis]
        z = x - x.max(axis=1, keepdims=True)
        e = np.exp(z)
        sums = e.sum(axis=1, keepdims=True)
        q_sums = q.sum(axis=1, keepdims=True)
        expected = float(np.multiply(z, q, out=np.zeros_like(z), where=q != 0).sum())
        return float(np.vdot(np.log(sums), q_sums)) - expected, e * (q_sums / sums) - q

    def weight_of(
        self, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None, mask: TimeMask | None = None
    ) -> float:
        if self.class_weights is None or targets.dtype.kind == "f":
            return super().weight_of(targets, weights, mask)
        counts = np.ones(targets.shape, np.bool_) if mask is None else mask
        class_weights = self.class_weights[targets[counts]]
        if weights is not None:
            class_weights = class_weights * np.repeat(weights, counts.reshape(len(counts), -1).sum(axis=1))
        return float(class_weights.sum())

    def _work_for(self, x: Array) -> _Work:
        work = self._work
        if work is None or work.z.shape != x.shape or work.z.dtype != x.dtype:
            batch, classes = x.shape
            smoothing, tabled = self.label_smoothing, min(classes, TABLED_CLASSES)
            table = ((1 - smoothing) * np.eye(tabled) + smoothing / classes) / batch
            columns = classes if classes <= FEW_CLASSES else 1
            shapes = (x.shape, x.shape, x.shape, (batch, columns))
            work = self._work = _Work(
                table.astype(x.dtype), np.ones((classes, columns), x.dtype), *(np.empty(s, x.dtype) for s in shapes)
            )
        return work

    def _target_distributions(self, work: _Work, targets: npt.NDArray[Any], shape: ShapeTuple) -> Array:
        batch, classes = shape
        if targets.shape == shape and targets.dtype.kind == "f":
            uniform = self.label_smoothing / classes
            np.copyto(work.target, (targets * (1 - self.label_smoothing) + uniform) / batch, casting="same_kind")
            return work.target
        if targets.shape != (batch,) or targets.dtype.kind not in "iu":
            got = f"{targets.dtype} of shape {targets.shape}"
            msg = f"{self.name}: expected integer targets of shape ({batch},) or distributions of {shape}, got {got}"
            raise ShapeError(msg)
        # One reduction checks both bounds: a negative class is very large as an unsigned integer.
        if targets.astype(np.uint64, copy=False).max() >= classes:
            row = int(np.argmax(targets.astype(np.uint64, copy=False)))
            msg = f"{self.name}: expected classes 0 to {classes - 1}, got {targets[row]} in row {row}"
            raise ShapeError(msg)
        return self._one_hot(work, targets)

    @staticmethod
    def _one_hot(work: _Work, targets: npt.NDArray[Any]) -> Array:
        """Write each row's target distribution, divided by the batch size, into `work.target`, and return it."""
        batch, classes = work.target.shape
        if classes > TABLED_CLASSES:
            work.target.fill(work.table[0, 1])
            work.target[np.arange(batch), targets] = work.table[0, 0]
            return work.target
        return work.table.take(targets, 0, work.target, "clip")

    def takes_classes(self) -> bool:
        return True

    def probabilities(self, outputs: Array) -> Array:
        e = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
