"""CompositeSpec, the base of documents of layers that contain layers, and the recursive reader of their lists."""

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
"""Maximum nesting depth of composites."""

LAYER_ENTRY = Tagged("layer", layer_types, find=find_layer)

PLACEHOLDER = "specnet definition"
"""Key that marks, in a generated schema, a reference to a definition; schema.py replaces it."""

LIST_SCHEMA = {"type": "array", "items": {PLACEHOLDER: "layer"}}
LAYERS_SCHEMA = {**LIST_SCHEMA, "minItems": 1}

Entries = Sequence[LayerSpec | None]
"""Layers of one list; None for an invalid layer."""


class ListRead(NamedTuple):
    """One list of layers: its path in its field, the list before validation, and the layers read from it.

    The layers are None if the value is not a list of layers.
    """

    path: KeyPath
    raw: Any
    layers: Entries | None


class ListField(ABC):
    """Annotation of a field that contains layers; `LayerReader` reads it before Pydantic validates the other fields."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.any_schema()

    @abstractmethod
    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead]:
        """Return the lists of the field's value at `path`."""

    @abstractmethod
    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        """Return the field's value, built from its lists."""


class LayerList(ListField):
    """Annotation of one list of layers, with at least `least` entries."""

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead]:
        return [ListRead((), value, reader.read_list(value, path, level, least=self.least))]

    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        return tuple(lists[0])


class LayerBranches(ListField):
    """Annotation of a list of lists of layers; the inner lists may be empty."""

    def read(self, reader: LayerReader, value: Any, path: KeyPath, level: int) -> list[ListRead]:
        is_list = reader.require_list(value, path, "an array of arrays of layers", "at least one branch")
        if not is_list or not reader.count(len(value), path, value):
            return [ListRead((), value, None)]
        return [
            ListRead((index,), branch, reader.read_list(branch, (*path, index), level, least=0))
            for index, branch in enumerate(value)
        ]

    def assemble(self, lists: Sequence[Entries]) -> tuple[Any, ...]:
        return tuple(map(tuple, lists))


class CompositeSpec(LayerSpec):
    """Base of documents of layers that contain layers; the layer class is a Composite, which locates the lists."""

    layer: ClassVar[type[Composite]]

    @classmethod
    def list_fields(cls) -> dict[str, ListField]:
        """Return the fields that contain layers, in document order."""
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
        """Read the lists of layers before the other keys, unless a LayerReader, given as context, has read them."""
        if not isinstance(data, Mapping) or isinstance(info.context, LayerReader):
            return handler(data)
        reader = LayerReader()
        try:
            composite = reader.read_composite(cls, data, (), 1, handler)
        except PydanticCustomError as error:
            reader.report(error, (), data)
        reader.raise_faults(cls.__name__)
        return composite  # type: ignore[return-value]  # without faults it is complete, and of this class

    def plan(self, input_shape: tuple[int, ...]) -> LayerPlan:
        planners = [[layer.plan for layer in layers] for _, layers in self.lists()]
        return self.layer.plan(self.name, planners, input_shape)


@cache
def _list_fields(cls: type[CompositeSpec]) -> dict[str, ListField]:
    pairs = [(name, annotation) for name, field in cls.model_fields.items() for annotation in field.metadata]
    return {name: annotation for name, annotation in pairs if isinstance(annotation, ListField)}


class LayerReader:
    """Reads the layers of one document at every nesting level; collects all faults and counts all layers.

    The level of a list is the number of composites that enclose it.
    """

    def __init__(self) -> None:
        self.faults: list[InitErrorDetails] = []
        self._layer_count = 0

    def report(self, error: PydanticCustomError, path: KeyPath, value: Any) -> None:
        """Record a fault."""
        self.faults.append(InitErrorDetails(type=error, loc=path, input=value))

    def raise_faults(self, title: str) -> None:
        """Raise a ValidationError of all faults, if there are any."""
        if self.faults:
            raise ValidationError.from_exception_data(title, self.faults)

    def require_list(self, value: Any, path: KeyPath, what: str, least: str) -> bool:
        """Report and return False if `value` is no array, or is empty while `least` names the required content."""
        if not isinstance(value, (list, tuple)):
            self.report(mismatch(what, value, "wrong_type"), path, value)
        elif least and not value:
            self.report(problem(f"expected {least}, got an empty array", "too_short"), path, value)
        else:
            return True
        return False

    def count(self, number: int, path: KeyPath, value: Any) -> bool:
        """Add to the number of layers and branches in the document; report and return False above the limit."""
        self._layer_count += number
        if self._layer_count > MAX_LAYERS:
            self.report(problem(f"expected at most {MAX_LAYERS} layers in all, got more", "too_large"), path, value)
        return self._layer_count <= MAX_LAYERS

    def read_list(self, value: Any, path: KeyPath, level: int, *, least: int = 1) -> Entries | None:
        """Return the layers of a list; None if `value` is not a list of layers."""
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
                break  # further faults are not shown, and checking is slow
        return layers

    def _read_entry(self, entry: Any, path: KeyPath, level: int) -> LayerSpec | None:
        """Return one layer; None if it is invalid, but the valid parts of an invalid composite."""
        try:
            kind = LAYER_ENTRY.resolve(entry)
            if isinstance(entry, CompositeSpec):
                if level + _depth(entry) > MAX_COMPOSITES:
                    raise _depth_error()
                return entry if self.count(_count_inside(entry, MAX_LAYERS + 1), path, entry) else None
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
        """Return a composite with its lists read and its names and defaults filled in.

        All its layers are siblings, so their names are unique across its lists. `validate` checks the other keys. Of an
        invalid composite, the valid lists are returned, so that shapes inside can be checked; None if one of its lists
        cannot be read or a required list is missing.
        """
        if level > MAX_COMPOSITES:
            raise _depth_error()
        fields = {name: field for name, field in kind.list_fields().items() if name in keys}
        read = {name: field.read(self, keys[name], (*path, name), level) for name, field in fields.items()}
        lists = [(name, *entry) for name, entries in read.items() for entry in entries if entry.layers is not None]
        names, duplicates = name_siblings(
            [((name, *inner), raw) for name, inner, raw, _ in lists], f" of this {kind.registered_type}"
        )
        self.faults += details(duplicates, path)
        resolved: dict[str, list[Entries]] = {name: [] for name in read}
        for (name, _, _, layers), layer_names in zip(lists, names, strict=True):
            resolved[name].append(resolve_defaults(layers or (), layer_names))
        complete = {
            name: fields[name].assemble(parts) for name, parts in resolved.items() if len(parts) == len(read[name])
        }
        composite: CompositeSpec | None = None
        try:
            composite = validate({**keys, **dict.fromkeys(read, ()), **complete})
        except ValidationError as error:
            self.faults += reraised(error, *path)
        if len(complete) < len(read):
            return None
        if composite is not None:
            return composite
        has_all = all(name in read or not kind.model_fields[name].is_required() for name in kind.list_fields())
        return kind.model_construct(**complete) if has_all else None  # type: ignore[arg-type]


def _count_inside(layer: LayerSpec, limit: int) -> int:
    """Return the number of layers inside a composite; stops counting at `limit`."""
    count, pending = 0, [layer]
    while pending and count < limit:
        outer = pending.pop()
        if isinstance(outer, CompositeSpec):
            count += len(outer.inside)
            pending += outer.inside
    return count


def _depth(layer: LayerSpec) -> int:
    """Return the number of nested composite levels of a layer."""
    return 1 + max(map(_depth, layer.inside), default=0) if isinstance(layer, CompositeSpec) else 0


def _depth_error() -> PydanticCustomError:
    return problem(f"expected at most {MAX_COMPOSITES} levels of nested composites, got more", "too_deep")
