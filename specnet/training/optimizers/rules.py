"""Update rules of the optimizers, which update a model's parameters from its gradients in `step()`.

The rules are those of torch's optimizers with the same names.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.model import Model
from specnet.training.optimizers.base import Block, Optimizer, require


class SGD(Optimizer):
    """Gradient descent, with optional momentum or Nesterov momentum.

    velocity = momentum * velocity + g (at the first step g alone); value -= learning_rate * velocity, or with
    `nesterov` learning_rate * (g + momentum * velocity). g includes weight_decay * value.
    """

    slots = ("velocity",)

    def __init__(
        self,
        model: Model,
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        require(0 <= momentum < math.inf, "momentum of at least 0", momentum)
        require(not nesterov or momentum > 0, "a momentum above 0 for nesterov", momentum)
        self.momentum = momentum
        self.nesterov = nesterov
        super().__init__(model, learning_rate, weight_decay, no_decay)

    def used_slots(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ()

    def update_by_kernel(self, block: Block) -> bool:
        if not self.momentum:
            return kernels.sgd(block.value, block.gradient, self.kernel_settings(block))
        settings = self.kernel_settings(block, self.momentum, self.nesterov)
        return kernels.momentum(block.value, block.gradient, *block.slots, settings)

    def update(self, block: Block) -> None:
        g, scratch = self.decayed_gradient(block), block.scratch
        if self.momentum:
            (velocity,) = block.slots
            np.multiply(velocity, self.momentum, velocity)
            np.add(velocity, g, velocity)
            if self.nesterov:
                np.multiply(velocity, self.momentum, scratch)
                g = np.add(scratch, g, scratch)
            else:
                g = velocity
        np.multiply(g, self.learning_rate, scratch)
        np.subtract(block.value, scratch, block.value)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), bias-corrected; weight_decay * value is added to the gradient.

    The moments are kept without their factors 1 - beta: first = sum(beta1^k g), second = sum(beta2^k g^2). The
    factors are applied to step size and epsilon instead, which saves two passes over the vectors.
    """

    slots = ("first_moment", "second_moment")

    def __init__(
        self,
        model: Model,
        learning_rate: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        require(all(0 <= beta < 1 for beta in betas), "betas in [0, 1)", betas)
        require(epsilon >= 0, "epsilon of at least 0", epsilon)
        self.betas = betas
        self.epsilon = epsilon
        # numpy takes half as long with zero-dimensional arrays of the model's dtype as with Python floats.
        self._settings = np.array([0, 0, *betas, 0, 1], model.dtype)  # as the kernel takes them
        self._rate, self._beta1, self._beta2, self._epsilon = (
            self._settings[index : index + 1].reshape(()) for index in range(1, 5)
        )
        self._decay_settings = self._settings.copy()
        """The settings of blocks with weight decay."""
        super().__init__(model, learning_rate, weight_decay, no_decay)

    def prepare(self) -> None:
        (beta1, beta2), t = self.betas, self.steps
        correction = math.sqrt((1 - beta2**t) / (1 - beta2))
        self._epsilon.fill(self.epsilon * correction)
        self._rate.fill(self.learning_rate * (1 - beta1) / (1 - beta1**t) * correction)
        if self._decayed:
            self._decay_settings[...] = self._settings
            self.set_decay(self._decay_settings)

    def set_decay(self, settings: Array) -> None:
        """Set the weight decay in the kernel's settings."""
        settings[0] = self.weight_decay

    def update_by_kernel(self, block: Block) -> bool:
        settings = self._decay_settings if block.decayed else self._settings
        return kernels.adam(block.value, block.gradient, *block.slots, settings)

    def update(self, block: Block) -> None:
        self._update_block(block, self.decayed_gradient(block))

    def _update_block(self, block: Block, g: Array) -> None:
        first, second = block.slots
        scratch, value = block.scratch, block.value
        np.multiply(first, self._beta1, first)
        np.add(first, g, first)
        np.multiply(second, self._beta2, second)
        np.multiply(g, g, scratch)
        np.add(second, scratch, second)
        np.sqrt(second, scratch)
        np.add(scratch, self._epsilon, scratch)
        np.divide(first, scratch, scratch)
        np.multiply(scratch, self._rate, scratch)
        np.subtract(value, scratch, value)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): value -= learning_rate * weight_decay * value."""

    def __init__(
        self,
        model: Model,
        learning_rate: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        super().__init__(model, learning_rate, betas, epsilon, weight_decay, no_decay=no_decay)

    def set_decay(self, settings: Array) -> None:
        settings[5] = 1 - self.learning_rate * self.weight_decay

    update_by_kernel = Adam.update_by_kernel  # its settings include the decay

    def update(self, block: Block) -> None:
        if block.decayed:
            np.multiply(block.value, 1 - self.learning_rate * self.weight_decay, block.value)
        self._update_block(block, block.gradient)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012).

    square = alpha * square + (1 - alpha) * g^2; value -= learning_rate * g / (sqrt(square) + epsilon). With
    momentum, the quotient is first accumulated in a velocity: velocity = momentum * velocity + quotient.
    """

    slots = ("square_average", "velocity")

    def __init__(
        self,
        model: Model,
        learning_rate: float = 0.01,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        require(0 <= alpha < 1, "alpha in [0, 1)", alpha)
        require(0 <= momentum < math.inf, "momentum of at least 0", momentum)
        require(epsilon >= 0, "epsilon of at least 0", epsilon)
        self.alpha = alpha
        self.epsilon = epsilon
        self.momentum = momentum
        super().__init__(model, learning_rate, weight_decay, no_decay)

    def used_slots(self) -> tuple[str, ...]:
        return self.slots if self.momentum else self.slots[:1]

    def update_by_kernel(self, block: Block) -> bool:
        settings = self.kernel_settings(block, self.alpha, 1 - self.alpha, self.epsilon, self.momentum)
        kernel = kernels.rmsprop_momentum if self.momentum else kernels.rmsprop
        return kernel(block.value, block.gradient, *block.slots, settings)

    def update(self, block: Block) -> None:
        g, scratch, square = self.decayed_gradient(block), block.scratch, block.slots[0]
        np.multiply(square, self.alpha, square)
        np.multiply(g, g, scratch)
        np.multiply(scratch, 1 - self.alpha, scratch)
        np.add(square, scratch, square)
        np.sqrt(square, scratch)
        np.add(scratch, self.epsilon, scratch)
        np.divide(g, scratch, scratch)
        if self.momentum:
            velocity = block.slots[1]
            np.multiply(velocity, self.momentum, velocity)
            np.add(velocity, scratch, velocity)
            np.multiply(velocity, self.learning_rate, scratch)
        else:
            np.multiply(scratch, self.learning_rate, scratch)
        np.subtract(block.value, scratch, block.value)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): square += g^2; value -= learning_rate * g / (sqrt(square) + epsilon)."""

    slots = ("square_sum",)

    def __init__(
        self,
        model: Model,
        learning_rate: float = 0.01,
        epsilon: float = 1e-10,
        weight_decay: float = 0.0,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        require(epsilon >= 0, "epsilon of at least 0", epsilon)
        self.epsilon = epsilon
        super().__init__(model, learning_rate, weight_decay, no_decay)

    def update_by_kernel(self, block: Block) -> bool:
        return kernels.adagrad(block.value, block.gradient, *block.slots, self.kernel_settings(block, self.epsilon))

    def update(self, block: Block) -> None:
        g, scratch, (square,) = self.decayed_gradient(block), block.scratch, block.slots
        np.multiply(g, g, scratch)
        np.add(square, scratch, square)
        np.sqrt(square, scratch)
        np.add(scratch, self.epsilon, scratch)
        np.divide(g, scratch, scratch)
        np.multiply(scratch, self.learning_rate, scratch)
        np.subtract(block.value, scratch, block.value)


class Lion(Optimizer):
    """Lion (Chen et al. 2023): value -= learning_rate * sign(beta1 * momentum + (1 - beta1) * g).

    Then momentum = beta2 * momentum + (1 - beta2) * g. Weight decay is decoupled, as in AdamW.
    """

    slots = ("momentum",)

    def __init__(
        self,
        model: Model,
        learning_rate: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        no_decay: Collection[str] = (),
    ) -> None:
        require(all(0 <= beta < 1 for beta in betas), "betas in [0, 1)", betas)
        self.betas = betas
        super().__init__(model, learning_rate, weight_decay, no_decay)

    def update_by_kernel(self, block: Block) -> bool:
        beta1, beta2 = self.betas
        keep = 1 - self.learning_rate * self.weight_decay if block.decayed else 1
        settings = np.array([keep, self.learning_rate, beta1 / (1 - beta1), beta2, 1 - beta2], block.value.dtype)
        return kernels.lion(block.value, block.gradient, *block.slots, settings)

    def update(self, block: Block) -> None:
        (beta1, beta2), (momentum,) = self.betas, block.slots
        g, scratch, value = block.gradient, block.scratch, block.value
        if block.decayed:
            np.multiply(value, 1 - self.learning_rate * self.weight_decay, value)
        np.multiply(momentum, beta1 / (1 - beta1), scratch)
        np.add(scratch, g, scratch)
        np.sign(scratch, scratch)
        np.multiply(scratch, self.learning_rate, scratch)
        np.subtract(value, scratch, value)
        np.multiply(momentum, beta2, momentum)
        np.multiply(g, 1 - beta2, scratch)
        np.add(momentum, scratch, momentum)
