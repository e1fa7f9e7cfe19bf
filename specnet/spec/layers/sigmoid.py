"""Specs of sigmoid, tanh and the activations that are based on them."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import PositiveReal
from specnet.layers.sigmoid import Mish, Sigmoid, Silu, Softplus, Tanh
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("sigmoid")
class SigmoidSpec(LayerSpec):
    """Logistic function: y = 1 / (1 + exp(-x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "sigmoid"}]})
    layer = Sigmoid
    is_activation = True


@register_layer("tanh")
class TanhSpec(LayerSpec):
    """Hyperbolic tangent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "tanh"}]})
    layer = Tanh
    is_activation = True


@register_layer("softplus")
class SoftplusSpec(LayerSpec):
    """Smooth ReLU: y = log(1 + exp(beta * x)) / beta."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "softplus", "beta": 2.0}]})
    layer = Softplus
    is_activation = True
    rectifier = True

    beta: PositiveReal = 1.0
    """Sharpness of the bend at 0."""


@register_layer("silu")
class SiluSpec(LayerSpec):
    """Sigmoid linear unit (swish): y = x * sigmoid(x)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "silu"}]})
    layer = Silu
    is_activation = True
    rectifier = True


@register_layer("mish")
class MishSpec(LayerSpec):
    """Mish: y = x * tanh(softplus(x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "mish"}]})
    layer = Mish
    is_activation = True
    rectifier = True
