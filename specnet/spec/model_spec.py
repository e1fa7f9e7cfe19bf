"""The model document. ModelSpec is its normalized form, an immutable value that infers every shape before building."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

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
    model_validator,
)
from pydantic_core import InitErrorDetails, core_schema

import specnet.spec.layers  # noqa: F401 - registers the built-in layers
from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.arrays.tokens import size_fault
from specnet.composite import dotted
from specnet.document.base import Document
from specnet.document.json_places import MAX_INTEGER
from specnet.document.messages import describe, details, encodable, first_duplicate, mismatch, problem
from specnet.document.migrations import check_format, format_of, migrated
from specnet.fields import Seed, Shape, Text, as_tuple
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.plan import LayerPlan, ModelPlan, fold, identity_of
from specnet.spec.checks import ShapeFollower, limit_of_elements, name_faults, number_faults, place_faults, too_large
from specnet.spec.composite_spec import LAYERS_SCHEMA, CompositeSpec, LayerReader
from specnet.spec.layer_table import html_table, layer_rows, multiply_adds_of
from specnet.spec.siblings import name_siblings, resolve_defaults
from specnet.spec.tokenizer_spec import Tokenizer

FAMILY = "specnet-model"


MODEL_FORMAT = format_of(FAMILY)


class _Layers:
    """Annotation of `layers`: checks entries, names, positions, numbers and shapes, and reports all faults at once."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def validate(self, value: Any, info: ValidationInfo) -> tuple[LayerSpec, ...]:
        reader = LayerReader()
        entries = reader.read_list(value, (), 0)
        if entries is not None:
            (names,), duplicates = name_siblings([(("layers",), value)])
            reader.faults += details((path[1:], error) for path, error in duplicates)
            entries = resolve_defaults(entries, names)
            faults = [number_faults(entries, np.dtype(info.data.get("dtype", "float64")))]
            faults += [place_faults(entries), name_faults(entries)]
            if "input_shape" in info.data:
                faults.append(ShapeFollower().faults(entries, info.data["input_shape"]))
            # Once each: a layer that stands for two, as in bidirectional, has the same faults twice.
            once = {(path, error.type): error for path, error in chain.from_iterable(faults)}
            reader.faults += details((path, error) for (path, _), error in once.items())
        reader.raise_faults("layers")
        return tuple(entries)  # type: ignore[arg-type]  # without faults every entry is a layer


def _json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise mismatch("an object", value, "wrong_type")
    checked: dict[str, Any] = _json_value(value, 0)
    return checked


def _json_value(value: Any, depth: int) -> Any:
    """Return a JSON value, with lists for tuples and 0.0 for -0.0; rejects all other values.

    Changes containers in place: a Document has copied those from Python, and nobody else has those of a text.
    """
    kind = type(value)
    if kind is str:
        return encodable(value)
    if kind is int and abs(value) <= MAX_INTEGER:
        return value
    if kind is float and math.isfinite(value):
        return value + 0.0
    if value is None or kind is bool:
        return value
    if kind not in (dict, list, tuple):
        base = next((base for base in (str, int, float) if isinstance(value, base) and kind is not base), None)
        if base is None:
            raise mismatch("a JSON value", value, "wrong_type")
        return _json_value(base(value), depth)
    if depth > 64:
        message = "expected at most 64 levels of nesting, got more"
        raise problem(message, "too_deep")
    if kind is tuple:
        value = list(value)
    for key, entry in value.items() if kind is dict else enumerate(value):
        if kind is dict:
            if not isinstance(key, str):
                message = "expected only strings as keys, got others; JSON has only string keys"
                raise problem(message, "wrong_type")
            encodable(key)
        value[key] = _json_value(entry, depth + 1)
    return value


class ModelSpec(Document):
    """A normalized model document: names and defaults are filled in, so equal models have equal documents.

    Create one with `ModelSpec(input_shape=…, layers=[…])` or `load_spec(path)`. Both raise SpecError.
    """

    model_config = ConfigDict(
        title="specnet model",
        json_schema_extra={"description": "A neural network: its input and its sequence of layers."},
    )

    schema_: Text = Field(default="", alias="$schema")
    """Location of the JSON Schema of this document, for editors."""
    format: Annotated[
        str,
        BeforeValidator(lambda value: check_format(value, FAMILY)),
        WithJsonSchema({"const": MODEL_FORMAT, "type": "string"}),
    ] = MODEL_FORMAT
    """Format name and version of the document."""
    name: Text = "model"
    """Name of the model, for readers."""
    description: Text = ""
    """Purpose of the model."""
    dtype: Literal["float32", "float64"] = "float32"
    """Dtype of every parameter and intermediate array."""
    seed: Seed = 0
    """Seed of the initial weights, and of dropout if no experiment sets another seed."""
    input_shape: Shape = Field(examples=[[64], [28, 28]])
    """Shape of one input, without the batch axis."""
    layers: Annotated[tuple[LayerSpec, ...], _Layers(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, from first to last."""
    labels: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = ()
    """Names of the output classes, in output order."""
    tokenizer: Tokenizer = Field(default=None, examples=["characters", {"type": "words"}])
    """How text becomes the integers that the first layer, an embedding, takes: "characters", "words" or an object."""
    metadata: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(default_factory=dict)
    """Any object; the only place for additional keys."""

    if TYPE_CHECKING:  # Pydantic's signature accepts neither lists nor layers as mappings

        def __init__(
            self,
            *,
            input_shape: Sequence[int],
            layers: Sequence[LayerSpec | Mapping[str, Any]],
            name: str = ...,
            description: str = ...,
            dtype: Literal["float32", "float64"] = ...,
            seed: int = ...,
            labels: Sequence[str] = ...,
            tokenizer: str | Mapping[str, Any] | None = ...,
            metadata: Mapping[str, Any] = ...,
            format: str = ...,  # noqa: A002
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, data: Any) -> Any:
        return migrated(data, FAMILY)

    @field_validator("input_shape")
    @classmethod
    def _check_size(cls, shape: ShapeTuple) -> ShapeTuple:
        if size_of(shape) > limit_of_elements():
            raise too_large(f"shape {shape}")
        return shape

    @field_validator("labels")
    @classmethod
    def _check_unique(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        ordered = sorted(labels)  # not a set, which takes as much memory as the text
        if any(label == after for label, after in pairwise(ordered)):
            duplicate = first_duplicate(labels)
            index = labels.index(duplicate or "", labels.index(duplicate or "") + 1)
            error = problem(f"{describe(duplicate)} appears a second time; labels must be unique", "duplicate_name")
            detail = InitErrorDetails(type=error, loc=(index,), input=duplicate)
            raise ValidationError.from_exception_data("labels", [detail])
        return labels

    @field_validator("labels")
    @classmethod
    def _check_number(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if labels and "layers" in info.data and "input_shape" in info.data:
            *_, last = fold((layer.plan for layer in info.data["layers"]), info.data["input_shape"])
            width = last.output_shape[-1]
            if len(labels) != max(width, 2):
                message = f"expected {max(width, 2)} names, one per class of the output, got {len(labels)}"
                raise problem(message, "wrong_value")
        return labels

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, tokenizer: Tokenizer, info: ValidationInfo) -> Tokenizer:
        if tokenizer is not None and info.data.get("layers") and "input_shape" in info.data:
            shape = info.data["input_shape"]
            limit = info.data["layers"][0].plan(shape).input_limit
            fault = size_fault(tokenizer.vocabulary, limit, len(shape))
            if fault:
                raise problem(fault, "wrong_value")
        return tokenizer

    @model_serializer(mode="wrap")
    def _omit_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        optional = ("$schema", "schema_", "description", "labels", "tokenizer", "metadata")
        return {key: value for key, value in document.items() if value or key not in optional}

    @property
    def output_shape(self) -> ShapeTuple:
        """Shape of one output, without the batch axis."""
        return self.plan().layers[-1].output_shape

    @property
    def parameter_count(self) -> int:
        """Number of trained elements."""
        return sum(map(size_of, self.plan().parameter_shapes().values()))

    @property
    def multiply_adds(self) -> int:
        """Number of multiplications by a weight, each with its addition, for one input."""
        return multiply_adds_of(self.layers, self.plan().layers)

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256 of what determines the computed function: the document without the `plan.NOTES` keys."""
        return identity_of(self.model_dump(mode="json"))

    def plan(self) -> ModelPlan:
        """Return the plan by which the network is built."""
        layers = tuple(fold((layer.plan for layer in self.layers), self.input_shape))
        return ModelPlan(self.name, self.dtype, self.seed, self.input_shape, layers)

    def walk(self, plan: ModelPlan | None = None) -> Iterator[tuple[str, LayerSpec, LayerPlan]]:
        """Yield (full name, spec, plan) of every layer; a composite comes before the layers inside it.

        A full name is for example `block.hidden`. A caller that has the result of `plan()` can pass it as `plan`.
        """
        yield from _walk(self.layers, (plan or self.plan()).layers, "")

    def parameter_specs(self, plan: ModelPlan | None = None) -> dict[str, ParameterSpec]:
        """Map the full name of each parameter, `hidden.weight`, to its description, in document order."""
        leaves = ((n, s, p) for n, s, p in self.walk(plan) if not isinstance(s, CompositeSpec))
        return dotted((name, spec.parameter_specs(leaf.parameters)) for name, spec, leaf in leaves)

    def __repr__(self) -> str:
        return f"<ModelSpec {self.plan().about(self.parameter_count)}>"

    def _repr_html_(self) -> str:
        """Return an HTML table of the layers for a notebook."""
        about = f"{self.parameter_count:,} parameters, {self.dtype}, {self.multiply_adds:,} multiply-adds per input"
        return html_table(self.name, about, self.input_shape, layer_rows(self.walk()))

    def to_json(self) -> str:
        """Return the normalized document as indented JSON text that ends with a newline."""
        return self.model_dump_json(indent=2) + "\n"

    def with_seed(self, seed: int) -> Self:
        """Return the same document with another seed. Raises SpecError."""
        return self.model_validate({**dict(self.model_dump()), "seed": seed})


def _walk(
    specs: Iterable[LayerSpec], plans: Iterable[LayerPlan], prefix: str
) -> Iterator[tuple[str, LayerSpec, LayerPlan]]:
    for spec, plan in zip(specs, plans, strict=True):
        yield f"{prefix}{spec.name}", spec, plan
        if isinstance(spec, CompositeSpec):
            yield from _walk(spec.inside, plan.layers, f"{prefix}{spec.name}.")


def load_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read a model document from a file.

    Raises SpecError, which lists every problem with file, line and column.
    """
    return ModelSpec.from_file(path)
