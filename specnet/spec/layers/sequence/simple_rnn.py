"""Spec of the simple recurrent layer, and what it shares with the other recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Flag, PositiveInteger
from specnet.initializers import Initializer
from specnet.layers.sequence.simple_rnn import SimpleRnn
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


class RecurrentSpec(LayerSpec):
    """Base class of the specs of recurrent layers."""

    width_field = "units"

    units: PositiveInteger
    """Size of the state, and width of the output."""
    return_sequences: Flag = False
    """Whether the outputs are the states after every step, (time, units), and not the last one alone, (units,)."""
    reverse: Flag = False
    """Whether to begin with the last step."""
    bias: Flag = True
    """Whether to add a bias."""
    weight_init: Initializer = Field(default="glorot_uniform", examples=["glorot_uniform"])
    """Initial weights of the inputs."""
    recurrent_init: Initializer = Field(default="orthogonal", examples=["orthogonal"])
    """Initial weights of the state."""
    bias_init: Initializer = Field(default="zeros", examples=["zeros"])
    """Initial bias."""
    truncate: PositiveInteger | None = None
    """Number of steps after which the gradient through time is cut. Default: it is not cut."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        described = {
            "weight": ParameterSpec(self.weight_init, "weight_init"),
            "recurrent_weight": ParameterSpec(self.recurrent_init, "recurrent_init"),
        }
        biases = {name: ParameterSpec(self.bias_init, "bias_init", decay=False) for name in shapes if "bias" in name}
        return described | biases


@register_layer("simple_rnn")
class SimpleRnnSpec(RecurrentSpec):
    """Simple recurrent layer: h = tanh(x @ weight + h @ recurrent_weight + bias), step by step."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "simple_rnn", "units": 32}]})
    layer = SimpleRnn

    activation: Literal["tanh", "relu"] = "tanh"
    """The function of a step."""
