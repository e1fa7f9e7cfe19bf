"""Spec of a recurrent layer in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, WithJsonSchema, field_validator

from specnet.document.messages import problem
from specnet.layers.sequence.bidirectional import SUFFIX, Bidirectional
from specnet.layerspec import LayerSpec
from specnet.plan import MAX_NAME
from specnet.spec.composite_spec import LAYERS_SCHEMA, CompositeSpec, LayerList
from specnet.spec.layers.sequence.simple_rnn import RecurrentSpec
from specnet.spec.registry import register_layer

if TYPE_CHECKING:
    from specnet.spec.layers.composite import GivenLayers


@register_layer("bidirectional")
class BidirectionalSpec(CompositeSpec):
    """A recurrent layer, and a second one that begins with the last step; their outputs are joined on the last axis."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "bidirectional", "layers": [{"type": "lstm", "units": 16}]}]}
    )
    layer = Bidirectional

    layers: Annotated[tuple[LayerSpec, ...], LayerList(), WithJsonSchema({**LAYERS_SCHEMA, "maxItems": 1})]
    """One recurrent layer; the second one has its settings, and its name with "_reverse"."""

    if TYPE_CHECKING:

        def __init__(self, *, layers: GivenLayers, name: str = ...) -> None: ...

    @field_validator("layers")
    @classmethod
    def _check_layer(cls, layers: tuple[LayerSpec | None, ...]) -> tuple[LayerSpec | None, ...]:
        if len(layers) > 1:
            raise problem(f"expected one recurrent layer, got {len(layers)} layers", "wrong_value")
        layer = layers[0] if layers else None  # without a valid list there is another error
        if layer is not None and not isinstance(layer, RecurrentSpec):
            raise problem(f"expected a recurrent layer (simple_rnn, lstm, gru), got {layer.type}", "wrong_value")
        if layer is not None and layer.reverse:
            raise problem("its layer must not have reverse; the second layer is the reversed one", "wrong_value")
        if layer is not None and len(layer.name) + len(SUFFIX) > MAX_NAME:
            raise problem(f"expected a name of at most {MAX_NAME - len(SUFFIX)} characters for its layer", "too_long")
        return layers
