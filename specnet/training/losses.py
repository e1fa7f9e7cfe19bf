"""Losses: called with (outputs, targets) they give (mean loss, ∂loss/∂outputs). Definitions and names are torch's.

With weights, one a row, the mean is a weighted one. The gradient is the caller's to keep and has the outputs' dtype.
Each loss stands beside its document.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from specnet import kernels
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import as_array, as_floats
from specnet.layers.sigmoid import sigmoid
from specnet.parameters import Array, ShapeTuple
from specnet.tagged import Tagged
from specnet.validation import Document, PositiveReal, Share, as_tuple

FEW_CLASSES = 32
TABLED_CLASSES = 512
"""Up to so many classes, the target distribution of each is kept: a table of their number squared."""


class Loss(ABC):
    """Base of the losses."""

    name: ClassVar[str]
    doubled_by: ClassVar[tuple[str, ...]] = ()
    """Types of a last layer that would do what the loss does already."""
    target_bounds: ClassVar[tuple[float, float] | None] = None
    """The least and the greatest target; None for any number."""
    yes_or_no: ClassVar[bool] = False
    """Whether each output answers yes or no: a target above 1/2 is a yes, and so is an output above 0."""

    @abstractmethod
    def __call__(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Give the mean loss and its gradient. Raises ShapeError for targets or weights that do not fit the outputs."""

    def of_fitted(self, outputs: Array, targets: npt.NDArray[Any]) -> tuple[float, Array]:
        """Do the same for a model's outputs and targets that are known to fit them, as a loop's are: no checks."""
        return self(outputs, targets)

    def weight_of(self, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> float:
        """Give what rows count in a mean over several batches: their number, or the sum of their weights."""
        return len(targets) if weights is None else float(weights.sum(dtype=np.float64))

    def takes_classes(self) -> bool:
        """Whether targets are indices of classes."""
        return False

    def has_classes(self) -> bool:
        """Whether outputs decide between classes, one of several or yes and no."""
        return self.takes_classes() or self.yes_or_no

    def probabilities(self, outputs: Array) -> Array:
        """Turn outputs into what people expect of a prediction; only losses on logits have anything to do."""
        return outputs


class ElementLoss(Loss):
    """Base of the losses whose mean runs over every element; targets have the outputs' shape."""

    def __call__(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Give the mean loss over all elements and its gradient. Raises ShapeError where the shapes differ."""
        y = as_floats(outputs, None, self.name)
        t = as_floats(targets, y.dtype, self.name)
        if t.shape != y.shape:
            msg = f"{self.name}: expected targets of shape {y.shape}, as the outputs, got {t.shape}"
            raise ShapeError(msg)
        if y.size == 0:
            msg = f"{self.name}: expected at least one row, got outputs of shape {y.shape}"
            raise ShapeError(msg)
        losses, gradient = self.elements(y, t)
        if weights is None:
            gradient /= y.size
            return float(losses.sum()) / y.size, gradient
        w = _row_weights(self.name, weights, y)
        count = y.size // len(y) * float(w.sum(dtype=np.float64))
        gradient *= (w / count).reshape(-1, *[1] * (y.ndim - 1)).astype(y.dtype)
        return float(w @ losses.reshape(len(y), -1).sum(axis=1)) / count, gradient

    @abstractmethod
    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Give the loss of each element and, in a new array, its derivative."""


def _row_weights(name: str, weights: npt.ArrayLike, outputs: Array) -> Array:
    w = as_floats(weights, outputs.dtype, name)
    if w.shape != (len(outputs),):
        msg = f"{name}: expected weights of shape ({len(outputs)},), one a row, got {w.shape}"
        raise ShapeError(msg)
    return w


class _Work(NamedTuple):
    """Arrays of one batch size and number of classes."""

    table: Array  # the target distribution of each class, divided by the batch size; a corner where there are many
    ones: Array
    z: Array
    e: Array
    target: Array
    sums: Array


class SoftmaxCrossEntropy(Loss):
    """-sum(q * log(softmax(outputs))), mean over rows.

    outputs: (batch, classes), logits; targets: (batch,) class indices, or (batch, classes) distributions. q is the
    target's distribution, mixed with the even one by `label_smoothing`. `class_weights`, one a class, weigh the terms
    of the sum, and the mean is over the weights of the rows' classes, as torch has it.
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
            msg = f"{self.name}: expected class_weights to be positive numbers, one a class, got {class_weights!r:.80}"
            raise SpecnetError(msg)
        self._work: _Work | None = None

    def __call__(
        self, outputs: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Give the mean loss over the rows and its gradient. Raises ShapeError, also for a class out of range."""
        x = as_floats(outputs, None, self.name)
        if x.ndim != 2 or 0 in x.shape:
            msg = f"{self.name}: expected outputs of shape (batch, classes), got {x.shape}"
            raise ShapeError(msg)
        given = targets if type(targets) is np.ndarray else as_array(targets, self.name, f"({len(x)},)")
        if weights is None and (result := self._compiled(x, given)) is not None:
            return result
        work = self._work_for(x)
        target = self._target(work, given, x.shape)
        if weights is not None or self.class_weights is not None:
            return self._weighted(x, target, given, weights)
        return self._mean(x, work, target)

    def of_fitted(self, outputs: Array, targets: npt.NDArray[Any]) -> tuple[float, Array]:
        if self.class_weights is not None:
            return self(outputs, targets)
        if (result := self._compiled(outputs, targets)) is not None:
            return result
        work = self._work_for(outputs)
        return self._mean(outputs, work, self._one_hot(work, targets))

    def _compiled(self, x: Array, targets: npt.NDArray[Any]) -> tuple[float, Array] | None:
        """Give the result for one class a row, where there are kernels; None also for classes out of range."""
        if self.class_weights is not None or targets.shape != x.shape[:1]:
            return None
        gradient = np.empty(x.shape, x.dtype)
        loss = kernels.cross_entropy(x, targets, gradient, self.label_smoothing)
        return None if loss is None else (loss, gradient)

    def _mean(self, x: Array, work: _Work, target: Array) -> tuple[float, Array]:
        z, e = work.z, work.e
        np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), z)
        np.exp(z, e)
        sums = np.dot(e, work.ones, work.sums)  # with few classes a matrix of ones also spreads the sums over the row
        first = sums[:, :1]
        expected = float(np.vdot(z, target))
        if math.isnan(expected):  # a logit of -inf whose target is 0 counts nothing
            expected = float(np.multiply(z, target, out=np.zeros_like(z), where=target != 0).sum())
        loss = float(np.log(first).sum()) / len(x) - expected
        gradient = e / (sums if sums.shape == e.shape else first)  # softmax
        gradient *= work.sums.dtype.type(1 / len(x))
        gradient -= target
        return loss, gradient

    def _weighted(
        self, x: Array, target: Array, given: npt.NDArray[Any], weights: npt.ArrayLike | None
    ) -> tuple[float, Array]:
        """Do the same where rows or classes count differently; `target` holds each row's q, divided by the rows."""
        classes = x.shape[1]
        w = None if weights is None else _row_weights(self.name, weights, x)
        if self.class_weights is not None and len(self.class_weights) != classes:
            msg = f"{self.name}: expected outputs of {len(self.class_weights)} classes, as class_weights, got {classes}"
            raise ShapeError(msg)
        q = target * x.dtype.type(len(x) / self.weight_of(given, w))
        if self.class_weights is not None:
            q *= self.class_weights.astype(x.dtype)
        if w is not None:
            q *= w[:, np.newaxis]
        z = x - x.max(axis=1, keepdims=True)
        e = np.exp(z)
        sums = e.sum(axis=1, keepdims=True)
        each = q.sum(axis=1, keepdims=True)
        expected = float(np.multiply(z, q, out=np.zeros_like(z), where=q != 0).sum())
        return float(np.vdot(np.log(sums), each)) - expected, e * (each / sums) - q

    def weight_of(self, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> float:
        if self.class_weights is None and weights is None:
            return len(targets)
        if self.class_weights is None or targets.ndim != 1:
            return super().weight_of(targets, weights)
        own = self.class_weights[targets]
        return float(own.sum() if weights is None else own @ weights)

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

    def _target(self, work: _Work, targets: npt.NDArray[Any], shape: ShapeTuple) -> Array:
        batch, classes = shape
        if targets.shape == shape and targets.dtype.kind == "f":
            even = self.label_smoothing / classes
            np.copyto(work.target, (targets * (1 - self.label_smoothing) + even) / batch, casting="same_kind")
            return work.target
        if targets.shape != (batch,) or targets.dtype.kind not in "iu":
            got = f"{targets.dtype} of shape {targets.shape}"
            msg = f"{self.name}: expected integer targets of shape ({batch},) or distributions of {shape}, got {got}"
            raise ShapeError(msg)
        # One reduction finds both ends: a negative class, seen as unsigned, is a huge one.
        if targets.astype(np.uint64, copy=False).max() >= classes:
            wrong = int(np.argmax(targets.astype(np.uint64, copy=False)))
            msg = f"{self.name}: expected classes 0 to {classes - 1}, got {targets[wrong]} in row {wrong}"
            raise ShapeError(msg)
        return self._one_hot(work, targets)

    @staticmethod
    def _one_hot(work: _Work, targets: npt.NDArray[Any]) -> Array:
        """Write each row's target distribution, divided by the batch size."""
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


class BinaryCrossEntropy(ElementLoss):
    """-(t * log(p) + (1 - t) * log(1 - p)) with p = sigmoid(outputs), mean over every element; outputs are logits."""

    name = "binary_cross_entropy"
    doubled_by = ("sigmoid", "softmax", "log_softmax")
    target_bounds = (0.0, 1.0)
    yes_or_no = True

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        return np.maximum(y, 0) - y * t + np.log1p(np.exp(-np.abs(y))), sigmoid(y) - t

    def probabilities(self, outputs: Array) -> Array:
        return sigmoid(outputs)


class MeanSquaredError(ElementLoss):
    """(outputs - targets)^2, mean over every element."""

    name = "mean_squared_error"

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        return difference * difference, 2 * difference


class MeanAbsoluteError(ElementLoss):
    """|outputs - targets|, mean over every element; the gradient is 0 where they are equal."""

    name = "mean_absolute_error"

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        return np.abs(difference), np.sign(difference)


class Huber(ElementLoss):
    """d^2 / 2 where |d| <= delta, delta * (|d| - delta / 2) elsewhere, mean of all; d = outputs - targets."""

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        if not delta > 0:
            msg = f"{self.name}: expected a positive delta, got {delta!r}"
            raise SpecnetError(msg)
        self.delta = float(delta)

    def elements(self, y: Array, t: Array) -> tuple[Array, Array]:
        difference = y - t
        clipped = np.clip(difference, -self.delta, self.delta)
        return clipped * (difference - clipped / 2), clipped


class LossSpec(Document):
    """Base of the documents of losses."""

    @abstractmethod
    def build(self) -> Loss:
        """Make the loss."""


class SoftmaxCrossEntropySpec(LossSpec):
    """Cross-entropy of the softmax of the outputs (logits) with a class index."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    label_smoothing: Share = 0.0
    """Share of the target's probability that is spread evenly over all classes."""
    class_weights: Annotated[tuple[PositiveReal, ...], BeforeValidator(as_tuple)] | None = None
    """How much each class counts, one positive number a class."""

    def build(self) -> SoftmaxCrossEntropy:
        return SoftmaxCrossEntropy(self.label_smoothing, self.class_weights)


class BinaryCrossEntropySpec(LossSpec):
    """Cross-entropy of the sigmoid of the outputs (logits) with 0 or 1, or a probability between them."""

    type: Literal["binary_cross_entropy"] = "binary_cross_entropy"

    def build(self) -> BinaryCrossEntropy:
        return BinaryCrossEntropy()


class MeanSquaredErrorSpec(LossSpec):
    """Mean squared error."""

    type: Literal["mean_squared_error"] = "mean_squared_error"

    def build(self) -> MeanSquaredError:
        return MeanSquaredError()


class MeanAbsoluteErrorSpec(LossSpec):
    """Mean absolute error."""

    type: Literal["mean_absolute_error"] = "mean_absolute_error"

    def build(self) -> MeanAbsoluteError:
        return MeanAbsoluteError()


class HuberSpec(LossSpec):
    """Squared near zero, absolute beyond delta."""

    type: Literal["huber"] = "huber"
    delta: PositiveReal = 1.0
    """Where the parabola becomes a line."""

    def build(self) -> Huber:
        return Huber(self.delta)


LOSSES: dict[str, type[LossSpec]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropySpec,
    "binary_cross_entropy": BinaryCrossEntropySpec,
    "mean_squared_error": MeanSquaredErrorSpec,
    "mean_absolute_error": MeanAbsoluteErrorSpec,
    "huber": HuberSpec,
}

LossChoice = Annotated[LossSpec, Tagged("loss", lambda: LOSSES, shorthand=True)]
