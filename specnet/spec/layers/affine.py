"""Spec of the affine layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, TypeVar

from pydantic import ConfigDict, Field

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Flag, PositiveInteger
from specnet.initializers import Initializer
from specnet.layers.affine import Affine
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer

Spec = TypeVar("Spec", bound=LayerSpec)


@register_layer("affine")
class AffineSpec(LayerSpec):
    """Affine map of the last axis: y = x @ weight + bias, weight of shape (in_features, units)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "affine", "units": 32}]})
    layer = Affine
    width_field = "units"

    units: PositiveInteger
    """Width of the output; the width of the input is inferred."""
    bias: Flag = True
    """Whether to add a bias."""
    weight_init: Initializer = Field(default="glorot_uniform", examples=["he_normal", {"type": "normal", "std": 0.01}])
    """Initial weights. Default: he_normal before a ReLU-like layer, glorot_uniform otherwise."""
    bias_init: Initializer = Field(default="zeros", examples=["zeros", {"type": "constant", "value": 0.1}])
    """Initial bias."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        weight = ParameterSpec(self.weight_init, "weight_init")
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": ParameterSpec(self.bias_init, "bias_init", decay=False)}

    def resolve(self, activation: LayerSpec | None) -> Self:
        return with_default_weights(self, activation)


def with_default_weights(layer: Spec, activation: LayerSpec | None) -> Spec:
    """Return a layer with the default of its `weight_init` filled in, which depends on the next activation."""
    if "weight_init" in layer.model_fields_set:
        return layer
    rectified = activation is not None and activation.rectifier
    return layer.model_copy(update={"weight_init": "he_normal" if rectified else "glorot_uniform"})
