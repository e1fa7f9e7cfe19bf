"""Spec of the gated recurrent unit."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Flag
from specnet.layers.sequence.gru import Gru
from specnet.spec.layers.sequence.simple_rnn import RecurrentSpec
from specnet.spec.registry import register_layer


@register_layer("gru")
class GruSpec(RecurrentSpec):
    """Gated recurrent unit. The columns of its parameters are those of the gates r, z, n, in torch's order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "gru", "units": 32}]})
    layer = Gru

    reset_after: Flag = True
    """Whether r multiplies the state after its product with the weights, as in torch, or before it. With true, there is
    another bias, recurrent_bias, of (units,)."""
