"""Spec of standardize."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, model_validator

from specnet.document.messages import problem
from specnet.fields import Feature, PositiveFeature
from specnet.layers.standardize import Standardize
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("standardize")
class StandardizeSpec(LayerSpec):
    """Subtract a mean and divide by a standard deviation, with one of each per feature of the last axis.

    Without values, it must be the model's first layer, and is fitted from the training inputs before the first step.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "standardize"}, {"type": "standardize", "mean": 0.1307, "std": 0.3081}]
        }
    )
    layer = Standardize
    transparent = True

    mean: Feature | None = None
    """One number for all features, or an array with one per feature. Set it with `std`, or neither to fit both."""
    std: PositiveFeature | None = None
    """One positive number for all features, or an array with one per feature. Set it with `mean`, or neither."""

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if (self.mean is None) != (self.std is None):
            present, missing = ("mean", "std") if self.std is None else ("std", "mean")
            message = f"expected mean and std, or neither; {missing} is missing, add it or remove {present}"
            raise problem(message, "missing")
        return self
