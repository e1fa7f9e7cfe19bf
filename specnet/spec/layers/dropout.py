"""Specs of dropout and channel_dropout."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Share
from specnet.layers.dropout import ChannelDropout, Dropout
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("dropout")
class DropoutSpec(LayerSpec):
    """During training, set elements to 0 with probability `rate` and divide the others by 1 - rate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "dropout", "rate": 0.2}]})
    layer = Dropout
    transparent = True

    rate: Share = 0.5
    """Share of elements that are set to 0, in [0, 1)."""


@register_layer("channel_dropout")
class ChannelDropoutSpec(LayerSpec):
    """During training, set whole channels to 0 with probability `rate` and divide the others by 1 - rate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "channel_dropout", "rate": 0.1}]})
    layer = ChannelDropout
    transparent = True

    rate: Share = 0.5
    """Share of channels of each row that are set to 0, in [0, 1)."""
