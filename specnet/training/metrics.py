"""Metrics: what is measured beside the loss. Definitions are scikit-learn's of the same names.

A metric adds up a few float64 numbers over the batches of an epoch (`sums`, saved with a run) and makes a value of
them. Outputs of a classifier are logits, as its loss takes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.document.base import Document
from specnet.document.tagged_union import Tagged
from specnet.fields import PositiveInteger

Targets = npt.NDArray[Any]


class Metric(ABC):
    """Base of the metrics."""

    counts: ClassVar[bool] = False
    """Whether `sums` are whole numbers, which come out the same however the rows are put together."""

    def __init__(self, size: int) -> None:
        self.sums: npt.NDArray[np.float64] = np.zeros(size)

    @abstractmethod
    def add(self, outputs: Array, targets: Targets) -> None:
        """Count some rows."""

    def combine(self, parts: Sequence[npt.NDArray[np.float64]]) -> None:
        """Take the sums of several processes for those of all their rows."""
        self.sums[...] = np.sum(parts, axis=0)

    @abstractmethod
    def value(self) -> float:
        """Give the metric of all rows counted."""


def _classes(outputs: Array, targets: Targets) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give predicted and true classes: indices, or, for yes-or-no outputs (targets of their shape), 0 and 1."""
    if targets.shape == outputs.shape:
        return outputs > 0, targets > 0.5
    return outputs.argmax(axis=1), targets


class Accuracy(Metric):
    """Share of the rows whose class is right; of the elements, for yes-or-no outputs."""

    counts = True

    def __init__(self) -> None:
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        predicted, true = _classes(outputs, targets)
        self.sums[0] += np.count_nonzero(predicted == true)
        self.sums[1] += predicted.size

    def value(self) -> float:
        return float(self.sums[0] / self.sums[1])


class TopKAccuracy(Metric):
    """Share of the rows whose class is among the k highest outputs; of equal ones the later class counts as higher."""

    counts = True

    def __init__(self, k: int) -> None:
        self.k = k
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        own = np.take_along_axis(outputs, targets[:, np.newaxis], axis=1)
        later = np.arange(outputs.shape[1]) > targets[:, np.newaxis]
        rank = np.count_nonzero((outputs > own) | ((outputs == own) & later), axis=1)
        self.sums += np.array([np.count_nonzero(rank < self.k), len(outputs)])

    def value(self) -> float:
        return float(self.sums[0] / self.sums[1])


class F1(Metric):
    """F1 score, its mean over the classes ("macro") that occur among the predicted or the true ones.

    For several yes-or-no outputs, its mean over all of them, each the score of "yes"; 0 where there is none.
    """

    counts = True

    def __init__(self, output_shape: ShapeTuple, *, multilabel: bool) -> None:
        self.multilabel = multilabel
        super().__init__(3 * max(int(np.prod(output_shape)), 2))

    def add(self, outputs: Array, targets: Targets) -> None:
        hits, predicted_sums, true_sums = self.sums.reshape(3, -1)
        predicted, true = _classes(outputs, targets)
        if self.multilabel:
            predicted, true = predicted.reshape(len(outputs), -1), true.reshape(len(outputs), -1)
            hits += np.count_nonzero(predicted & true, axis=0)
            predicted_sums += np.count_nonzero(predicted, axis=0)
            true_sums += np.count_nonzero(true, axis=0)
            return
        predicted, true = predicted.reshape(-1).astype(np.int64), true.reshape(-1).astype(np.int64)
        hits += np.bincount(true[predicted == true], minlength=len(hits))
        predicted_sums += np.bincount(predicted, minlength=len(hits))
        true_sums += np.bincount(true, minlength=len(hits))

    def value(self) -> float:
        hits, predicted, true = self.sums.reshape(3, -1)
        there = predicted + true > 0
        scores = np.divide(2 * hits, predicted + true, out=np.zeros_like(hits), where=there)
        return float(scores.mean() if self.multilabel else scores[there].mean())


class _Mean(Metric):
    """Base of the means over every element."""

    def __init__(self) -> None:
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        self.sums += np.array([self.total(outputs.astype(np.float64) - targets), outputs.size])

    @abstractmethod
    def total(self, difference: npt.NDArray[np.float64]) -> float:
        """Sum over the elements."""

    def value(self) -> float:
        return float(self.sums[0] / self.sums[1])


class MSE(_Mean):
    """Mean squared error, over every element."""

    def total(self, difference: npt.NDArray[np.float64]) -> float:
        return float(np.square(difference).sum())


class MAE(_Mean):
    """Mean absolute error, over every element."""

    def total(self, difference: npt.NDArray[np.float64]) -> float:
        return float(np.abs(difference).sum())


class R2(Metric):
    """Coefficient of determination, its mean over the outputs.

    1 - sum((t - y)^2) / sum((t - mean(t))^2); 1 where both are 0, and 0 where only the latter is. The sums around
    the mean are put together as Chan et al. (1979) do, which loses no digits to a large mean.
    """

    def __init__(self, output_shape: ShapeTuple) -> None:
        super().__init__(1 + 3 * int(np.prod(output_shape)))

    def add(self, outputs: Array, targets: Targets) -> None:
        t = targets.reshape(len(targets), -1).astype(np.float64)
        own = t.mean(axis=0)
        errors = np.square(t - outputs.reshape(t.shape)).sum(axis=0)
        self._put_together(len(t), own, np.square(t - own).sum(axis=0), errors)

    def combine(self, parts: Sequence[npt.NDArray[np.float64]]) -> None:
        self.sums[...] = 0
        for part in parts:
            if part[0]:
                self._put_together(part[0], *part[1:].reshape(3, -1))

    def _put_together(self, rows: float, own: Targets, spread_of: Targets, error_of: Targets) -> None:
        mean, spread, error = self.sums[1:].reshape(3, -1)
        count = self.sums[0]
        away = own - mean
        spread += spread_of + np.square(away) * (count * rows / (count + rows))
        mean += away * (rows / (count + rows))
        error += error_of
        self.sums[0] += rows

    def value(self) -> float:
        _, spread, error = self.sums[1:].reshape(3, -1)
        scores = np.where(error == 0, 1.0, 0.0)
        np.divide(error, spread, out=scores, where=(spread != 0) & (error != 0))
        return float(np.where((spread != 0) & (error != 0), 1 - scores, scores).mean())


class MetricSpec(Document):
    """Base of the documents of metrics."""

    needs_classes: ClassVar[str] = ""
    """"one" of several, "any" (yes-or-no too), or nothing, for metrics of numbers."""
    greater_is_better: ClassVar[bool] = True

    type: str

    @abstractmethod
    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> Metric:
        """Make the metric for outputs of a shape, of which `one_class` says that a row's target is one index."""


class AccuracySpec(MetricSpec):
    """Share of the rows whose class is right."""

    needs_classes = "any"
    type: Literal["accuracy"] = "accuracy"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> Accuracy:
        return Accuracy()


class TopKAccuracySpec(MetricSpec):
    """Share of the rows whose class is among the k highest outputs."""

    needs_classes = "one"
    type: Literal["top_k_accuracy"] = "top_k_accuracy"
    k: PositiveInteger = 5
    """How many outputs count."""

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> TopKAccuracy:
        return TopKAccuracy(self.k)


class F1Spec(MetricSpec):
    """F1 score, its mean over the classes ("macro")."""

    needs_classes = "any"
    type: Literal["f1"] = "f1"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> F1:
        return F1(output_shape, multilabel=not one_class and output_shape != (1,))


class MSESpec(MetricSpec):
    """Mean squared error."""

    greater_is_better = False
    type: Literal["mse"] = "mse"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> MSE:
        return MSE()


class MAESpec(MetricSpec):
    """Mean absolute error."""

    greater_is_better = False
    type: Literal["mae"] = "mae"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> MAE:
        return MAE()


class R2Spec(MetricSpec):
    """Coefficient of determination."""

    type: Literal["r2"] = "r2"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> R2:
        return R2(output_shape)


METRICS: dict[str, type[MetricSpec]] = {
    "accuracy": AccuracySpec,
    "top_k_accuracy": TopKAccuracySpec,
    "f1": F1Spec,
    "mse": MSESpec,
    "mae": MAESpec,
    "r2": R2Spec,
}

MetricChoice = Annotated[MetricSpec, Tagged("metric", lambda: METRICS, shorthand=True)]

_LONG = {"validation_": "val_", "training_": ""}


def short_name(name: str) -> str:
    """Give the name under which the history keeps a metric: validation_loss is val_loss, training_loss is loss."""
    for long, short in _LONG.items():
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


MONITORS = tuple(f"{prefix}{name}" for prefix in ("val_", "", *_LONG) for name in ("loss", *METRICS))
"""All names by which documents may call what is monitored."""


def greater_is_better(name: str) -> bool:
    """Tell in which direction a monitored metric improves."""
    kind = METRICS.get(short_name(name).removeprefix("val_"))
    return kind is not None and kind.greater_is_better
