"""Specs of flatten and reshape."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Shape
from specnet.layers.reshape import Flatten, Reshape
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("flatten")
class FlattenSpec(LayerSpec):
    """Join all axes except the batch axis into one, in row-major order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "flatten"}]})
    layer = Flatten
    transparent = True


@register_layer("reshape")
class ReshapeSpec(LayerSpec):
    """Change the shape of each row, in row-major order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "reshape", "shape": [28, 28]}]})
    layer = Reshape
    transparent = True

    shape: Shape
    """Shape of one output, without the batch axis; must have as many elements as the input."""
