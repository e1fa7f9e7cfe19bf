"""What a document says of standardize."""

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
    """Subtract a mean and divide by a standard deviation, one of each a feature of the last axis.

    Without values it is fitted from the training inputs before the first step, and is the model's first layer.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "standardize"}, {"type": "standardize", "mean": 0.1307, "std": 0.3081}]
        }
    )
    layer = Standardize
    transparent = True

    mean: Feature | None = None
    """A number for all features, or an array of one a feature; with `std`, or fitted."""
    std: PositiveFeature | None = None
    """Likewise, positive."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.mean is None) != (self.std is None):
            there, missing = ("mean", "std") if self.std is None else ("std", "mean")
            message = f"expected mean and std, or neither; {missing} is missing beside {there}, add it"
            raise problem(message, "missing")
        return self
