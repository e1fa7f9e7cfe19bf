"""What the checks of a whole tree of layers find: shapes that do not fit, places, names and numbers that cannot be."""

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
"""The most characters of a layer's full name, `block.hidden`."""


def limit_of_elements() -> int:
    """Give the limit that is set; what is wrong with the setting is a fault like any other."""
    try:
        return element_limit()
    except SpecnetError as error:
        raise problem(str(error), "setting") from None


def too_large(what: str) -> PydanticCustomError:
    """Make the fault of a document that asks for more elements than the limit."""
    limit = limit_of_elements()
    told = f"2^31 = {limit}" if limit == MAX_ELEMENTS else str(limit)
    more = "; SPECNET_MAX_ELEMENTS in the environment sets the limit"
    return problem(f"expected at most {told} elements, got {what}{more}", "too_large")


INPUT = "the model's input"


Following = Generator[tuple[KeyPath, PydanticCustomError], None, ShapeTuple | None]


class ShapeFollower:
    """Follows the shapes through a tree of layers as far as they are valid, and counts the parameters."""

    def __init__(self) -> None:
        self.limit = limit_of_elements()
        self.total = 0

    def faults(
        self, layers: Sequence[LayerSpec | None], shape: ShapeTuple, path: KeyPath = (), source: str = INPUT
    ) -> Following:
        """Yield what does not fit; return the shape of the last output, None where it cannot be known.

        `source` says where the first layer's input comes from.
        """
        for index, layer in enumerate(layers):
            if layer is None:
                return None
            here = (*path, index)
            follow = self._composite if isinstance(layer, CompositeSpec) else self._leaf
            if _misplaced(layer, here, first=source == INPUT):
                return None
            try:
                output = yield from follow(layer, shape, here, source)
            except ShapeError as error:
                yield here, problem(f"{error}; its input comes from {source}", "shape")
                return None
            except SpecnetError as error:  # a mistake in the layer's own code
                yield here, problem(str(error), "plugin")
                return None
            if output is None:
                return None
            shape, source = output, f'"{layer.name}"'
        return shape

    def _composite(self, layer: LayerSpec, shape: ShapeTuple, here: KeyPath, source: str) -> Following:
        assert isinstance(layer, CompositeSpec)
        outputs = []
        for path, inside in layer.lists():
            outputs.append((yield from self.faults(inside, shape, (*here, *path), source)))
        known = [output for output in outputs if output is not None]
        if len(known) < len(outputs):
            return None
        joined = layer.layer.join(known)
        if size_of(joined) > self.limit:
            yield here, too_large(f"an output of shape {joined}")
            return None
        return joined

    def _leaf(self, layer: LayerSpec, shape: ShapeTuple, here: KeyPath, _source: str) -> Following:
        plan = layer.plan(shape)
        parameters, output = layer.parameter_specs(plan.parameters), plan.output_shape
        self.total += sum(map(size_of, plan.parameters.values()))
        if self.total > self.limit or size_of(output) > self.limit:
            what = f"{self.total} parameters" if self.total > self.limit else f"an output of shape {output}"
            yield (*here, layer.width_field) if layer.width_field else here, too_large(what)
            return None
        for name, parameter in parameters.items():
            wrong = initializers.shape_fault(parameter.initializer, plan.parameters[name])
            if wrong:
                field, message = wrong
                yield (*here, parameter.field, *([field] if field else [])), problem(message, "shape")
        return output


def place_faults(layers: Sequence[LayerSpec | None], path: KeyPath = (), *, first: bool = True) -> Faults:
    """Find the layers that have to stand elsewhere, whatever the shapes."""
    for index, layer in enumerate(layers):
        here = (*path, index)
        misplaced = layer and _misplaced(layer, here, first=first and index == 0)
        if misplaced:
            yield here, problem(misplaced, "misplaced")
        elif isinstance(layer, CompositeSpec):
            for inner, inside in layer.lists():
                yield from place_faults(inside, (*here, *inner), first=first and index == 0)


def name_faults(layers: Sequence[LayerSpec | None], path: KeyPath = (), prefix: int = 0) -> Faults:
    """Find layers whose full name, with those of the composites around it, is too long for a file."""
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


def _misplaced(layer: LayerSpec, here: KeyPath, *, first: bool) -> str:
    """Say why a layer has to stand elsewhere."""
    why = "" if here == (0,) or isinstance(layer, CompositeSpec) else layer.must_be_first
    if why:
        return f"{layer.type} must be the model's first layer: {why}"
    limits = set(_limits(layer))
    if isinstance(layer, CompositeSpec):
        if first and None in limits and len(limits) > 1:
            return "some of its lists begin with integers and some with real numbers; a model has inputs of one kind"
    elif None not in limits and not first:
        return f"{layer.type} takes integers, which only the model's inputs are; it has to be the first layer"
    return ""


def _limits(layer: LayerSpec) -> Iterator[int | None]:
    """Give the bounds of integer inputs of all layers that see the input of this one."""
    if isinstance(layer, CompositeSpec):
        for _, layers in layer.lists():
            if not layers:
                yield None
            elif layers[0] is not None:
                yield from _limits(layers[0])
    else:
        yield layer.input_limit


def number_faults(layers: Iterable[LayerSpec | None], dtype: np.dtype[Any], path: KeyPath = ()) -> Faults:
    """Find the numbers that the model's dtype cannot hold."""
    for index, layer in enumerate(layers):
        if isinstance(layer, CompositeSpec):
            for inner, inside in layer.lists():
                yield from number_faults(inside, dtype, (*path, index, *inner))
            continue
        for field, value in layer or ():
            for key, number in _numbers(value):
                if abs(number) > float(np.finfo(dtype).max):
                    message = f"expected numbers that {dtype.name} can hold, got {number!r}"
                    yield (*path, index, field, *key), problem(message, "overflow")


def _numbers(value: Any) -> Iterator[tuple[KeyPath, float]]:
    if isinstance(value, float):
        yield (), value
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            for key, number in _numbers(entry):
                yield (index, *key), number
    elif isinstance(value, Document):
        for inner, number in initializers.numbers_of(value):
            yield (inner,), number
