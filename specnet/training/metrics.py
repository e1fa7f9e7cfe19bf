"""Metrics beside the loss. Their definitions are those of scikit-learn's metrics with the same names.

A metric adds up a few float64 numbers over the batches of an epoch (`sums`, saved with a run) and computes its value
from them. Outputs of a classifier are logits, as its loss takes them.
"""

from __future__ import annotations

import math
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
    """Base class of the metrics."""

    counts: ClassVar[bool] = False
    """Whether `sums` are integers, whose values do not depend on how the rows are grouped."""

    def __init__(self, size: int) -> None:
        self.sums: npt.NDArray[np.float64] = np.zeros(size)

    @abstractmethod
    def add(self, outputs: Array, targets: Targets) -> None:
        """Add some rows to `sums`."""

    def combine(self, parts: Sequence[npt.NDArray[np.float64]]) -> None:
        """Set `sums` to those of all rows, given the sums of several processes."""
        self.sums[...] = np.sum(parts, axis=0)

    @abstractmethod
    def value(self) -> float:
        """Return the metric over all rows added so far."""


def _predicted_and_true(outputs: Array, targets: Targets) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return predicted and true classes: indices, or 0 and 1 for yes-or-no outputs (targets of the same shape)."""
    if targets.shape == outputs.shape:
        return outputs > 0, targets > 0.5
    return outputs.argmax(axis=1), targets


class Accuracy(Metric):
    """Fraction of the rows whose class is correct, or of the elements for yes-or-no outputs."""

    counts = True

    def __init__(self) -> None:
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        predicted, true = _predicted_and_true(outputs, targets)
        self.sums[0] += np.count_nonzero(predicted == true)
        self.sums[1] += predicted.size

    def value(self) -> float:
        return float(self.sums[0] / self.sums[1])


class TopKAccuracy(Metric):
    """Fraction of rows whose class is among the k highest outputs; of equal outputs, the later class ranks higher."""

    counts = True

    def __init__(self, k: int) -> None:
        self.k = k
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        true_outputs = np.take_along_axis(outputs, targets[:, np.newaxis], axis=1)
        later = np.arange(outputs.shape[1]) > targets[:, np.newaxis]
        rank = np.count_nonzero((outputs > true_outputs) | ((outputs == true_outputs) & later), axis=1)
        self.sums += np.array([np.count_nonzero(rank < self.k), len(outputs)])

    def value(self) -> float:
        return float(self.sums[0] / self.sums[1])


class F1(Metric):
    """F1 score, averaged over the classes ("macro") that occur among the predicted or the true classes.

    For several yes-or-no outputs, averaged over all outputs: each is scored for "yes", and 0 if "yes" does not occur.
    """

    counts = True

    def __init__(self, output_shape: ShapeTuple, *, multilabel: bool) -> None:
        self.multilabel = multilabel
        super().__init__(3 * max(int(np.prod(output_shape)), 2))

    def add(self, outputs: Array, targets: Targets) -> None:
        hits, predicted_sums, true_sums = self.sums.reshape(3, -1)
        predicted, true = _predicted_and_true(outputs, targets)
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
        occurs = predicted + true > 0
        if not occurs.any():
            return math.nan  # no rows
        scores = np.divide(2 * hits, predicted + true, out=np.zeros_like(hits), where=occurs)
        return float(scores.mean() if self.multilabel else scores[occurs].mean())


class _Mean(Metric):
    """Base class of the means over every element."""

    def __init__(self) -> None:
        super().__init__(2)

    def add(self, outputs: Array, targets: Targets) -> None:
        self.sums += np.array([self.total(outputs.astype(np.float64) - targets), outputs.size])

    @abstractmethod
    def total(self, difference: npt.NDArray[np.float64]) -> float:
        """Return the sum over the elements."""

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
    """Coefficient of determination, averaged over the outputs.

    1 - sum((t - y)^2) / sum((t - mean(t))^2); 1 if both sums are 0, and 0 if only the latter is. The sums around the
    mean are merged by the method of Chan et al. (1979), which loses no digits if the mean is large.
    """

    def __init__(self, output_shape: ShapeTuple) -> None:
        super().__init__(1 + 3 * int(np.prod(output_shape)))

    def add(self, outputs: Array, targets: Targets) -> None:
        t = targets.reshape(len(targets), -1).astype(np.float64)
        mean = t.mean(axis=0)
        errors = np.square(t - outputs.reshape(t.shape)).sum(axis=0)
        self._merge(len(t), mean, np.square(t - mean).sum(axis=0), errors)

    def combine(self, parts: Sequence[npt.NDArray[np.float64]]) -> None:
        self.sums[...] = 0
        for part in parts:
            if part[0]:
                self._merge(part[0], *part[1:].reshape(3, -1))

    def _merge(self, rows: float, part_mean: Targets, part_spread: Targets, part_error: Targets) -> None:
        mean, spread, error = self.sums[1:].reshape(3, -1)
        count = self.sums[0]
        shift = part_mean - mean
        spread += part_spread + np.square(shift) * (count * rows / (count + rows))
        mean += shift * (rows / (count + rows))
        error += part_error
        self.sums[0] += rows

    def value(self) -> float:
        _, spread, error = self.sums[1:].reshape(3, -1)
        scores = np.where(error == 0, 1.0, 0.0)
        np.divide(error, spread, out=scores, where=(spread != 0) & (error != 0))
        return float(np.where((spread != 0) & (error != 0), 1 - scores, scores).mean())


class MetricSpec(Document):
    """Base class of the metric specs."""

    needs_classes: ClassVar[str] = ""
    """The outputs it needs: "one" class of several, "any" classes (also yes-or-no), or "" for numbers."""
    greater_is_better: ClassVar[bool] = True

    type: str

    @abstractmethod
    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> Metric:
        """Build the metric for outputs of a shape; `one_class` says whether a row's target is one class index."""


class AccuracySpec(MetricSpec):
    """Fraction of the rows whose class is correct."""

    needs_classes = "any"
    type: Literal["accuracy"] = "accuracy"

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> Accuracy:
        return Accuracy()


class TopKAccuracySpec(MetricSpec):
    """Fraction of the rows whose class is among the k highest outputs."""

    needs_classes = "one"
    type: Literal["top_k_accuracy"] = "top_k_accuracy"
    k: PositiveInteger = 5
    """Number of highest outputs that count as correct."""

    def build(self, output_shape: ShapeTuple, *, one_class: bool) -> TopKAccuracy:
        return TopKAccuracy(self.k)


class F1Spec(MetricSpec):
    """F1 score, averaged over the classes ("macro")."""

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

_SHORT_PREFIXES = {"validation_": "val_", "training_": ""}


def short_name(name: str) -> str:
    """Return the name of a metric in the history: val_loss for validation_loss, loss for training_loss."""
    for long, short in _SHORT_PREFIXES.items():
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


MONITORS = tuple(f"{prefix}{name}" for prefix in ("val_", "", *_SHORT_PREFIXES) for name in ("loss", *METRICS))
"""All names of monitored metrics that documents may use."""


def greater_is_better(name: str) -> bool:
    """Return whether greater values of a monitored metric are better."""
    spec = METRICS.get(short_name(name).removeprefix("val_"))
    return spec is not None and spec.greater_is_better
