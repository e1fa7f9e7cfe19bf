"""The document in a checkpoint, to the plan of its network; where it is plainly in order, without Pydantic.

Importing Pydantic and making its models takes longer than importing numpy and loading the file. So a normalized
document of built-in layers is held against the JSON Schema that those models generate, and only one that passes
there, and everything that is out of the ordinary, goes through full validation, which also words the refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.checkpoint.plugins import missing_plugins
from specnet.checkpoint.schema_check import accepts
from specnet.composite import Composite
from specnet.document.json_text import parse_json
from specnet.errors import CheckpointCorruptError, CheckpointUnsupportedError, ShapeError, SpecError
from specnet.layers import built_in
from specnet.plan import MAX_LAYERS, LayerPlan, ModelPlan, Planner, element_limit, fold, identity_of, plan_layer

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

MODERATE = 1e30
"""Numbers up to here fit every dtype; beyond, full validation decides."""


_UNSUPPORTED = ("unknown_layer", "plugin", "newer_format")


PLAIN_COMPOSITES = 8
"""Deeper nesting of arrays in layers is left to full validation."""


def read_plan(
    text: bytes, identity: str, source: str, plugins: bytes = b""
) -> tuple[ModelPlan, Callable[[], ModelSpec]]:
    """Return the plan of the network in a checkpoint's document, and a function that returns the document.

    `identity` is the model_sha256 of the file, `source` begins the messages, `plugins` is the file's record of the
    packages it needs. Raises CheckpointCorruptError, and
    CheckpointUnsupportedError for layer types that are not installed and newer formats.
    """
    document = cache(partial(_validated, text, source, plugins))
    plan = _plain_plan(text, identity)
    if plan is None:
        full = document()
        written = parse_json(text).value
        of_this_version = written.get("format", full.format) == full.format
        if (full.identity if of_this_version else identity_of(written)) != identity:
            msg = f"{source}: model_sha256 is not the identity of this document; the file is damaged"
            raise CheckpointCorruptError(msg)
        plan = full.plan()
    return plan, document


def _validated(text: bytes, source: str, plugins: bytes) -> ModelSpec:
    from specnet.spec.model_spec import ModelSpec  # noqa: PLC0415 - what this module is there to avoid

    try:
        return ModelSpec.from_text(text, source)
    except SpecError as error:
        unknown = any(problem.code in _UNSUPPORTED for problem in error.problems)
        kind = CheckpointUnsupportedError if unknown else CheckpointCorruptError
        lines = error.lines()
        if unknown and plugins:
            advice = missing_plugins(plugins, _types(parse_json(text).value))
            known = tuple(f'unknown layer type "{name}"' for name in advice)
            lines = [line for line in lines if not any(told in line for told in known)]
            lines = [*(f"{source}: {told}" for told in advice.values()), *lines]
        raise kind("; ".join(lines)) from None


def _types(value: Any) -> Iterator[str]:
    """Yield the layer types that stand anywhere in a document and are not built in."""
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and built_in(kind) is None:
            yield kind
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _types(inner)


def _plain_plan(text: bytes, identity: str) -> ModelPlan | None:
    """Give the plan of a document that full validation is sure to accept unchanged; None where that is not plain."""
    try:
        parsed = parse_json(text)
    except SpecError:
        return None
    document = parsed.value
    if parsed.findings or not isinstance(document, dict) or not _shallow(document.get("layers"), PLAIN_COMPOSITES):
        return None
    if not accepts(document, _schema()) or not _normalized(document) or identity_of(document) != identity:
        return None
    input_shape = tuple(document["input_shape"])
    try:
        layers = tuple(fold(_planners([document["layers"]])[0], input_shape))
    except ShapeError:
        return None
    total = sum(size_of(shape) for layer in layers for shape in layer.parameters.values())
    if max(total, size_of(input_shape), *_output_sizes(layers)) > element_limit():
        return None
    labels, width = document.get("labels", ()), layers[-1].output_shape[-1]
    if labels and (len(labels) != max(width, 2) or len(set(labels)) != len(labels)):
        return None
    return ModelPlan(document["name"], document["dtype"], document["seed"], input_shape, layers)


def _shallow(entries: Any, levels: int) -> bool:
    """Whether composites are nested to few levels, so that walking them is quick and safe."""
    if not isinstance(entries, list):
        return True
    inside = [value for entry in entries if isinstance(entry, dict) for value in entry.values()]
    nested = [value for value in inside if isinstance(value, list)]
    deeper = [entry for value in nested for entry in value if isinstance(entry, list)]
    return not nested or (levels > 0 and all(_shallow(value, levels - 1) for value in nested + deeper))


@cache
def _schema() -> dict[str, Any]:
    file = Path(__file__).with_name("model.schema.json")  # importlib.resources takes 9 ms to import
    schema: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return schema


@cache
def _layer_keys() -> dict[str, set[str]]:
    branches = [branch["then"]["properties"] for branch in _schema()["$defs"]["layer"]["allOf"]]
    return {properties["type"]["const"]: set(properties) for properties in branches}


def _normalized(document: dict[str, Any]) -> bool:
    """Whether nothing is left to be filled in, and all is far from limits."""
    if any(isinstance(value, (dict, list)) for value in document.get("metadata", {}).values()):
        return False
    return {"format", "name", "dtype", "seed"} <= document.keys() and _plain(
        [document["layers"]], first=document["layers"][0]
    )


def _plain(lists: list[list[dict[str, Any]]], first: dict[str, Any] | None = None) -> bool:
    """Whether the layers of these lists have different names and all their keys, none of them out of the ordinary.

    `first` is the model's first layer, which alone may be one that has to be the first.
    """
    entries = [entry for layers in lists for entry in layers]
    names = {entry.get("name") for entry in entries}
    if len(names) != len(entries) or len(entries) > MAX_LAYERS:
        return False
    for entry in entries:
        kind = built_in(entry["type"])
        if kind is None or entry.keys() != _layer_keys()[entry["type"]] or not _moderate(entry):
            return False
        if issubclass(kind, Composite):
            if not _plain([inner for _, inner in kind.lists(entry)]):
                return False
        elif entry is not first and (kind.input_limit(entry) is not None or kind.must_be_first(entry)):
            return False
    return True


def _moderate(entry: dict[str, Any]) -> bool:
    """Whether numbers fit every dtype, and initializers are names that fit every shape."""
    for key, value in entry.items():
        if isinstance(value, float) and abs(value) > MODERATE:
            return False
        if isinstance(value, dict) and (value["type"] not in ("normal", "constant") or not _moderate(value)):
            return False
        if isinstance(value, list) and not all(abs(number) < MODERATE for number in value if isinstance(number, float)):
            return False
        if key == "bias_init" and value == "orthogonal":
            return False
    return True


def _planners(lists: list[list[dict[str, Any]]]) -> list[list[Planner]]:
    return [[partial(_plan_layer, entry) for entry in entries] for entries in lists]


def _plan_layer(entry: dict[str, Any], input_shape: ShapeTuple) -> LayerPlan:
    """Plan one layer, which is plain."""
    kind = built_in(entry["type"])
    assert kind is not None
    if issubclass(kind, Composite):
        return kind.plan(entry["name"], _planners([inner for _, inner in kind.lists(entry)]), input_shape)
    fields = {key: value for key, value in entry.items() if key not in ("type", "name")}
    return plan_layer(kind, entry["name"], fields, input_shape)


def _output_sizes(layers: Iterable[LayerPlan]) -> Iterator[int]:
    for layer in layers:
        yield size_of(layer.output_shape)
        yield from _output_sizes(layer.layers)
