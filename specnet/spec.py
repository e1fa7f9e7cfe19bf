"""The model document: ModelSpec is its normalized form, a frozen value that knows every shape before any array."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

import specnet.layers.specs  # noqa: F401 - registers the built-in layers
from specnet import initializers
from specnet.errors import PathKey, ShapeError
from specnet.jsontext import MAX_INTEGER
from specnet.layer import size_of
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.parameters import ShapeTuple
from specnet.plan import MAX_ELEMENTS, MAX_LAYERS, LayerPlan, ModelPlan, identity_of
from specnet.registry import find_layer, layer_types
from specnet.tagged import Tagged
from specnet.validation import Document, Seed, Shape, Text, as_tuple
from specnet.wording import describe, encodable, fault, mismatch

MODEL_FORMAT = "specnet-model/1"

LAYER_ENTRY = Tagged("layer", layer_types, find=find_layer)

Faults = Iterator[tuple[tuple[PathKey, ...], PydanticCustomError]]


class LayerShapes(NamedTuple):
    """A layer's document with the shapes that flow through it, without the batch axis."""

    spec: LayerSpec
    input_shape: ShapeTuple
    output_shape: ShapeTuple


class _LayerList:
    """Annotates `layers`: validates the entries, gives names and defaults, folds the shapes; all faults at once."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def validate(self, value: Any, info: ValidationInfo) -> tuple[LayerSpec, ...]:
        if not isinstance(value, (list, tuple)):
            raise mismatch("an array of layers", value, "wrong_type")
        if not value:
            message = "expected at least one layer, got an empty array"
            raise fault(message, "too_short")
        if len(value) > MAX_LAYERS:
            message = f"expected at most {MAX_LAYERS} layers, got {len(value)}"
            raise fault(message, "too_large")
        faults: list[InitErrorDetails] = []
        entries = [_entry(index, entry, faults) for index, entry in enumerate(value)]
        names, wrong = _names(value)
        faults += _details(wrong)
        named = [s.model_copy(update={"name": n}) if s else None for s, n in zip(entries, names, strict=True)]
        layers = _resolved(named)
        faults += _details(_number_faults(layers, np.dtype(info.data.get("dtype", "float64"))))
        if "input_shape" in info.data:
            faults += _details(_fold_faults(layers, info.data["input_shape"]))
        if faults:
            raise ValidationError.from_exception_data("layers", faults)
        return tuple(layer for layer in layers if layer is not None)


def _details(faults: Faults) -> Iterator[InitErrorDetails]:
    for path, told in faults:
        yield InitErrorDetails(type=told, loc=path, input=None)


def _entry(index: int, entry: Any, faults: list[InitErrorDetails]) -> LayerSpec | None:
    try:
        made: LayerSpec = LAYER_ENTRY.validate(entry)
    except PydanticCustomError as error:
        faults.append(InitErrorDetails(type=error, loc=(index,), input=entry))
    except ValidationError as error:
        for e in error.errors(include_url=False):
            told = PydanticCustomError(e["type"], "{message}", e["ctx"])
            faults.append(InitErrorDetails(type=told, loc=(index, *e["loc"]), input=entry))
    else:
        return made
    return None


def _names(entries: Sequence[Any]) -> tuple[list[str], Faults]:
    """Give every entry its name, automatic ones <type>_<n> counted over all of the type, and find double ones."""
    counts: dict[str, int] = {}
    names, written = [], []
    for entry in entries:
        given = entry if isinstance(entry, Mapping) else dict(entry) if isinstance(entry, LayerSpec) else {}
        kind, name = given.get("type"), given.get("name")
        if isinstance(kind, str):
            counts[kind] = counts.get(kind, 0) + 1
        written.append(isinstance(name, str) and name != "")
        automatic = f"{kind}_{counts[kind]}" if isinstance(kind, str) else ""
        names.append(name if isinstance(name, str) and name else automatic)

    def doubles() -> Faults:
        owner: dict[str, int] = {}
        for index in sorted(range(len(names)), key=lambda i: (not written[i], i)):
            first = owner.setdefault(names[index], index)
            if first != index and names[index]:
                yield _double_name(index, names[index], first, written[index])

    return names, doubles()


def _double_name(index: int, name: str, first: int, written: bool) -> tuple[tuple[PathKey, ...], PydanticCustomError]:
    if written:
        message = f'the name "{name}" is taken by layers[{first}]; names are unique among siblings, choose another'
        return (index, "name"), fault(message, "duplicate_name")
    message = f'the automatic name "{name}" is taken by layers[{first}]; give this layer a name of its own'
    return (index,), fault(message, "duplicate_name")


def _resolved(layers: Sequence[LayerSpec | None]) -> list[LayerSpec | None]:
    """Fill in the defaults that depend on the next activation, looking past transparent layers."""
    resolved: list[LayerSpec | None] = []
    following: LayerSpec | None = None
    for layer in reversed(layers):
        activation = following if following is not None and following.activation else None
        resolved.append(layer and layer.resolve(activation))
        if layer is None or not layer.transparent:
            following = layer
    return resolved[::-1]


def _fold_faults(layers: Sequence[LayerSpec | None], input_shape: ShapeTuple) -> Faults:
    """Follow the shapes as far as the layers are valid."""
    shape, total = input_shape, 0
    for index, layer in enumerate(layers):
        if layer is None:
            return
        try:
            parameters = layer.parameters(shape)
            shape = layer.output_shape(shape)
        except ShapeError as error:
            yield (index,), fault(str(error), "shape")
            return
        total += sum(size_of(p.shape) for p in parameters.values())
        place = (index, layer.width_field) if layer.width_field else (index,)
        if total > MAX_ELEMENTS or size_of(shape) > MAX_ELEMENTS:
            what = f"{total} parameters" if total > MAX_ELEMENTS else f"an output of shape {shape}"
            yield place, fault(f"expected at most 2^31 = {MAX_ELEMENTS} elements, got {what}", "too_large")
            return
        for parameter in parameters.values():
            wrong = initializers.shape_fault(parameter.initializer, parameter.shape)
            if wrong:
                field, message = wrong
                yield (index, parameter.field, field) if field else (index, parameter.field), fault(message, "shape")


def _number_faults(layers: Sequence[LayerSpec | None], dtype: np.dtype[Any]) -> Faults:
    """Find the numbers that the model's dtype cannot hold."""
    for index, layer in enumerate(layers):
        for field, value in layer or ():
            if isinstance(value, float):
                yield from _overflow(value, dtype, (index, field))
            elif isinstance(value, Document):
                for inner, number in initializers.numbers_of(value):
                    yield from _overflow(number, dtype, (index, field, inner))


def _overflow(number: float, dtype: np.dtype[Any], path: tuple[PathKey, ...]) -> Faults:
    if abs(number) > float(np.finfo(dtype).max):
        yield path, fault(f"expected numbers that {dtype.name} can hold, got {number!r}", "overflow")


def _json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise mismatch("an object", value, "wrong_type")
    made: dict[str, Any] = _json_value(value, 0)
    return made


def _json_value(value: Any, depth: int) -> Any:
    if depth > 64:
        message = "expected at most 64 levels of nesting, got more"
        raise fault(message, "too_deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            message = "expected keys that are strings, as JSON has no others"
            raise fault(message, "wrong_type")
        return {encodable(key): _json_value(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(entry, depth + 1) for entry in value]
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0
    raise mismatch("what JSON can hold", value, "wrong_type")


def format_version(expected: str) -> BeforeValidator:
    """Annotate a `format` key: this very name and version, with a word for a newer one."""
    family = expected.partition("/")[0]

    def validate(value: Any) -> str:
        if isinstance(value, str) and value == expected:
            return expected
        if isinstance(value, str) and re.fullmatch(rf"{family}/[1-9][0-9]*", value):
            message = f'this specnet reads "{expected}", the document is written for "{value}"; install a newer specnet'
            raise fault(message, "newer_format")
        raise mismatch(f'"{expected}"', value)

    return BeforeValidator(validate)


PLACEHOLDER = "specnet definition"
"""Stands in a generated schema for a reference to a definition that schema.py adds."""

_LAYERS_SCHEMA = {"type": "array", "minItems": 1, "items": {PLACEHOLDER: "layer"}}


class ModelSpec(Document):
    """A model document, normalized: names and defaults are filled in, so equal models have equal documents.

    `ModelSpec(input_shape=…, layers=[…])` and `load_spec(path)` make one; both raise SpecError.
    """

    model_config = ConfigDict(
        title="specnet model",
        json_schema_extra={"description": "A neural network: its input and its sequence of layers."},
    )

    schema_: Text = Field("", alias="$schema")
    """Where the JSON Schema of this document lies, for editors."""
    format: Annotated[str, format_version(MODEL_FORMAT), WithJsonSchema({"const": MODEL_FORMAT, "type": "string"})] = (
        MODEL_FORMAT
    )
    """Kind and version of the document."""
    name: Text = "model"
    """What people call the model."""
    description: Text = ""
    """What the model is for."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of every parameter and intermediate array."""
    seed: Seed = 0
    """Decides the initial weights, and dropout where no experiment gives another seed."""
    input_shape: Shape = Field(examples=[[64], [28, 28]])
    """Shape of one input, without the batch axis."""
    layers: Annotated[tuple[LayerSpec, ...], _LayerList(), WithJsonSchema(_LAYERS_SCHEMA)]
    """The layers, first to last."""
    labels: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = ()
    """Names of the output classes, in the order of the outputs."""
    metadata: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(default_factory=dict)
    """Anything else: the one place for keys of your own."""

    @field_validator("input_shape")
    @classmethod
    def _bounded(cls, shape: ShapeTuple) -> ShapeTuple:
        if size_of(shape) > MAX_ELEMENTS:
            message = f"expected at most 2^31 = {MAX_ELEMENTS} elements, got shape {shape}"
            raise fault(message, "too_large")
        return shape

    @field_validator("labels")
    @classmethod
    def _unique(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for index, label in enumerate(labels):
            if label in seen:
                told = fault(f"{describe(label)} stands here a second time", "duplicate_name")
                detail = InitErrorDetails(type=told, loc=(index,), input=label)
                raise ValidationError.from_exception_data("labels", [detail])
            seen.add(label)
        return labels

    @field_validator("labels")
    @classmethod
    def _as_many_as_classes(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if labels and "layers" in info.data and "input_shape" in info.data:
            width = list(fold(info.data["layers"], info.data["input_shape"]))[-1].output_shape[-1]
            if len(labels) != max(width, 2):
                message = f"expected {max(width, 2)} names, one a class of the output, got {len(labels)}"
                raise fault(message, "wrong_value")
        return labels

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        optional = ("$schema", "schema_", "description", "labels", "metadata")
        return {key: value for key, value in written.items() if value or key not in optional}

    @property
    def output_shape(self) -> ShapeTuple:
        """Shape of one output, without the batch axis."""
        return self.shapes()[-1].output_shape

    @property
    def parameter_count(self) -> int:
        """Number of trained elements."""
        return sum(size_of(p.shape) for p in self.parameter_specs().values())

    @property
    def identity(self) -> str:
        """SHA-256, in hex, of what decides the function computed: the document without names and notes of people."""
        return identity_of(self.model_dump(mode="json"))

    def plan(self) -> ModelPlan:
        """Say how the network is put together."""
        layers = []
        for layer, input_shape, output_shape in self.shapes():
            parameters = {name: p.shape for name, p in layer.parameters(input_shape).items()}
            buffers = layer.buffers(input_shape)
            layers.append(LayerPlan(layer.name, input_shape, output_shape, parameters, buffers, layer.build))
        return ModelPlan(self.name, self.dtype, self.seed, self.input_shape, tuple(layers), lambda: self)

    def shapes(self) -> list[LayerShapes]:
        """List the layers with the shapes that flow through them."""
        return list(fold(self.layers, self.input_shape))

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Map full names, `hidden.weight`, in document order, to what is known of each parameter."""
        return {
            f"{layer.spec.name}.{name}": parameter
            for layer in self.shapes()
            for name, parameter in layer.spec.parameters(layer.input_shape).items()
        }

    def to_json(self) -> str:
        """Write the normalized document, indented, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    def with_seed(self, seed: int) -> Self:
        """Give the same document with another seed. Raises SpecError."""
        return self.model_validate({**dict(self.model_dump()), "seed": seed})


def fold(layers: Sequence[LayerSpec], input_shape: ShapeTuple) -> Iterator[LayerShapes]:
    """Follow the shapes through the layers."""
    shape = input_shape
    for layer in layers:
        output_shape = layer.output_shape(shape)
        yield LayerShapes(layer, shape, output_shape)
        shape = output_shape


def load_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read a model document.

    Raises SpecError, which lists every problem with file, line and column.
    """
    return ModelSpec.from_file(path)
