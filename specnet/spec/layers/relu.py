"""Specs of ReLU, leaky ReLU and PReLU."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Real
from specnet.initializers import Constant
from specnet.layers.relu import LeakyRelu, Prelu, Relu
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


@register_layer("relu")
class ReluSpec(LayerSpec):
    """Rectified linear unit: y = max(x, 0)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "relu"}]})
    layer = Relu
    is_activation = True
    rectifier = True


@register_layer("leaky_relu")
class LeakyReluSpec(LayerSpec):
    """Leaky rectified linear unit: y = x if x > 0, negative_slope * x otherwise."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "leaky_relu", "negative_slope": 0.1}]})
    layer = LeakyRelu
    is_activation = True
    rectifier = True

    negative_slope: Real = 0.01
    """Slope for negative x."""


@register_layer("prelu")
class PreluSpec(LayerSpec):
    """Leaky rectified linear unit with one trained slope per feature of the last axis; initially 0.25."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "prelu"}]})
    layer = Prelu
    is_activation = True
    rectifier = True

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        return {"slope": ParameterSpec(Constant(value=0.25))}
