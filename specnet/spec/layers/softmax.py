"""Specs of softmax and its logarithm."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.layers.softmax import LogSoftmax, Softmax
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("softmax")
class SoftmaxSpec(LayerSpec):
    """Softmax over the last axis: y = exp(x) / sum(exp(x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "softmax"}]})
    layer = Softmax
    is_activation = True


@register_layer("log_softmax")
class LogSoftmaxSpec(LayerSpec):
    """Logarithm of the softmax over the last axis: y = x - log(sum(exp(x)))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "log_softmax"}]})
    layer = LogSoftmax
    is_activation = True
