"""Spec of the affine layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import ConfigDict, Field

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Flag, PositiveInteger
from specnet.initializers import Initializer
from specnet.layers.affine import Affine
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


class WeightedSpec(LayerSpec):
    """Base class of specs with the fields weight_init, bias and bias_init, for a weight and maybe a bias."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        fields = self.fields()
        weight = ParameterSpec(fields["weight_init"], "weight_init")
        if not fields["bias"]:
            return {"weight": weight}
        return {"weight": weight, "bias": ParameterSpec(fields["bias_init"], "bias_init", decay=False)}

    def resolve(self, activation: LayerSpec | None) -> Self:
        if "weight_init" in self.model_fields_set:
            return self
        rectified = activation is not None and activation.rectifier
        return self.model_copy(update={"weight_init": "he_normal" if rectified else "glorot_uniform"})


@register_layer("affine")
class AffineSpec(WeightedSpec):
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
