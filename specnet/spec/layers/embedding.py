"""Spec of the embedding layer."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict

from specnet.arrays.parameters import ShapeTuple
from specnet.fields import PositiveInteger
from specnet.initializers import Initializer, Normal
from specnet.layers.embedding import Embedding
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


@register_layer("embedding")
class EmbeddingSpec(LayerSpec):
    """A trained row of `dimension` numbers for each integer from 0 to vocabulary - 1. Must be the first layer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "embedding", "vocabulary": 1000, "dimension": 16}]}
    )
    layer = Embedding
    width_field = "vocabulary"

    vocabulary: PositiveInteger
    """Number of rows; inputs must be less than this number."""
    dimension: PositiveInteger
    """Length of a row; the output has the axes of the input and a last axis of this length."""
    weight_init: Initializer = Normal(std=1.0)
    """Initial rows. Default: normal with std 1."""

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        return {"weight": ParameterSpec(self.weight_init, "weight_init")}
