"""Spec of positional encodings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from specnet.arrays.parameters import ShapeTuple
from specnet.document.messages import problem
from specnet.fields import PositiveInteger
from specnet.initializers import Initializer, Normal
from specnet.layers.sequence.positional_encoding import PositionalEncoding
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.spec.registry import register_layer


@register_layer("positional_encoding")
class PositionalEncodingSpec(LayerSpec):
    """A vector for each step, added to the input, so that attention can tell the steps apart."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "positional_encoding"}, {"type": "positional_encoding", "kind": "learned"}]
        }
    )
    layer = PositionalEncoding
    width_field = "length"

    kind: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Sines and cosines of different wavelengths, or trained vectors."""
    length: PositiveInteger | None = None
    """Number of trained vectors; only with "learned". Default: the number of steps of the input."""
    weight_init: Initializer = Field(default=Normal(std=0.02), examples=[{"type": "normal", "std": 0.02}])
    """Initial vectors. Default: normal with std 0.02."""

    @field_validator("length")
    @classmethod
    def _check_length(cls, length: int | None, info: ValidationInfo) -> int | None:
        if length is not None and info.data.get("kind") == "sinusoidal":
            raise problem('only "learned" encodings have a length; remove it, or set kind to "learned"', "wrong_value")
        return length

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        return {name: ParameterSpec(self.weight_init, "weight_init") for name in shapes}
