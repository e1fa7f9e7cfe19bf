"""Specs of elu and selu."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Real
from specnet.layers.elu import Elu, Selu
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("elu")
class EluSpec(LayerSpec):
    """Exponential linear unit: y = x if x > 0, alpha * (exp(x) - 1) otherwise."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "elu", "alpha": 0.5}]})
    layer = Elu
    is_activation = True
    rectifier = True

    alpha: Real = 1.0
    """The output approaches -alpha as x approaches minus infinity."""


@register_layer("selu")
class SeluSpec(LayerSpec):
    """Scaled exponential linear unit: an elu whose alpha and scale preserve mean 0 and variance 1."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "selu"}]})
    layer = Selu
    is_activation = True
