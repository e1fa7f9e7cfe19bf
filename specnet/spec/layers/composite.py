"""What a document says of the layers made of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, WithJsonSchema

from specnet.layers.composite import Concat, Residual, Sequential
from specnet.layerspec import LayerSpec
from specnet.spec.composite_spec import LAYERS_SCHEMA, LIST_SCHEMA, CompositeSpec, LayerBranches, LayerList
from specnet.spec.registry import register_layer

if TYPE_CHECKING:
    GivenLayers = Sequence[LayerSpec | Mapping[str, Any]]
    """What type checkers let a list of layers be; Pydantic's own signature knows tuples of specs alone."""


@register_layer("sequential")
class SequentialSpec(CompositeSpec):
    """Layers one behind the other, under one name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "sequential", "layers": [{"type": "affine", "units": 32}]}]}
    )
    layer = Sequential

    layers: Annotated[tuple[LayerSpec, ...], LayerList(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, first to last."""

    if TYPE_CHECKING:

        def __init__(self, *, layers: GivenLayers, name: str = ...) -> None: ...


@register_layer("residual")
class ResidualSpec(CompositeSpec):
    """Layers whose output is added to their input, or to the output of a shortcut: y = layers(x) + shortcut(x)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "residual", "layers": [{"type": "affine", "units": 32}]}]}
    )
    layer = Residual

    layers: Annotated[tuple[LayerSpec, ...], LayerList(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, first to last; what they give has the shape that the shortcut gives."""
    shortcut: Annotated[tuple[LayerSpec, ...], LayerList(least=0), WithJsonSchema(LIST_SCHEMA)] = ()
    """Layers beside them; none pass the input on as it is."""

    if TYPE_CHECKING:

        def __init__(self, *, layers: GivenLayers, shortcut: GivenLayers = ..., name: str = ...) -> None: ...


@register_layer("concat")
class ConcatSpec(CompositeSpec):
    """Branches side by side: their outputs are joined on the last axis."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "concat", "branches": [[], [{"type": "affine", "units": 32}]]}]}
    )
    layer = Concat

    branches: Annotated[
        tuple[tuple[LayerSpec, ...], ...],
        LayerBranches(),
        WithJsonSchema({"type": "array", "minItems": 1, "items": LIST_SCHEMA}),
    ]
    """Lists of layers that all begin at the input; an empty one passes it on."""

    if TYPE_CHECKING:

        def __init__(self, *, branches: Sequence[GivenLayers], name: str = ...) -> None: ...
