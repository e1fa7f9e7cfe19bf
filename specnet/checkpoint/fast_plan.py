"""Convert the document in a checkpoint to the plan of its network, without Pydantic if the document is simple enough.

Importing Pydantic and building its models takes longer than importing numpy and loading the file. A normalized
document of built-in layers is therefore checked against the JSON Schema that those models generate. A document that
this fast path does not accept goes through full validation, which also produces the error messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.arrays.tokens import size_fault, vocabulary_fault
from specnet.checkpoint.plugins import missing_plugins
from specnet.checkpoint.schema_check import accepts
from specnet.composite import Composite
from specnet.document.json_text import parse_json
from specnet.errors import CheckpointCorruptError, CheckpointUnsupportedError, ShapeError, SpecError
from specnet.layers import built_in
from specnet.plan import (
    MAX_LAYERS,
    MAX_NAME,
    LayerPlan,
    ModelPlan,
    Planner,
    element_limit,
    fold,
    identity_of,
    plan_layer,
)

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

MODERATE = 1e30
"""Numbers up to this magnitude fit every dtype; full validation checks larger ones."""


_UNSUPPORTED = ("unknown_layer", "plugin", "newer_format")


MAX_FAST_NESTING = 8
"""Levels of arrays in layers; full validation checks deeper nesting."""


def read_plan(
    text: bytes, identity: str, source: str, plugins: bytes = b""
) -> tuple[ModelPlan, Callable[[], ModelSpec]]:
    """Return the plan of the network in a checkpoint's document, and a function that returns the document.

    `identity` is the model_sha256 of the file, `source` begins the messages, `plugins` is the file's record of the
    packages it needs. Raises CheckpointCorruptError, and CheckpointUnsupportedError if a layer type is not installed
    or the format is newer.
    """
    document = cache(partial(_validate, text, source, plugins))
    plan = _fast_plan(text, identity)
    if plan is None:
        spec = document()
        stored = parse_json(text).value
        current_format = stored.get("format", spec.format) == spec.format
        if (spec.identity if current_format else identity_of(stored)) != identity:
            msg = f"{source}: model_sha256 does not match this document; the file is damaged"
            raise CheckpointCorruptError(msg)
        plan = spec.plan()
    return plan, document


def _validate(text: bytes, source: str, plugins: bytes) -> ModelSpec:
    from specnet.spec.model_spec import ModelSpec  # noqa: PLC0415 - the fast path avoids this import

    try:
        return ModelSpec.from_text(text, source)
    except SpecError as error:
        unsupported = any(problem.code in _UNSUPPORTED for problem in error.problems)
        error_type = CheckpointUnsupportedError if unsupported else CheckpointCorruptError
        lines = error.lines()
        if unsupported and plugins:
            advice = missing_plugins(plugins, _unknown_types(parse_json(text).value))
            replaced = tuple(f'unknown layer type "{name}"' for name in advice)
            lines = [line for line in lines if not any(part in line for part in replaced)]
            lines = [*(f"{source}: {remedy}" for remedy in advice.values()), *lines]
        raise error_type("; ".join(lines)) from None


def _unknown_types(value: Any) -> Iterator[str]:
    """Yield the layer types anywhere in a document that are not built in."""
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and built_in(kind) is None:
            yield kind
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _unknown_types(inner)


def _fast_plan(text: bytes, identity: str) -> ModelPlan | None:
    """Return the plan of a document that full validation is certain to accept unchanged; None if it may not."""
    try:
        parsed = parse_json(text)
    except SpecError:
        return None
    document = parsed.value
    if parsed.findings or not isinstance(document, dict) or not _is_shallow(document.get("layers"), MAX_FAST_NESTING):
        return None
    if not accepts(document, _load_schema()) or not _is_normalized(document) or identity_of(document) != identity:
        return None
    input_shape = tuple(document["input_shape"])
    try:
        layers = tuple(fold(_make_planners([document["layers"]])[0], input_shape))
    except ShapeError:
        return None
    total = sum(size_of(shape) for layer in layers for shape in layer.parameters.values())
    if max(total, size_of(input_shape), *_output_sizes(layers)) > element_limit():
        return None
    labels, width = document.get("labels", ()), layers[-1].output_shape[-1]
    if labels and (len(labels) != max(width, 2) or len(set(labels)) != len(labels)):
        return None
    tokenizer, limit = document.get("tokenizer"), layers[0].input_limit
    if tokenizer is not None and not (isinstance(tokenizer, dict) and _is_tokenizer(tokenizer, limit, input_shape)):
        return None
    return ModelPlan(document["name"], document["dtype"], document["seed"], input_shape, layers)


def _is_tokenizer(tokenizer: dict[str, Any], limit: int | None, input_shape: ShapeTuple) -> bool:
    vocabulary = tokenizer.get("vocabulary", ())
    fits = not size_fault(vocabulary, limit, len(input_shape))
    return fits and vocabulary_fault(tokenizer["type"], vocabulary) is None


def _is_shallow(entries: Any, levels: int) -> bool:
    """Return whether arrays in layers nest at most `levels` deep, so that walking them is fast and safe."""
    if not isinstance(entries, list):
        return True
    values = [value for entry in entries if isinstance(entry, dict) for value in entry.values()]
    arrays = [value for value in values if isinstance(value, list)]
    inner_arrays = [entry for array in arrays for entry in array if isinstance(entry, list)]
    return not arrays or (levels > 0 and all(_is_shallow(array, levels - 1) for array in arrays + inner_arrays))


@cache
def _load_schema() -> dict[str, Any]:
    file = Path(__file__).with_name("model.schema.json")  # not importlib.resources, which takes 9 ms to import
    schema: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return schema


@cache
def _load_layer_keys() -> dict[str, set[str]]:
    branches = [branch["then"]["properties"] for branch in _load_schema()["$defs"]["layer"]["allOf"]]
    return {properties["type"]["const"]: set(properties) for properties in branches}


def _is_normalized(document: dict[str, Any]) -> bool:
    """Return whether all defaults are filled in and all values are far from their limits."""
    if any(isinstance(value, (dict, list)) for value in document.get("metadata", {}).values()):
        return False
    first = document["layers"][0]
    if not {"format", "name", "dtype", "seed"} <= document.keys() or not _are_simple([document["layers"]], first=first):
        return False
    kind = built_in(first["type"])
    assert kind is not None
    return not kind.marks_padding(first) or not any(map(_mixes_steps, document["layers"]))


def _mixes_steps(entry: dict[str, Any]) -> bool:
    """Return whether a layer, or one inside it, must not see padding; full validation says whether it does."""
    kind = built_in(entry["type"])
    assert kind is not None
    if issubclass(kind, Composite):
        return any(_mixes_steps(inner) for _, layers in kind.lists(entry) for inner in layers)
    return kind.mask_use == "refused"


def _are_simple(lists: list[list[dict[str, Any]]], first: dict[str, Any] | None = None) -> bool:
    """Return whether the layers in these lists are built in, with distinct names, all keys and ordinary values.

    `first` is the model's first layer; only this layer may take integers or be of a type that must come first.
    """
    entries = [entry for layers in lists for entry in layers]
    names = {entry.get("name") for entry in entries}
    if len(names) != len(entries) or len(entries) > MAX_LAYERS:
        return False
    for entry in entries:
        kind = built_in(entry["type"])
        if kind is None or entry.keys() != _load_layer_keys()[entry["type"]] or not _has_safe_values(entry):
            return False
        if len(entry["name"]) > MAX_NAME:  # of a second layer that a composite adds
            return False
        if issubclass(kind, Composite):
            if not kind.is_valid(entry) or not _are_simple([inner for _, inner in kind.lists(entry)]):
                return False
        elif entry is not first and (kind.input_limit(entry) is not None or kind.must_be_first(entry)):
            return False
    return True


def _has_safe_values(entry: dict[str, Any]) -> bool:
    """Return whether the numbers of a layer fit every dtype and its initializers fit every shape."""
    for key, value in entry.items():
        if isinstance(value, float) and abs(value) > MODERATE:
            return False
        if isinstance(value, dict) and (value["type"] not in ("normal", "constant") or not _has_safe_values(value)):
            return False
        if isinstance(value, list) and not all(abs(number) < MODERATE for number in value if isinstance(number, float)):
            return False
        if key == "bias_init" and value == "orthogonal":
            return False
    return True


def _make_planners(lists: list[list[dict[str, Any]]]) -> list[list[Planner]]:
    return [[partial(_plan_layer, entry) for entry in entries] for entries in lists]


def _plan_layer(entry: dict[str, Any], input_shape: ShapeTuple) -> LayerPlan:
    """Plan a layer that `_are_simple` accepts."""
    kind = built_in(entry["type"])
    assert kind is not None
    if issubclass(kind, Composite):
        return kind.plan(entry["name"], _make_planners([inner for _, inner in kind.lists(entry)]), input_shape)
    fields = {key: value for key, value in entry.items() if key not in ("type", "name")}
    return plan_layer(kind, entry["name"], fields, input_shape)


def _output_sizes(layers: Iterable[LayerPlan]) -> Iterator[int]:
    for layer in layers:
        yield size_of(layer.output_shape)
        yield from _output_sizes(layer.layers)
