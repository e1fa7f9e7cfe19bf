"""The logistic family: sigmoid, tanh, softplus, silu, mish.

All but tanh use exp(-|x|), which cannot overflow.
"""

from __future__ import annotations

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.layer import Elementwise


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)) to full relative precision for positive and negative x."""
    e = np.exp(-np.abs(x))
    y = 1 / (1 + e)
    np.multiply(e, y, out=y, where=x < 0)
    return y


def softplus(x: Array) -> Array:
    """Compute log(1 + exp(x))."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x))."""

    activation = kernels.ACTIVATIONS.index("sigmoid")

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "1 / (1 + exp(-x))", "dx": "dy * y * (1 - y)"}

    def value(self, x: Array, y: Array) -> None:
        y[...] = sigmoid(x)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.multiply(y, 1 - y, slope)


class Tanh(Elementwise):
    """y = tanh(x)."""

    activation = kernels.ACTIVATIONS.index("tanh")

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "tanh(x)", "dx": "dy * (1 - y**2)"}

    def value(self, x: Array, y: Array) -> None:
        np.tanh(x, y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.multiply(y, y, slope)
        np.subtract(1, slope, slope)


class Softplus(Elementwise):
    """y = log(1 + exp(beta * x)) / beta."""

    activation = kernels.ACTIVATIONS.index("softplus")

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    @property
    def formulas(self) -> dict[str, str]:
        beta = f"{self.beta:g}"
        return {"y": f"log(1 + exp({beta} * x)) / {beta}", "dx": f"dy / (1 + exp(-{beta} * x))"}

    def constants(self) -> tuple[float, float]:
        return self.beta, 0.0

    def value(self, x: Array, y: Array) -> None:
        np.divide(softplus(self.beta * x), self.beta, y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        slope[...] = sigmoid(self.beta * x)


class Silu(Elementwise):
    """y = x * sigmoid(x)."""

    activation = kernels.ACTIVATIONS.index("silu")

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "x / (1 + exp(-x))", "dx": "dy * (1 + x * (1 - 1 / (1 + exp(-x)))) / (1 + exp(-x))"}

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, sigmoid(x), y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        s = sigmoid(x)
        np.add(s, y * (1 - s), slope)  # s + x s (1 - s)


class Mish(Elementwise):
    """y = x * tanh(softplus(x)) (Misra 2019)."""

    activation = kernels.ACTIVATIONS.index("mish")

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "x * tanh(log(1 + exp(x)))"}

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, np.tanh(softplus(x)), y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        t = np.tanh(softplus(x))
        np.add(t, x * (1 - t * t) * sigmoid(x), slope)
