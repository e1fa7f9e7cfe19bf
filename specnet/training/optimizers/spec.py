"""Specs of the optimizers in an experiment document."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator

from specnet.document.base import Document
from specnet.document.messages import mismatch, problem
from specnet.document.tagged_union import Tagged
from specnet.fields import Flag, NonNegativeReal, PositiveReal, Share, as_tuple
from specnet.model import Model
from specnet.training.optimizers.base import Optimizer
from specnet.training.optimizers.rules import SGD, Adagrad, Adam, AdamW, Lion, RMSprop


class OptimizerSpec(Document):
    """Base class of the optimizer specs."""

    @abstractmethod
    def build(self, model: Model, no_decay: Collection[str]) -> Optimizer:
        """Build the optimizer of a model; weight decay skips the parameters named in `no_decay`."""


class SGDSpec(OptimizerSpec):
    """Gradient descent with optional momentum."""

    type: Literal["sgd"] = "sgd"
    learning_rate: PositiveReal = 0.01
    """Step size."""
    momentum: Share = 0.0
    """Fraction of the previous velocity that is kept at each step."""
    nesterov: Flag = False
    """Whether to use Nesterov momentum; needs a momentum above 0."""
    weight_decay: NonNegativeReal = 0.0
    """Weight decay as part of the gradient: gradient + weight_decay * weight; biases and norms are excluded."""

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            message = "expected false without momentum, got true; add a momentum, for example 0.9"
            raise problem(message, "wrong_value")
        return nesterov

    def build(self, model: Model, no_decay: Collection[str]) -> SGD:
        return SGD(model, self.learning_rate, self.momentum, self.nesterov, self.weight_decay, no_decay=no_decay)


def _two_numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise mismatch("an array of two numbers", value)
    return as_tuple(value)


Betas = Annotated[tuple[Share, Share], BeforeValidator(_two_numbers)]


class AdamSpec(OptimizerSpec):
    """Adam."""

    type: Literal["adam"] = "adam"
    learning_rate: PositiveReal = 0.001
    """Step size."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    epsilon: PositiveReal = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: NonNegativeReal = 0.0
    """Weight decay as part of the gradient: gradient + weight_decay * weight; biases and norms are excluded."""

    def build(self, model: Model, no_decay: Collection[str]) -> Adam:
        return Adam(model, self.learning_rate, self.betas, self.epsilon, self.weight_decay, no_decay=no_decay)


class AdamWSpec(OptimizerSpec):
    """Adam with decoupled weight decay."""

    type: Literal["adamw"] = "adamw"
    learning_rate: PositiveReal = 0.001
    """Step size."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    epsilon: PositiveReal = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: NonNegativeReal = 0.01
    """Decoupled weight decay: weight -= learning_rate * weight_decay * weight; biases and norms are excluded."""

    def build(self, model: Model, no_decay: Collection[str]) -> AdamW:
        return AdamW(model, self.learning_rate, self.betas, self.epsilon, self.weight_decay, no_decay=no_decay)


class RMSpropSpec(OptimizerSpec):
    """RMSprop."""

    type: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveReal = 0.01
    """Step size."""
    alpha: Share = 0.99
    """Decay rate of the mean square."""
    epsilon: PositiveReal = 1e-8
    """Added to the square root of the mean square."""
    weight_decay: NonNegativeReal = 0.0
    """Weight decay as part of the gradient: gradient + weight_decay * weight; biases and norms are excluded."""
    momentum: Share = 0.0
    """Fraction of the previous velocity that is kept at each step."""

    def build(self, model: Model, no_decay: Collection[str]) -> RMSprop:
        return RMSprop(
            model, self.learning_rate, self.alpha, self.epsilon, self.weight_decay, self.momentum, no_decay=no_decay
        )


class AdagradSpec(OptimizerSpec):
    """Adagrad."""

    type: Literal["adagrad"] = "adagrad"
    learning_rate: PositiveReal = 0.01
    """Step size."""
    epsilon: PositiveReal = 1e-10
    """Added to the square root of the sum of squares."""
    weight_decay: NonNegativeReal = 0.0
    """Weight decay as part of the gradient: gradient + weight_decay * weight; biases and norms are excluded."""

    def build(self, model: Model, no_decay: Collection[str]) -> Adagrad:
        return Adagrad(model, self.learning_rate, self.epsilon, self.weight_decay, no_decay=no_decay)


class LionSpec(OptimizerSpec):
    """Lion: moves each parameter by the learning rate, in the direction of the sign of averaged gradients."""

    type: Literal["lion"] = "lion"
    learning_rate: PositiveReal = 0.0001
    """Step size."""
    betas: Betas = (0.9, 0.99)
    """Decay rates of the momentum: in the direction of the step, and in the stored momentum."""
    weight_decay: NonNegativeReal = 0.0
    """Decoupled weight decay: weight -= learning_rate * weight_decay * weight; biases and norms are excluded."""

    def build(self, model: Model, no_decay: Collection[str]) -> Lion:
        return Lion(model, self.learning_rate, self.betas, self.weight_decay, no_decay=no_decay)


OPTIMIZERS: dict[str, type[OptimizerSpec]] = {
    "sgd": SGDSpec,
    "adam": AdamSpec,
    "adamw": AdamWSpec,
    "rmsprop": RMSpropSpec,
    "adagrad": AdagradSpec,
    "lion": LionSpec,
}


OptimizerChoice = Annotated[OptimizerSpec, Tagged("optimizer", lambda: OPTIMIZERS, shorthand=True)]
