"""Spec of batch normalization."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.fields import PositiveReal, Share
from specnet.layers.batch_norm import BatchNorm
from specnet.spec.layers.norm import NormSpec
from specnet.spec.registry import register_layer


@register_layer("batch_norm")
class BatchNormSpec(NormSpec):
    """Normalize each feature of the last axis over the batch; outside training, use the running mean and variance."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "batch_norm"}]})
    layer = BatchNorm

    momentum: Share = 0.1
    """Weight of the batch in each update of the running mean and variance, in [0, 1)."""
    epsilon: PositiveReal = 1e-5
    """Added to the variance."""
