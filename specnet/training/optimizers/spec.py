"""What an experiment document says of an optimizer."""

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
    """Base of the documents of optimizers."""

    @abstractmethod
    def build(self, model: Model, no_decay: Collection[str]) -> Optimizer:
        """Make the optimizer of a model; `no_decay` names the parameters that weight decay leaves alone."""


class SGDSpec(OptimizerSpec):
    """Gradient descent with optional momentum."""

    type: Literal["sgd"] = "sgd"
    learning_rate: PositiveReal = 0.01
    """Step size."""
    momentum: Share = 0.0
    """Share of the last step that is made again."""
    nesterov: Flag = False
    """Nesterov's variant; needs momentum."""
    weight_decay: NonNegativeReal = 0.0
    """Pull of the weights towards 0; biases and norms are left out."""

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            message = "expected false without momentum, got true; add a momentum, 0.9 say"
            raise problem(message, "wrong_value")
        return nesterov

    def build(self, model: Model, no_decay: Collection[str]) -> SGD:
        return SGD(model, self.learning_rate, self.momentum, self.nesterov, self.weight_decay, no_decay=no_decay)


def _pair(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise mismatch("an array of two numbers", value)
    return as_tuple(value)


Betas = Annotated[tuple[Share, Share], BeforeValidator(_pair)]


class AdamSpec(OptimizerSpec):
    """Adam."""

    type: Literal["adam"] = "adam"
    learning_rate: PositiveReal = 0.001
    """Step size."""
    betas: Betas = (0.9, 0.999)
    """Memory of the first and second moments."""
    epsilon: PositiveReal = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeReal = 0.0
    """Pull of the weights towards 0, as part of the gradient; biases and norms are left out."""

    def build(self, model: Model, no_decay: Collection[str]) -> Adam:
        return Adam(model, self.learning_rate, self.betas, self.epsilon, self.weight_decay, no_decay=no_decay)


class AdamWSpec(OptimizerSpec):
    """Adam with decoupled weight decay."""

    type: Literal["adamw"] = "adamw"
    learning_rate: PositiveReal = 0.001
    """Step size."""
    betas: Betas = (0.9, 0.999)
    """Memory of the first and second moments."""
    epsilon: PositiveReal = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeReal = 0.01
    """Share of the weights, times the step size, taken off at each step; biases and norms are left out."""

    def build(self, model: Model, no_decay: Collection[str]) -> AdamW:
        return AdamW(model, self.learning_rate, self.betas, self.epsilon, self.weight_decay, no_decay=no_decay)


class RMSpropSpec(OptimizerSpec):
    """RMSprop."""

    type: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveReal = 0.01
    """Step size."""
    alpha: Share = 0.99
    """Memory of the mean square."""
    epsilon: PositiveReal = 1e-8
    """Added to the root of the mean square."""
    weight_decay: NonNegativeReal = 0.0
    """Pull of the weights towards 0, as part of the gradient; biases and norms are left out."""
    momentum: Share = 0.0
    """Share of the last step that is made again."""

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
    """Added to the root of the sum of squares."""
    weight_decay: NonNegativeReal = 0.0
    """Pull of the weights towards 0, as part of the gradient; biases and norms are left out."""

    def build(self, model: Model, no_decay: Collection[str]) -> Adagrad:
        return Adagrad(model, self.learning_rate, self.epsilon, self.weight_decay, no_decay=no_decay)


class LionSpec(OptimizerSpec):
    """Lion: steps of one size, in the direction of the gradient's sign."""

    type: Literal["lion"] = "lion"
    learning_rate: PositiveReal = 0.0001
    """Step size."""
    betas: Betas = (0.9, 0.99)
    """Memory of the momentum in the step, and of the momentum itself."""
    weight_decay: NonNegativeReal = 0.0
    """Share of the weights, times the step size, taken off at each step; biases and norms are left out."""

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
