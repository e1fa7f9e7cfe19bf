"""Spec of the long short-term memory."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import Flag
from specnet.layers.sequence.lstm import Lstm
from specnet.layerspec import ParameterSpec
from specnet.spec.layers.sequence.simple_rnn import RecurrentSpec
from specnet.spec.registry import register_layer


@register_layer("lstm")
class LstmSpec(RecurrentSpec):
    """Long short-term memory. The columns of its parameters are those of the gates i, f, g, o, in torch's order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "lstm", "units": 32}]})
    layer = Lstm

    unit_forget_bias: Flag = True
    """Whether the forget gate's initial bias is 1, so that a new layer remembers."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        described = super().parameters(shapes)
        if self.bias and self.unit_forget_bias:
            forget = (self.units, 2 * self.units)
            described["bias"] = ParameterSpec(self.bias_init, "bias_init", decay=False, ones=forget)
        return described
