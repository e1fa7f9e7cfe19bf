"""Specs of global_average_pool and global_max_pool."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.layers.spatial.global_pool import GlobalAveragePool, GlobalMaxPool
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("global_average_pool")
class GlobalAveragePoolSpec(LayerSpec):
    """Mean of each channel over all axes but the last, (length, channels) or (height, width, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "global_average_pool"}]})
    layer = GlobalAveragePool
    transparent = True


@register_layer("global_max_pool")
class GlobalMaxPoolSpec(LayerSpec):
    """Maximum of each channel over all axes but the last, (length, channels) or (height, width, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "global_max_pool"}]})
    layer = GlobalMaxPool
    transparent = True
