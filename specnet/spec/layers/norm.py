"""Specs of the normalizations over the last axis, and what they share with batch_norm."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import PositiveReal
from specnet.layers.norm import LayerNorm, RmsNorm
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


class NormSpec(LayerSpec):
    """Base of the normalizations: scale starts as ones, and shift, if there is one, as zeros."""

    transparent = True

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        initializers = {"scale": "ones", "shift": "zeros"}
        return {name: ParameterSpec(initializers[name], decay=False) for name in shapes}


@register_layer("layer_norm")
class LayerNormSpec(NormSpec):
    """Normalize each row over the last axis."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "layer_norm"}]})
    layer = LayerNorm

    epsilon: PositiveReal = 1e-5
    """Added to the variance."""


@register_layer("rms_norm")
class RmsNormSpec(NormSpec):
    """Divide each row by its root mean square over the last axis."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "rms_norm"}]})
    layer = RmsNorm

    epsilon: PositiveReal = 1e-5
    """Added to the mean square."""
