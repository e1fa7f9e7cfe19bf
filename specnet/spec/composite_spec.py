"""What documents say of layers made of layers, and the reader of their lists, however deeply these nest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import GetCoreSchemaHandler, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from specnet.composite import Composite
from specnet.document.json_text import MAX_PROBLEMS
from specnet.document.messages import details, mismatch, problem, reraised
from specnet.document.tagged_union import Tagged
from specnet.errors import KeyPath
from specnet.layerspec import LayerSpec
from specnet.plan import MAX_LAYERS, LayerPlan
from specnet.spec.registry import find_layer, layer_types
from specnet.spec.siblings import name_siblings, resolve_defaults

MAX_COMPOSITES = 64
"""The deepest nesting of composites."""

LAYER_ENTRY = Tagged("layer", layer_types, find=find_layer)

PLACEHOLDER = "specnet definition"
"""Stands in a generated schema for a reference to a definition that schema.py adds."""

LIST_SCHEMA = {"type": "array", "items": {PLACEHOLDER: "layer"}}
LAYERS_SCHEMA = {**LIST_SCHEMA, "minItems": 1}

Entries = Sequence[LayerSpec | None]
"""Layers of one list; None for a faulty one."""


class ListRead(NamedTuple):
    """One list of layers: where it stands in its field, the list as it was given, and the layers read from it."""

    path: KeyPath
    given: Sequence[Any]
    layers: Entries


class ListField(ABC):
    """Annotates a field of a composite that holds layers. `LayerReader` reads it before Pydantic validates the rest."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.any_schema()

    @abstractmethod
    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead] | None:
        """Return the lists of the field's value, which stands at `path`; None where it does not hold lists."""

    @abstractmethod
    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        """Return the field's value made of its lists."""


class LayerList(ListField):
    """One list of layers, with at least `least` entries."""

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead] | None:
        layers = reader.read_list(value, path, level, least=self.least)
        return None if layers is None else [ListRead((), value, layers)]

    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        return tuple(lists[0])


class LayerBranches(ListField):
    """A list of lists of layers; the inner ones may be empty."""

    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead] | None:
        if not reader.require_list(value, path, "an array of arrays of layers", "at least one branch"):
            return None
        if not reader.count(len(value), path, value):
            return None
        branches = [(i, branch, reader.read_list(branch, (*path, i), level, least=0)) for i, branch in enumerate(value)]
        lists = [ListRead((i,), branch, layers) for i, branch, layers in branches if layers is not None]
        return lists if len(lists) == len(branches) else None

    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        return tuple(map(tuple, lists))


class CompositeSpec(LayerSpec):
    """Base of the documents of layers made of layers; its layer class is a Composite, which knows where they stand."""

    layer: ClassVar[type[Composite]]

    @classmethod
    def list_fields(cls) -> dict[str, ListField]:
        """Return the fields that hold layers, in document order."""
        return _list_fields(cls)

    def lists(self) -> list[tuple[KeyPath, Sequence[LayerSpec]]]:
        """Return the lists of layers, each with its path."""
        return self.layer.lists(dict(self))

    @property
    def inside(self) -> list[LayerSpec]:
        """All layers of all lists, in document order."""
        return [layer for _, layers in self.lists() for layer in layers]

    @model_validator(mode="wrap")
    @classmethod
    def _read_lists(cls, data: Any, handler: Callable[[Any], Self], info: ValidationInfo) -> Self:
        """Read the lists of layers first; a LayerReader that validates a composite's other keys has done so already."""
        if not isinstance(data, Mapping) or isinstance(info.context, LayerReader):
            return handler(data)
        reader = LayerReader()
        try:
            composite = reader.read_composite(cls, data, (), 1, handler)
        except PydanticCustomError as error:
            reader.report(error, (), data)
        reader.raise_faults(cls.__name__)
        return composite  # type: ignore[return-value]  # without faults it is whole, and of this class

    def plan(self, input_shape: tuple[int, ...]) -> LayerPlan:
        planners = [[layer.plan for layer in layers] for _, layers in self.lists()]
        return self.layer.plan(self.name, planners, input_shape)


@cache
def _list_fields(cls: type[CompositeSpec]) -> dict[str, ListField]:
    pairs = [(name, mark) for name, field in cls.model_fields.items() for mark in field.metadata]
    return {name: mark for name, mark in pairs if isinstance(mark, ListField)}


class LayerReader:
    """Reads the layers of one document, however deeply they nest: collects all faults, counts all layers.

    A level is the number of composites around a list.
    """

    def __init__(self) -> None:
        self.faults: list[InitErrorDetails] = []
        self._layers = 0

    def report(self, error: PydanticCustomError, path: KeyPath, value: Any) -> None:
        """Add a fault."""
        self.faults.append(InitErrorDetails(type=error, loc=path, input=value))

    def raise_faults(self, title: str) -> None:
        """Raise a ValidationError of all faults, where there are any."""
        if self.faults:
            raise ValidationError.from_exception_data(title, self.faults)

    def require_list(self, value: Any, path: KeyPath, what: str, least: str) -> bool:
        """Check that `value` is an array, and not empty where `least` says what is missing."""
        if not isinstance(value, (list, tuple)):
            self.report(mismatch(what, value, "wrong_type"), path, value)
        elif least and not value:
            self.report(problem(f"expected {least}, got an empty array", "too_short"), path, value)
        else:
            return True
        return False

    def count(self, more: int, path: KeyPath, value: Any) -> bool:
        """Count layers and branches over the whole document; report the ones beyond the limit."""
        self._layers += more
        if self._layers > MAX_LAYERS:
            self.report(problem(f"expected at most {MAX_LAYERS} layers in all, got more", "too_large"), path, value)
        return self._layers <= MAX_LAYERS

    def read_list(self, value: Any, path: KeyPath, level: int, *, least: int = 1) -> Entries | None:
        """Return the layers of a list; None where `value` is no list of layers."""
        if not self.require_list(value, path, "an array of layers", "at least one layer" if least else ""):
            return None
        if len(value) > MAX_LAYERS:
            message = f"expected at most {MAX_LAYERS} layers, got {len(value)}"
            self.report(problem(message, "too_large"), path, value)
            return None
        if not self.count(len(value), path, value):
            return None
        layers: list[LayerSpec | None] = [None] * len(value)
        for index, entry in enumerate(value):
            layers[index] = self._read_entry(entry, (*path, index), level)
            if len(self.faults) >= MAX_PROBLEMS:
                break  # more are not shown, and each takes time
        return layers

    def _read_entry(self, entry: Any, path: KeyPath, level: int) -> LayerSpec | None:
        """Return one layer; for a faulty one None, or a composite as far as it is right."""
        try:
            kind = LAYER_ENTRY.resolve(entry)
            if isinstance(entry, CompositeSpec):
                if level + _height(entry) > MAX_COMPOSITES:
                    raise _too_deep()
                return entry if self.count(_size(entry, MAX_LAYERS + 1), path, entry) else None
            if isinstance(entry, LayerSpec):
                return entry
            if issubclass(kind, CompositeSpec):
                return self.read_composite(kind, entry, path, level + 1, lambda keys: kind.nested(keys, context=self))
            layer = kind.nested(dict(entry))
            assert isinstance(layer, LayerSpec)
        except PydanticCustomError as error:
            self.report(error, path, entry)
        except ValidationError as error:
            self.faults += reraised(error, *path)
        else:
            return layer
        return None

    def read_composite(
        self,
        kind: type[CompositeSpec],
        keys: Mapping[str, Any],
        path: KeyPath,
        level: int,
        validate: Callable[[dict[str, Any]], CompositeSpec],
    ) -> CompositeSpec | None:
        """Return a composite whose lists are read, named as one set of siblings, and completed.

        `validate` checks its other keys. Of a faulty composite what is right is returned, so that shapes are followed
        into it; None where one of its lists is none.
        """
        if level > MAX_COMPOSITES:
            raise _too_deep()
        fields = {name: mark for name, mark in kind.list_fields().items() if name in keys}
        read = {name: mark.read(self, keys[name], (*path, name), level) for name, mark in fields.items()}
        lists = [(name, entry) for name, entries in read.items() for entry in entries or ()]
        names, duplicates = name_siblings(
            [((name, *entry.path), entry.given) for name, entry in lists], f" of this {kind.registered_type}"
        )
        self.faults += details(duplicates, path)
        resolved: dict[str, list[Entries]] = {name: [] for name in read}
        for (name, entry), own in zip(lists, names, strict=True):
            resolved[name].append(resolve_defaults(entry.layers, own))
        complete = {name: fields[name].assemble(parts) for name, parts in resolved.items() if read[name] is not None}
        composite: CompositeSpec | None = None
        try:
            composite = validate({**keys, **dict.fromkeys(read, ()), **complete})
        except ValidationError as error:
            self.faults += reraised(error, *path)
        if composite is not None and len(complete) == len(read):
            return composite
        is_readable = len(complete) == len(read) and all(
            name in read or not kind.model_fields[name].is_required() for name in kind.list_fields()
        )
        return kind.model_construct(**complete) if is_readable else None  # type: ignore[arg-type]


def _size(layer: LayerSpec, most: int) -> int:
    """Count the layers inside a composite, up to `most`."""
    count, waiting = 0, [layer]
    while waiting and count < most:
        outer = waiting.pop()
        if isinstance(outer, CompositeSpec):
            count += len(outer.inside)
            waiting += outer.inside
    return count


def _height(layer: LayerSpec) -> int:
    """Count the levels of composites."""
    return 1 + max(map(_height, layer.inside), default=0) if isinstance(layer, CompositeSpec) else 0


def _too_deep() -> PydanticCustomError:
    return problem(f"expected at most {MAX_COMPOSITES} levels of layers within layers, got more", "too_deep")
