"""Specs of the layers that mark the padding of sequences, and that make one vector of a sequence."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import Real
from specnet.layers.sequence.steps import LastStep, Mask, TimeAverage
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("mask")
class MaskSpec(LayerSpec):
    """Marks the padding of sequences of differing length: steps whose features all equal a value. Must be the first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "mask"}]})
    layer = Mask
    transparent = True

    value: Real = 0.0
    """The value of padding."""


@register_layer("last_step")
class LastStepSpec(LayerSpec):
    """The last step of each sequence that is not padding: (time, features) -> (features,)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "last_step"}]})
    layer = LastStep
    transparent = True


@register_layer("time_average")
class TimeAverageSpec(LayerSpec):
    """The mean over the steps of each sequence that are not padding: (time, features) -> (features,)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "time_average"}]})
    layer = TimeAverage
    transparent = True
