"""The logistic family: sigmoid, tanh, softplus, silu, mish.

All are written with exp(-|x|), which cannot overflow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import ConfigDict

from specnet.layer import Elementwise, LayerSpec
from specnet.parameters import Array, ShapeTuple
from specnet.registry import register_layer
from specnet.validation import PositiveReal


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)) to full relative precision on both sides."""
    e = np.exp(-np.abs(x))
    y = 1 / (1 + e)
    np.multiply(e, y, out=y, where=x < 0)
    return y


def softplus(x: Array) -> Array:
    """Compute log(1 + exp(x))."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@register_layer("sigmoid")
class SigmoidSpec(LayerSpec):
    """Logistic function: y = 1 / (1 + exp(-x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "sigmoid"}]})
    activation = True

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Sigmoid:
        return Sigmoid()


class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x))."""

    def value(self, x: Array, y: Array) -> None:
        y[...] = sigmoid(x)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.multiply(y, 1 - y, slope)


@register_layer("tanh")
class TanhSpec(LayerSpec):
    """Hyperbolic tangent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "tanh"}]})
    activation = True

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Tanh:
        return Tanh()


class Tanh(Elementwise):
    """y = tanh(x)."""

    def value(self, x: Array, y: Array) -> None:
        np.tanh(x, y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.multiply(y, y, slope)
        np.subtract(1, slope, slope)


@register_layer("softplus")
class SoftplusSpec(LayerSpec):
    """Smooth ReLU: y = log(1 + exp(beta * x)) / beta."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "softplus", "beta": 2.0}]})
    activation = True
    rectifier = True

    beta: PositiveReal = 1.0
    """Sharpness of the bend at 0."""

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Softplus:
        return Softplus(self.beta)


class Softplus(Elementwise):
    """y = log(1 + exp(beta * x)) / beta."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def value(self, x: Array, y: Array) -> None:
        np.divide(softplus(self.beta * x), self.beta, y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        slope[...] = sigmoid(self.beta * x)


@register_layer("silu")
class SiluSpec(LayerSpec):
    """Sigmoid linear unit (swish): y = x * sigmoid(x)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "silu"}]})
    activation = True
    rectifier = True

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Silu:
        return Silu()


class Silu(Elementwise):
    """y = x * sigmoid(x)."""

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, sigmoid(x), y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        s = sigmoid(x)
        np.add(s, y * (1 - s), slope)  # s + x s (1 - s)


@register_layer("mish")
class MishSpec(LayerSpec):
    """Mish: y = x * tanh(softplus(x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "mish"}]})
    activation = True
    rectifier = True

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Mish:
        return Mish()


class Mish(Elementwise):
    """y = x * tanh(softplus(x)) (Misra 2019)."""

    def value(self, x: Array, y: Array) -> None:
        np.multiply(x, np.tanh(softplus(x)), y)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        t = np.tanh(softplus(x))
        np.add(t, x * (1 - t * t) * sigmoid(x), slope)
