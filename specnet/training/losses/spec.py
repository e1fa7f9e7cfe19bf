"""Specs of the losses in an experiment document."""

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
    """Base class of the loss specs."""

    @abstractmethod
    def build(self) -> Loss:
        """Build the loss."""


class SoftmaxCrossEntropySpec(LossSpec):
    """Cross-entropy of the softmax of the outputs (logits) with a class index."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    label_smoothing: Share = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    class_weights: Annotated[tuple[PositiveReal, ...], BeforeValidator(as_tuple)] | None = None
    """Weights of the classes in the loss, one positive number per class."""

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
    """Huber loss: quadratic for differences up to delta, linear beyond it."""

    type: Literal["huber"] = "huber"
    delta: PositiveReal = 1.0
    """Absolute difference at which the loss changes from quadratic to linear."""

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
