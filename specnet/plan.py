"""How a network is put together, before it has arrays: what `build` and `load` hand to the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.document.canonical import sha256_of
from specnet.errors import SpecnetError
from specnet.layer import Layer

MAX_ELEMENTS = 2**31
"""The most elements that a model's input, a layer's output or all parameters together may have, unless set."""

MAX_LAYERS = 32_768
"""The most layers that a document may list."""

NOTES = ("$schema", "name", "description", "metadata", "labels")
"""Keys of a document that say nothing of the function computed."""


def element_limit() -> int:
    """Give the most elements that inputs, outputs and parameters may have: SPECNET_MAX_ELEMENTS, or 2^31."""
    given = os.environ.get("SPECNET_MAX_ELEMENTS")
    if not given:
        return MAX_ELEMENTS
    if not given.isdecimal() or len(given) > 18 or int(given) < 1:
        msg = f"SPECNET_MAX_ELEMENTS: expected a positive integer, got {given!r:.40}"
        raise SpecnetError(msg)
    return int(given)


def identity_of(document: Mapping[str, object]) -> str:
    """Give the SHA-256, in hex, of what decides the function computed: a normalized document without people's notes."""
    return sha256_of({key: value for key, value in document.items() if key not in NOTES})


class LayerPlan(NamedTuple):
    """One layer: its name, the shapes that flow through it, its parameters' and buffers', and how it is made.

    What is inside a composite has dotted names, `hidden.weight`; `layers` are the plans of its layers. `input_limit`
    is the bound of integer inputs, None for real numbers.
    """

    name: str
    input_shape: ShapeTuple
    output_shape: ShapeTuple
    parameters: Mapping[str, ShapeTuple]
    buffers: Mapping[str, tuple[ShapeTuple, np.dtype[Any] | None]]
    make: Callable[[Mapping[str, Array]], Layer]
    input_limit: int | None = None
    layers: tuple[LayerPlan, ...] = ()

    def names(self) -> Iterator[str]:
        """Yield the layer's name and those of all layers in it, `block.hidden`."""
        yield self.name
        for layer in self.layers:
            yield from (f"{self.name}.{name}" for name in layer.names())


def plan_layer(kind: type[Layer], name: str, fields: Mapping[str, Any], input_shape: ShapeTuple) -> LayerPlan:
    """Return the plan of one layer of a document; every shape of it is inferred here.

    Raises ShapeError where the input does not fit, SpecnetError for mistakes in the layer's own class.
    """
    parameters, output_shape = kind.infer(fields, input_shape)
    buffers = {
        key: _checked_buffer(kind, key, announced) for key, announced in kind.infer_buffers(fields, input_shape).items()
    }
    for key, shape in parameters.items():
        if not isinstance(shape, tuple):
            msg = f"{kind.__name__}.infer: expected the shape of {key}, a tuple of integers, got {shape!r}"
            raise SpecnetError(msg)
    make = partial(_make_layer, kind, fields)
    return LayerPlan(name, input_shape, output_shape, parameters, buffers, make, kind.input_limit(fields))


def _checked_buffer(kind: type[Layer], name: str, announced: Any) -> tuple[ShapeTuple, np.dtype[Any] | None]:
    try:
        shape, dtype = announced
        return tuple(map(int, shape)), None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        msg = f"{kind.__name__}.infer_buffers: expected (shape, dtype or None) of {name}, got {announced!r}"
        raise SpecnetError(msg) from None


def _make_layer(kind: type[Layer], fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Layer:
    try:
        return kind.from_document(fields, parameters)
    except TypeError as error:
        msg = f"{kind.__name__}.from_document cannot make the layer of the document's keys and arrays: {error}"
        raise SpecnetError(msg) from error


Planner = Callable[[ShapeTuple], LayerPlan]
"""Gives a layer's plan for the shape of one input; raises ShapeError where that does not fit."""


def fold(planners: Iterable[Planner], input_shape: ShapeTuple) -> Iterator[LayerPlan]:
    """Follow the shapes through layers that stand one behind the other. Raises ShapeError."""
    shape = input_shape
    for planner in planners:
        plan = planner(shape)
        yield plan
        shape = plan.output_shape


@dataclass(frozen=True)
class ModelPlan:
    """A whole network: what `assemble` makes a Model of."""

    name: str
    dtype: str
    seed: int
    input_shape: ShapeTuple
    layers: tuple[LayerPlan, ...]

    @property
    def input_dtype(self) -> str:
        """Type of the inputs: the model's dtype, or int64 where the first layer takes integers."""
        return self.dtype if self.layers[0].input_limit is None else "int64"

    def about(self, parameter_count: int) -> str:
        """Say in a line what the network is."""
        shapes = [str(shape) for shape in [self.input_shape, *(layer.output_shape for layer in self.layers)]]
        arrow = " -> ".join(shapes if len(shapes) <= 8 else [*shapes[:4], "...", *shapes[-3:]])
        return f"{self.name!r}: {arrow}, {parameter_count:,} parameters, {self.dtype}"

    def parameter_shapes(self) -> dict[str, ShapeTuple]:
        """Map full names, `hidden.weight`, in document order, to shapes."""
        return {f"{layer.name}.{name}": shape for layer in self.layers for name, shape in layer.parameters.items()}

    def buffer_shapes(self) -> dict[str, tuple[ShapeTuple, np.dtype[Any]]]:
        """Map full names, `norm.running_mean`, in document order, to shape and dtype."""
        return {
            f"{layer.name}.{name}": (shape, np.dtype(self.dtype) if dtype is None else dtype)
            for layer in self.layers
            for name, (shape, dtype) in layer.buffers.items()
        }
