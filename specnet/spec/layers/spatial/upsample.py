"""Specs of upsample1d and upsample2d."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from specnet.layers.spatial.upsample import Upsample1d, Upsample2d
from specnet.layerspec import LayerSpec
from specnet.spec.axes import Counts1, Counts2
from specnet.spec.registry import register_layer


@register_layer("upsample1d")
class Upsample1dSpec(LayerSpec):
    """Make sequences (length, channels) longer by repeating positions, or by interpolating between them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "upsample1d", "size": 2}]})
    layer = Upsample1d
    transparent = True

    size: Counts1 = (2,)
    """Factor by which the length grows."""
    interpolation: Literal["nearest", "linear"] = "nearest"
    """Values between positions: "nearest" repeats each, "linear" interpolates between their centres."""


@register_layer("upsample2d")
class Upsample2dSpec(LayerSpec):
    """Make images (height, width, channels) larger by repeating positions, or by interpolating between them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "upsample2d", "size": 2}]})
    layer = Upsample2d
    transparent = True

    size: Counts2 = (2, 2)
    """Factor by which height and width grow: a number for both, or an array."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Values between positions: "nearest" repeats each, "bilinear" interpolates between their centres."""
