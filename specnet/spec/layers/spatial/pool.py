"""Specs of max_pool1d, max_pool2d, average_pool1d and average_pool2d."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict

from specnet.fields import Flag
from specnet.layers.spatial.pool import AveragePool1d, AveragePool2d, MaxPool1d, MaxPool2d
from specnet.layerspec import LayerSpec
from specnet.spec.axes import Counts1, Counts2, Padding1, Padding2
from specnet.spec.registry import register_layer


class _PoolSpec(LayerSpec):
    """Base class of the specs of pools; the subclasses declare `pool_size`, `stride` and `padding`."""

    transparent = True

    def resolve(self, activation: LayerSpec | None) -> Self:
        fields = self.fields()
        return self if fields["stride"] is not None else self.model_copy(update={"stride": fields["pool_size"]})


class _Pool1dSpec(_PoolSpec):
    pool_size: Counts1 = (2,)
    """Length of a window."""
    stride: Counts1 | None = None
    """Positions from one window to the next. Default: pool_size."""
    padding: Padding1 = "valid"
    """Positions at both ends: "valid" for none, "same" for ceil(length / stride) outputs, a number, or [[before,
    behind]]."""


class _Pool2dSpec(_PoolSpec):
    pool_size: Counts2 = (2, 2)
    """Height and width of a window: a number for both, or an array."""
    stride: Counts2 | None = None
    """Positions from one window to the next. Default: pool_size."""
    padding: Padding2 = "valid"
    """Positions on all sides: "valid" for none, "same" for ceil(size / stride) outputs, a number, or an array of two
    (top and bottom, left and right), each a number or a pair."""


@register_layer("max_pool1d")
class MaxPool1dSpec(_Pool1dSpec):
    """Maximum of each channel over windows of sequences (length, channels); padding is never the maximum."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "max_pool1d", "pool_size": 2}]})
    layer = MaxPool1d


@register_layer("max_pool2d")
class MaxPool2dSpec(_Pool2dSpec):
    """Maximum of each channel over windows of images (height, width, channels); padding is never the maximum."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "max_pool2d", "pool_size": 2}]})
    layer = MaxPool2d


@register_layer("average_pool1d")
class AveragePool1dSpec(_Pool1dSpec):
    """Average of each channel over windows of sequences (length, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "average_pool1d", "pool_size": 2}]})
    layer = AveragePool1d

    count_padding: Flag = False
    """Whether positions of the padding count as zeros; otherwise they are left out of the mean."""


@register_layer("average_pool2d")
class AveragePool2dSpec(_Pool2dSpec):
    """Average of each channel over windows of images (height, width, channels)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "average_pool2d", "pool_size": 2}]})
    layer = AveragePool2d

    count_padding: Flag = False
    """Whether positions of the padding count as zeros; otherwise they are left out of the mean."""
