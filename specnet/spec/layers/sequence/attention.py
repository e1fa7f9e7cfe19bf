"""Spec of attention."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict, Field

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Flag, PositiveInteger, Share
from specnet.initializers import Initializer
from specnet.layers.sequence.attention import Attention
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


@register_layer("attention")
class AttentionSpec(LayerSpec):
    """Self-attention: every step takes from the steps of its sequence what fits its query. The shape stays the same."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "attention", "heads": 4, "causal": True}]})
    layer = Attention
    width_field = "key_size"

    heads: PositiveInteger
    """Number of heads."""
    key_size: PositiveInteger | None = None
    """Width of the queries, keys and values of one head. Default: features / heads."""
    causal: Flag = False
    """Whether a step sees only itself and earlier steps."""
    dropout: Share = 0.0
    """Share of the attention that is set to 0 in training."""
    bias: Flag = True
    """Whether to add a bias to queries, keys, values and outputs."""
    weight_init: Initializer = Field(default="glorot_uniform", examples=["glorot_uniform"])
    """Initial weights."""
    bias_init: Initializer = Field(default="zeros", examples=["zeros"])
    """Initial biases."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        bias = ParameterSpec(self.bias_init, "bias_init", decay=False)
        weight = ParameterSpec(self.weight_init, "weight_init")
        return {name: bias if name.endswith("_bias") else weight for name in shapes}
