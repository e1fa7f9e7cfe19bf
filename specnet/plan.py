"""Plans: the structure of a network before it has arrays, which `build` and `load` pass to the model."""

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
"""The default limit on the elements of a model's input, of a layer's output and of all parameters together."""

MAX_LAYERS = 32_768
"""The limit on the number of layers in a document."""

MAX_NAME = 255
"""The limit on the characters of a layer's name."""

NOTES = ("$schema", "name", "description", "metadata", "labels", "tokenizer")
"""The keys of a document that do not affect the function that the model computes."""


def element_limit() -> int:
    """Return the limit on the elements of inputs, outputs and parameters: SPECNET_MAX_ELEMENTS, or 2^31."""
    setting = os.environ.get("SPECNET_MAX_ELEMENTS")
    if not setting:
        return MAX_ELEMENTS
    if not setting.isdecimal() or len(setting) > 18 or int(setting) < 1:
        msg = f"SPECNET_MAX_ELEMENTS: expected a positive integer, got {setting!r:.40}"
        raise SpecnetError(msg)
    return int(setting)


def identity_of(document: Mapping[str, object]) -> str:
    """Return the SHA-256, in hex, of a normalized document without NOTES: it identifies the function computed."""
    return sha256_of({key: value for key, value in document.items() if key not in NOTES})


class LayerPlan(NamedTuple):
    """The plan of one layer: its name, the shapes of its input, output, parameters and buffers, and how to create it.

    The arrays of a composite have dotted names, `hidden.weight`; `layers` are the plans of its inner layers.
    `input_limit` is the exclusive upper bound of integer inputs, None for real numbers. `marks_padding` says whether
    the layer tells, as the first of a model, which steps are padding.
    """

    name: str
    input_shape: ShapeTuple
    output_shape: ShapeTuple
    parameters: Mapping[str, ShapeTuple]
    buffers: Mapping[str, tuple[ShapeTuple, np.dtype[Any] | None]]
    make: Callable[[Mapping[str, Array]], Layer]
    input_limit: int | None = None
    layers: tuple[LayerPlan, ...] = ()
    marks_padding: bool = False

    def names(self) -> Iterator[str]:
        """Yield the layer's name and the names of all layers inside it, `block.hidden`."""
        yield self.name
        for layer in self.layers:
            yield from (f"{self.name}.{name}" for name in layer.names())


def plan_layer(kind: type[Layer], name: str, fields: Mapping[str, Any], input_shape: ShapeTuple) -> LayerPlan:
    """Return the plan of one layer of a document, with all its shapes inferred.

    Raises ShapeError if the input does not fit, and SpecnetError for mistakes in the layer's class.
    """
    parameters, output_shape = kind.infer(fields, input_shape)
    buffers = {
        key: _check_buffer(kind, key, declared) for key, declared in kind.infer_buffers(fields, input_shape).items()
    }
    for key, shape in parameters.items():
        if not isinstance(shape, tuple):
            msg = f"{kind.__name__}.infer: expected the shape of {key}, a tuple of integers, got {shape!r}"
            raise SpecnetError(msg)
    make = partial(_create_layer, kind, fields)
    limit, marks_padding = kind.input_limit(fields), kind.marks_padding(fields)
    return LayerPlan(name, input_shape, output_shape, parameters, buffers, make, limit, marks_padding=marks_padding)


def _check_buffer(kind: type[Layer], name: str, declared: Any) -> tuple[ShapeTuple, np.dtype[Any] | None]:
    try:
        shape, dtype = declared
        return tuple(map(int, shape)), None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        msg = f"{kind.__name__}.infer_buffers: expected (shape, dtype or None) of {name}, got {declared!r}"
        raise SpecnetError(msg) from None


def _create_layer(kind: type[Layer], fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Layer:
    try:
        return kind.from_document(fields, parameters)
    except TypeError as error:
        problem = f"cannot create the layer from the document's keys and arrays: {error}"
        msg = f"{kind.__name__}.from_document {problem}; override it if keys are only initial values"
        raise SpecnetError(msg) from error


Planner = Callable[[ShapeTuple], LayerPlan]
"""Returns a layer's plan for the shape of one input; raises ShapeError if the shape does not fit."""


def fold(planners: Iterable[Planner], input_shape: ShapeTuple) -> Iterator[LayerPlan]:
    """Infer the shapes through consecutive layers, and yield the plan of each. Raises ShapeError."""
    shape = input_shape
    for planner in planners:
        plan = planner(shape)
        yield plan
        shape = plan.output_shape


@dataclass(frozen=True)
class ModelPlan:
    """The plan of a whole network, from which `assemble` creates a Model."""

    name: str
    dtype: str
    seed: int
    input_shape: ShapeTuple
    layers: tuple[LayerPlan, ...]

    @property
    def input_dtype(self) -> str:
        """The dtype of the inputs: the model's dtype, or int64 if the first layer takes integers."""
        return self.dtype if self.layers[0].input_limit is None else "int64"

    @property
    def keeps_time(self) -> bool:
        """Whether the outputs are sequences, (time, …), if the inputs are: every layer has kept the time axis."""
        return all(len(layer.output_shape) > 1 for layer in self.layers)

    def about(self, parameter_count: int) -> str:
        """Describe the network in one line: name, shapes, parameter count and dtype."""
        shapes = [str(shape) for shape in [self.input_shape, *(layer.output_shape for layer in self.layers)]]
        arrow = " -> ".join(shapes if len(shapes) <= 8 else [*shapes[:4], "...", *shapes[-3:]])
        return f"{self.name!r}: {arrow}, {parameter_count:,} parameters, {self.dtype}"

    def parameter_shapes(self) -> dict[str, ShapeTuple]:
        """Return the shape of each parameter by full name, `hidden.weight`, in document order."""
        return {f"{layer.name}.{name}": shape for layer in self.layers for name, shape in layer.parameters.items()}

    def buffer_shapes(self) -> dict[str, tuple[ShapeTuple, np.dtype[Any]]]:
        """Return shape and dtype of each buffer by full name, `norm.running_mean`, in document order."""
        return {
            f"{layer.name}.{name}": (shape, np.dtype(self.dtype) if dtype is None else dtype)
            for layer in self.layers
            for name, (shape, dtype) in layer.buffers.items()
        }
