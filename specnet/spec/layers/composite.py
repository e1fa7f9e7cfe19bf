"""Specs of the layers that contain layers."""

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
    """Type of a list of layers for type checkers; Pydantic's signature accepts only tuples of specs."""


@register_layer("sequential")
class SequentialSpec(CompositeSpec):
    """A sequence of layers under one name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "sequential", "layers": [{"type": "affine", "units": 32}]}]}
    )
    layer = Sequential

    layers: Annotated[tuple[LayerSpec, ...], LayerList(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, from first to last."""

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
    """The layers, from first to last; their output has the shape of the shortcut's output."""
    shortcut: Annotated[tuple[LayerSpec, ...], LayerList(least=0), WithJsonSchema(LIST_SCHEMA)] = ()
    """Layers parallel to `layers`; an empty list passes the input through unchanged."""

    if TYPE_CHECKING:

        def __init__(self, *, layers: GivenLayers, shortcut: GivenLayers = ..., name: str = ...) -> None: ...


@register_layer("concat")
class ConcatSpec(CompositeSpec):
    """Parallel branches: their outputs are joined on the last axis."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "concat", "branches": [[], [{"type": "affine", "units": 32}]]}]}
    )
    layer = Concat

    branches: Annotated[
        tuple[tuple[LayerSpec, ...], ...],
        LayerBranches(),
        WithJsonSchema({"type": "array", "minItems": 1, "items": LIST_SCHEMA}),
    ]
    """Lists of layers that all receive the input; an empty list passes it through unchanged."""

    if TYPE_CHECKING:

        def __init__(self, *, branches: Sequence[GivenLayers], name: str = ...) -> None: ...
