"""Checks of a whole tree of layers: shapes, positions of layers, lengths of full names, and numbers that overflow."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic_core import PydanticCustomError

from specnet import initializers
from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.document.base import Document
from specnet.document.messages import problem
from specnet.errors import KeyPath, ShapeError, SpecnetError
from specnet.layerspec import LayerSpec
from specnet.plan import MAX_ELEMENTS, element_limit
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.siblings import Faults

MAX_FULL_NAME = 1024
"""Maximum length of a layer's full name, `block.hidden`, in characters."""


def limit_of_elements() -> int:
    """Return the maximum number of elements; an invalid setting is raised as a validation error."""
    try:
        return element_limit()
    except SpecnetError as error:
        raise problem(str(error), "setting") from None


def too_large(what: str) -> PydanticCustomError:
    """Return the error for a document that needs more elements than the limit."""
    limit = limit_of_elements()
    limit_text = f"2^31 = {limit}" if limit == MAX_ELEMENTS else str(limit)
    remedy = "; the environment variable SPECNET_MAX_ELEMENTS sets the limit"
    return problem(f"expected at most {limit_text} elements, got {what}{remedy}", "too_large")


INPUT = "the model's input"


ShapeFaults = Generator[tuple[KeyPath, PydanticCustomError], None, ShapeTuple | None]
"""Yields errors with their paths, and returns the shape of the last output, None if it is unknown."""


class ShapeFollower:
    """Infers the shapes through a tree of layers, as far as the layers are valid, and counts the parameters."""

    def __init__(self) -> None:
        self.limit = limit_of_elements()
        self.total = 0

    def faults(
        self,
        layers: Sequence[LayerSpec | None],
        shape: ShapeTuple,
        path: KeyPath = (),
        source: str = INPUT,
        *,
        masked: bool = False,
    ) -> ShapeFaults:
        """Yield the errors of a list of layers; return the shape of its output, or None if it is unknown.

        `source` names the origin of the first layer's input in messages. `masked` says whether the first layer of the
        model marks padding in it.
        """
        for index, layer in enumerate(layers):
            if layer is None:
                return None
            layer_path = (*path, index)
            check = self._composite_faults if isinstance(layer, CompositeSpec) else self._leaf_faults
            if _place_error(layer, layer_path, layers[0], first=source == INPUT):
                return None  # place_faults reports it
            try:
                output = yield from check(layer, shape, layer_path, source, masked)
            except ShapeError as error:
                yield layer_path, problem(f"{error}; its input comes from {source}", "shape")
                return None
            except SpecnetError as error:  # a mistake in the code of the layer's class
                yield layer_path, problem(str(error), "plugin")
                return None
            if output is None:
                return None
            shape, source = output, f'"{layer.name}"'
            masked = (masked or (layer_path == (0,) and layer.layer.marks_padding(layer.fields()))) and len(shape) > 1
        return shape

    def _composite_faults(
        self, layer: LayerSpec, shape: ShapeTuple, layer_path: KeyPath, source: str, masked: bool
    ) -> ShapeFaults:
        assert isinstance(layer, CompositeSpec)
        outputs = []
        for path, inside in layer.lists():
            outputs.append((yield from self.faults(inside, shape, (*layer_path, *path), source, masked=masked)))
        known = [output for output in outputs if output is not None]
        if len(known) < len(outputs):
            return None
        joined = layer.layer.join(known)
        if size_of(joined) > self.limit:
            yield layer_path, too_large(f"an output of shape {joined}")
            return None
        return joined

    def _leaf_faults(
        self, layer: LayerSpec, shape: ShapeTuple, layer_path: KeyPath, _source: str, masked: bool
    ) -> ShapeFaults:
        plan = layer.plan(shape)
        if masked and layer.layer.mask_use == "refused":
            message = f"{layer.type} mixes the steps of sequences, and with them the padding that the first layer marks"
            yield layer_path, problem(f"{message}; put it behind last_step or time_average, or remove it", "masked")
            return None
        parameters, output = layer.parameter_specs(plan.parameters), plan.output_shape
        self.total += sum(map(size_of, plan.parameters.values()))
        if self.total > self.limit or size_of(output) > self.limit:
            what = f"{self.total} parameters" if self.total > self.limit else f"an output of shape {output}"
            yield (*layer_path, layer.width_field) if layer.width_field else layer_path, too_large(what)
            return None
        for name, parameter in parameters.items():
            fault = initializers.shape_fault(parameter.initializer, plan.parameters[name])
            if fault:
                field, message = fault
                yield (*layer_path, parameter.field, *([field] if field else [])), problem(message, "shape")
        return output


def place_faults(layers: Sequence[LayerSpec | None], path: KeyPath = (), *, first: bool = True) -> Faults:
    """Yield the errors of layers at positions where they are not allowed, whatever the shapes."""
    for index, layer in enumerate(layers):
        layer_path = (*path, index)
        message = layer and _place_error(layer, layer_path, layers[0], first=first and index == 0)
        if message:
            yield layer_path, problem(message, "misplaced")
        elif isinstance(layer, CompositeSpec):
            for inner, inside in layer.lists():
                yield from place_faults(inside, (*layer_path, *inner), first=first and index == 0)


def name_faults(layers: Sequence[LayerSpec | None], path: KeyPath = (), prefix: int = 0) -> Faults:
    """Yield the errors of layers whose full name, which starts with the enclosing composites' names, is too long."""
    for index, layer in enumerate(layers):
        if layer is None:
            continue
        length = prefix + len(layer.name)
        if length > MAX_FULL_NAME:
            message = f"expected a full name of at most {MAX_FULL_NAME} characters, got {length}; shorten the names"
            yield (*path, index), problem(message, "too_long")
        elif isinstance(layer, CompositeSpec):
            for inner, inside in layer.lists():
                yield from name_faults(inside, (*path, index, *inner), length + 1)


def _place_error(layer: LayerSpec, path: KeyPath, beginning: LayerSpec | None, *, first: bool) -> str:
    """Return the message if the layer is not allowed at this position, otherwise "".

    `beginning` is the first layer of its list; `first` says whether the layer's input is the model's input. A mask may
    come before a layer that must be the first, as it passes its input on.
    """
    is_behind_mask = path == (1,) and beginning is not None and beginning.type == "mask" and layer.type != "mask"
    is_at_the_start = path == (0,) or is_behind_mask
    reason = "" if is_at_the_start or isinstance(layer, CompositeSpec) else layer.must_be_first
    if reason:
        return f"{layer.type} must be the model's first layer: {reason}"
    limits = set(_input_limits(layer))
    if isinstance(layer, CompositeSpec):
        if first and None in limits and len(limits) > 1:
            return "some of its lists take integers and some take real numbers; a model's inputs have one type"
    elif None not in limits and not first:
        return f"{layer.type} takes integers, and only the model's inputs can be integers; it must be the first layer"
    return ""


def _input_limits(layer: LayerSpec) -> Iterator[int | None]:
    """Yield the input limit of every layer that receives this layer's input."""
    if isinstance(layer, CompositeSpec):
        for _, layers in layer.lists():
            if not layers:
                yield None
            elif layers[0] is not None:
                yield from _input_limits(layers[0])
    else:
        yield layer.input_limit


def number_faults(layers: Iterable[LayerSpec | None], dtype: np.dtype[Any], path: KeyPath = ()) -> Faults:
    """Yield the errors of numbers that the model's dtype cannot represent."""
    for index, layer in enumerate(layers):
        if isinstance(layer, CompositeSpec):
            for inner, inside in layer.lists():
                yield from number_faults(inside, dtype, (*path, index, *inner))
            continue
        for field, value in layer or ():
            for key, number in _numbers_in(value):
                if abs(number) > float(np.finfo(dtype).max):
                    message = f"expected numbers that {dtype.name} can hold, got {number!r}"
                    yield (*path, index, field, *key), problem(message, "overflow")


def _numbers_in(value: Any) -> Iterator[tuple[KeyPath, float]]:
    """Yield the numbers in a field's value, each with its path."""
    if isinstance(value, float):
        yield (), value
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            for key, number in _numbers_in(entry):
                yield (index, *key), number
    elif isinstance(value, Document):
        for inner, number in initializers.numbers_of(value):
            yield (inner,), number
