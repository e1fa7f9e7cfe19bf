"""Spec of the embedding layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from specnet.arrays.parameters import ShapeTuple
from specnet.document.messages import problem
from specnet.fields import PositiveInteger, expecting
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
    mask_index: Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer from 0 on")] | None = None
    """Integer that marks a step as padding, which the following layers and the loss leave out. Default: none does."""
    weight_init: Initializer = Normal(std=1.0)
    """Initial rows. Default: normal with std 1."""

    @field_validator("mask_index")
    @classmethod
    def _check_index(cls, index: int | None, info: ValidationInfo) -> int | None:
        if index is not None and index >= info.data.get("vocabulary", index + 1):
            message = f"expected an integer below the vocabulary, {info.data['vocabulary']}, got {index}"
            raise problem(message, "wrong_value")
        return index

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        return {"weight": ParameterSpec(self.weight_init, "weight_init")}
