"""The layers of a document, lists within lists: entries are checked, named, completed, and their shapes followed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.composite import Composite, by_layer, dotted
from specnet.document.json_text import MAX_PROBLEMS
from specnet.document.messages import fault, mismatch
from specnet.document.tagged_union import Tagged
from specnet.errors import KeyPath, PathKey, path_text
from specnet.layer import Layer
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.plan import MAX_LAYERS, LayerPlan
from specnet.spec.registry import find_layer, layer_types

MAX_COMPOSITES = 64
"""The most levels to which composites nest."""


LAYER_ENTRY = Tagged("layer", layer_types, find=find_layer)


PLACEHOLDER = "specnet definition"
"""Stands in a generated schema for a reference to a definition that schema.py adds."""


LIST_SCHEMA = {"type": "array", "items": {PLACEHOLDER: "layer"}}


LAYERS_SCHEMA = {**LIST_SCHEMA, "minItems": 1}


Faults = Iterator[tuple[KeyPath, PydanticCustomError]]


_depth: ContextVar[int] = ContextVar("depth", default=0)


_gathered: ContextVar[list[Sequence[LayerSpec | None]] | None] = ContextVar("gathered", default=None)


_partial: ContextVar[CompositeSpec | None] = ContextVar("partial", default=None)


_counted: ContextVar[list[int] | None] = ContextVar("counted", default=None)


class LayerEntries:
    """Annotates a list of layers: each entry is checked by the class of its type; `least` of them at least."""

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, value: Any) -> tuple[LayerSpec, ...]:
        entries, faults = self.read(value)
        gathered = _gathered.get()
        if gathered is not None:
            gathered.append(entries)
        if faults:
            raise ValidationError.from_exception_data("layers", faults)
        return tuple(entry for entry in entries if entry is not None)

    def read(self, value: Any) -> tuple[list[LayerSpec | None], list[InitErrorDetails]]:
        """Give the entries and the faults; for a faulty entry None, or a composite as far as it is right."""
        if not isinstance(value, (list, tuple)):
            raise mismatch("an array of layers", value, "wrong_type")
        if len(value) < self.least:
            message = "expected at least one layer, got an empty array"
            raise fault(message, "too_short")
        if len(value) > MAX_LAYERS:
            message = f"expected at most {MAX_LAYERS} layers, got {len(value)}"
            raise fault(message, "too_large")
        _count(len(value))
        faults: list[InitErrorDetails] = []
        entries: list[LayerSpec | None] = [None] * len(value)
        for index, entry in enumerate(value):
            entries[index] = _entry(index, entry, faults)
            if len(faults) >= MAX_PROBLEMS:
                break  # as many are told, and each takes time
        return entries, faults


def _count(more: int) -> None:
    """Count layers and branches over the whole document, however they are nested."""
    counted = _counted.get()
    if counted is not None:
        counted[0] += more
        if counted[0] > MAX_LAYERS:
            raise fault(f"expected at most {MAX_LAYERS} layers in all, got more", "too_large")


@contextmanager
def counting() -> Iterator[None]:
    """Begin to count the layers of a document, unless that has begun."""
    if _counted.get() is not None:
        yield
        return
    token = _counted.set([0])
    try:
        yield
    finally:
        _counted.reset(token)


class LayerBranches:
    """Annotates a list of lists of layers, which may be empty."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, value: Any) -> tuple[tuple[LayerSpec, ...], ...]:
        if not isinstance(value, (list, tuple)):
            raise mismatch("an array of arrays of layers", value, "wrong_type")
        if not value:
            message = "expected at least one branch, got an empty array"
            raise fault(message, "too_short")
        _count(len(value))
        branches, faults = [], []
        for index, branch in enumerate(value):
            try:
                branches.append(LayerEntries(least=0).validate(branch))
            except PydanticCustomError as error:
                faults.append(InitErrorDetails(type=error, loc=(index,), input=branch))
            except ValidationError as error:
                faults += repeated(error, index)
        if faults:
            raise ValidationError.from_exception_data("branches", faults)
        return tuple(branches)


def _entry(index: int, entry: Any, faults: list[InitErrorDetails]) -> LayerSpec | None:
    _partial.set(None)
    try:
        if isinstance(entry, CompositeSpec):
            _count(_size(entry, MAX_LAYERS + 1))
        made: LayerSpec = LAYER_ENTRY.validate(entry)
    except PydanticCustomError as error:
        faults.append(InitErrorDetails(type=error, loc=(index,), input=entry))
    except ValidationError as error:
        faults += repeated(error, index)
        return _take_partial()
    else:
        return made
    return None


def _take_partial() -> CompositeSpec | None:
    """Give what is right of the composite that was refused just now; None where it was no composite."""
    partial = _partial.get()
    _partial.set(None)
    return partial


def repeated(error: ValidationError, *outer: PathKey) -> Iterator[InitErrorDetails]:
    """Give faults that are in words already once more, below an outer path."""
    for e in error.errors(include_url=False):
        told = PydanticCustomError(e["type"], "{message}", e["ctx"])
        yield InitErrorDetails(type=told, loc=(*outer, *e["loc"]), input=e["input"])


def details(faults: Faults) -> Iterator[InitErrorDetails]:
    """Bring faults into the form that a ValidationError takes."""
    for path, told in faults:
        yield InitErrorDetails(type=told, loc=path, input=None)


def siblings(lists: Iterable[tuple[KeyPath, Sequence[Any]]], where: str = "") -> tuple[list[list[str]], Faults]:
    """Give every entry of the lists its name, and the names that stand twice; `where` says in what they do.

    Automatic names are <type>_<n>, counted over all of the type. Entries may be of any form, faulty ones too.
    """
    counts: dict[str, int] = {}
    names: list[list[str]] = []
    found: list[tuple[bool, KeyPath, str]] = []  # whether it is automatic, path, name
    for path, entries in lists:
        names.append([])
        for index, entry in enumerate(entries):
            given = entry if isinstance(entry, Mapping) else dict(entry) if isinstance(entry, LayerSpec) else {}
            kind, name = given.get("type"), given.get("name")
            if isinstance(kind, str):
                counts[kind] = counts.get(kind, 0) + 1
            written = isinstance(name, str) and name != ""
            automatic = f"{kind}_{counts[kind]}" if isinstance(kind, str) else ""
            names[-1].append(str(name) if written else automatic)
            found.append((not written, (*path, index), names[-1][-1]))
    return names, _doubles(found, where)


def _doubles(found: list[tuple[bool, KeyPath, str]], whose: str) -> Faults:
    owner: dict[str, KeyPath] = {}
    for automatic, path, name in sorted(found, key=lambda entry: entry[0]):
        first = owner.setdefault(name, path)
        if first == path or not name:
            continue
        where = path_text(first) + whose
        if automatic:
            message = f'the automatic name "{name}" is taken by its sibling {where}; give this layer a name of its own'
            yield path, fault(message, "duplicate_name")
        else:
            message = f'the name "{name}" is taken by its sibling {where}; names are unique among siblings'
            yield (*path, "name"), fault(message, "duplicate_name")


def completed(layers: Sequence[LayerSpec | None], names: Sequence[str]) -> list[LayerSpec | None]:
    """Give one list of layers its names, and the defaults that depend on the next activation in it."""
    made: list[LayerSpec | None] = []
    following: LayerSpec | None = None
    for layer, name in zip(reversed(layers), reversed(names), strict=True):
        activation = following if following is not None and following.activation else None
        made.append(layer and layer.model_copy(update={"name": name}).resolve(activation))
        if layer is None or not layer.transparent:
            following = layer
    return made[::-1]


class CompositeSpec(LayerSpec):
    """Base of the documents of layers made of layers; its layer class is a Composite, which knows where they stand."""

    layer: ClassVar[type[Composite]]

    def lists(self) -> list[tuple[KeyPath, Sequence[LayerSpec]]]:
        """Give the lists of layers, each with its path."""
        return self.layer.lists(dict(self))

    @property
    def inside(self) -> list[LayerSpec]:
        """All layers of all lists, in document order."""
        return [layer for _, layers in self.lists() for layer in layers]

    @model_validator(mode="wrap")
    @classmethod
    def _as_siblings(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        """Name the layers of all lists as one set of siblings; double names are told with all other faults."""
        if isinstance(data, cls):
            return handler(data)
        depth = _depth.get() + 1
        if depth > MAX_COMPOSITES:
            raise _too_deep()
        gathered: list[Sequence[LayerSpec | None]] = []
        tokens = _depth.set(depth), _gathered.set(gathered)
        made: Self | None = None
        faults: list[InitErrorDetails] = []
        try:
            with counting():
                made = handler(data)
        except ValidationError as error:
            faults += repeated(error)
        finally:
            _depth.reset(tokens[0])
            _gathered.reset(tokens[1])
        fields = data if isinstance(data, Mapping) else {}
        lists = [(p, v) for p, v in cls.layer.lists(fields) if isinstance(v, (list, tuple))]
        names, doubles = siblings(lists, f" of this {cls.registered_type}")
        faults += details(doubles)
        paths = [path for path, _ in lists]
        if faults or made is None:
            if gathered and len(gathered) == len(lists) == len(cls.layer.lists(fields)):
                _partial.set(cls.model_construct(**_in_place(paths, gathered, names)))
            raise ValidationError.from_exception_data(cls.__name__, faults)
        whole = _in_place(paths, [layers for _, layers in made.lists()], names)
        made.__dict__.update(whole)  # frozen from here on; a copy would not do, as __init__ keeps this very object
        if _height(made) > MAX_COMPOSITES:
            raise _too_deep()
        return made

    def plan(self, input_shape: ShapeTuple) -> LayerPlan:
        planners = [[layer.plan for layer in layers] for _, layers in self.lists()]
        return self.layer.plan(self.name, planners, input_shape)

    def output_shape(self, input_shape: ShapeTuple) -> ShapeTuple:
        return self.plan(input_shape).output_shape

    def parameters(self, input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        plans = self.plan(input_shape).layers
        return dotted((s.name, s.parameters(p.input_shape)) for s, p in zip(self.inside, plans, strict=True))

    def buffers(self, input_shape: ShapeTuple) -> dict[str, tuple[ShapeTuple, np.dtype[Any] | None]]:
        return dict(self.plan(input_shape).buffers)

    def build(self, parameters: Mapping[str, Array]) -> Layer:
        of = by_layer(parameters)
        made = [[layer.build(of.get(layer.name, {})) for layer in layers] for _, layers in self.lists()]
        return self.layer.of(made, [layer.name for layer in self.inside])


def _in_place(
    paths: Sequence[KeyPath], lists: Sequence[Sequence[LayerSpec | None]], names: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Give the fields that hold these lists, their layers named and completed."""
    fields: dict[str, Any] = {}
    for (key, *index), layers, called in zip(paths, lists, names, strict=True):
        whole = tuple(completed(layers, called))
        if index:
            fields.setdefault(str(key), []).append(whole)
        else:
            fields[str(key)] = whole
    return {key: tuple(value) for key, value in fields.items()}


def _size(layer: LayerSpec, most: int) -> int:
    """Count the layers in a composite, itself not, up to `most`."""
    count, waiting = 0, [layer]
    while waiting and count < most:
        inside = waiting.pop()
        if isinstance(inside, CompositeSpec):
            count += len(inside.inside)
            waiting += inside.inside
    return count


def _height(layer: LayerSpec) -> int:
    """Count the levels of composites."""
    return 1 + max(map(_height, layer.inside), default=0) if isinstance(layer, CompositeSpec) else 0


def _too_deep() -> PydanticCustomError:
    return fault(f"expected at most {MAX_COMPOSITES} levels of layers within layers, got more", "too_deep")
