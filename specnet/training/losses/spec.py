"""What an experiment document says of a loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import BeforeValidator

from specnet.document.base import Document
from specnet.document.tagged_union import Tagged
from specnet.fields import PositiveReal, Share, as_tuple
from specnet.training.losses.base import Loss
from specnet.training.losses.elementwise import BinaryCrossEntropy, Huber, MeanAbsoluteError, MeanSquaredError
from specnet.training.losses.softmax_cross_entropy import SoftmaxCrossEntropy


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
