"""Specs of zero_pad1d, zero_pad2d, crop1d and crop2d."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.layers.spatial.pad import Crop1d, Crop2d, ZeroPad1d, ZeroPad2d
from specnet.layerspec import LayerSpec
from specnet.spec.axes import Edges1, Edges2
from specnet.spec.registry import register_layer


@register_layer("zero_pad1d")
class ZeroPad1dSpec(LayerSpec):
    """Add zeros before and behind sequences (length, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "zero_pad1d", "padding": 1}]})
    layer = ZeroPad1d
    transparent = True

    padding: Edges1 = ((1, 1),)
    """Number of zeros at both ends, or [[before, behind]]."""


@register_layer("zero_pad2d")
class ZeroPad2dSpec(LayerSpec):
    """Add zeros around images (height, width, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "zero_pad2d", "padding": 1}]})
    layer = ZeroPad2d
    transparent = True

    padding: Edges2 = ((1, 1), (1, 1))
    """Zeros on every side, or an array of two (top and bottom, left and right), each a number or a pair."""


@register_layer("crop1d")
class Crop1dSpec(LayerSpec):
    """Cut the ends of sequences (length, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "crop1d", "cropping": 1}]})
    layer = Crop1d
    transparent = True

    cropping: Edges1 = ((1, 1),)
    """Number of positions at both ends, or [[before, behind]]."""


@register_layer("crop2d")
class Crop2dSpec(LayerSpec):
    """Cut the edges of images (height, width, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "crop2d", "cropping": 1}]})
    layer = Crop2d
    transparent = True

    cropping: Edges2 = ((1, 1), (1, 1))
    """Positions on every side, or an array of two (top and bottom, left and right), each a number or a pair."""
