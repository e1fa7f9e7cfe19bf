"""Spec of the dropout layer."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Share
from specnet.layers.dropout import Dropout
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
