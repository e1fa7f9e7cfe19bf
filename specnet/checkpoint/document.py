"""The document in a checkpoint, to the plan of its network; where it is plainly in order, without Pydantic.

Importing Pydantic and making its models takes longer than importing numpy and loading the file. So a normalized
document of built-in layers is held against the JSON Schema that those models generate, and only one that passes
there, and everything that is out of the ordinary, goes through full validation, which also words the refusal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from specnet.checkpoint.schema_check import accepts
from specnet.errors import CheckpointCorruptError, CheckpointUnsupportedError, ShapeError, SpecError
from specnet.jsontext import parse_json
from specnet.layer import size_of
from specnet.layers import built_in
from specnet.parameters import ShapeTuple
from specnet.plan import MAX_ELEMENTS, MAX_LAYERS, LayerPlan, ModelPlan, identity_of

if TYPE_CHECKING:
    from specnet.spec import ModelSpec

MODERATE = 1e30
"""Numbers up to here fit every dtype; beyond, full validation decides."""


def read_plan(text: bytes, identity: str, source: str) -> ModelPlan:
    """Say how the network of a checkpoint's document is put together.

    `identity` is the model_sha256 of the file, `source` begins the messages. Raises CheckpointCorruptError, and
    CheckpointUnsupportedError for layer types that are not installed and newer formats.
    """
    spec = partial(_validated, text, source)
    plan = _plain_plan(text, identity, spec)
    if plan is None:
        full = spec()
        if full.identity != identity:
            msg = f"{source}: model_sha256 is not the identity of this document; the file is damaged"
            raise CheckpointCorruptError(msg)
        plan = full.plan()
    return plan


def _validated(text: bytes, source: str) -> ModelSpec:
    from specnet.spec import ModelSpec  # noqa: PLC0415 - what this module is there to avoid

    try:
        return ModelSpec.from_text(text, source)
    except SpecError as error:
        unknown = any(problem.code in ("unknown_layer", "newer_format") for problem in error.problems)
        kind = CheckpointUnsupportedError if unknown else CheckpointCorruptError
        raise kind("; ".join(error.lines())) from None


def _plain_plan(text: bytes, identity: str, spec: partial[ModelSpec]) -> ModelPlan | None:
    """Give the plan of a document that full validation is sure to accept unchanged; None where that is not plain."""
    try:
        parsed = parse_json(text)
    except SpecError:
        return None
    document = parsed.value
    if parsed.findings or not accepts(document, _schema()) or not _normalized(document):
        return None
    names = [entry["name"] for entry in document["layers"]]
    if len(set(names)) != len(names) or not _moderate(document) or identity_of(document) != identity:
        return None
    try:
        layers = tuple(_fold(document["layers"], tuple(document["input_shape"])))
    except (ShapeError, LookupError):
        return None
    labels, width = document.get("labels", ()), layers[-1].output_shape[-1]
    if labels and (len(labels) != max(width, 2) or len(set(labels)) != len(labels)):
        return None
    return ModelPlan(
        document["name"], document["dtype"], document["seed"], tuple(document["input_shape"]), layers, spec
    )


@cache
def _schema() -> dict[str, Any]:
    file = resources.files("specnet.checkpoint") / "model.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return schema


@cache
def _layer_keys() -> dict[str, set[str]]:
    branches = [branch["then"]["properties"] for branch in _schema()["$defs"]["layer"]["allOf"]]
    return {properties["type"]["const"]: set(properties) for properties in branches}


def _normalized(document: dict[str, Any]) -> bool:
    """Whether nothing is left to be filled in."""
    return {"format", "name", "dtype", "seed"} <= document.keys() and all(
        entry.keys() == _layer_keys()[entry["type"]] for entry in document["layers"]
    )


def _moderate(document: dict[str, Any]) -> bool:
    """Whether all is far from limits: numbers, nesting, and initializers that are names and fit every shape."""
    if any(isinstance(value, (dict, list)) for value in document.get("metadata", {}).values()):
        return False
    if len(document["layers"]) > MAX_LAYERS:
        return False
    for entry in document["layers"]:
        for key, value in entry.items():
            if isinstance(value, float) and abs(value) > MODERATE:
                return False
            if isinstance(value, dict) or (key == "bias_init" and value == "orthogonal"):
                return False
    return True


def _fold(layers: list[dict[str, Any]], input_shape: ShapeTuple) -> Iterator[LayerPlan]:
    """Follow the shapes through the layers. Raises LookupError for what is not built in, missing or too large."""
    shape, total = input_shape, 0
    for entry in layers:
        kind = built_in(entry["type"])
        if kind is None:
            raise LookupError
        fields: Mapping[str, Any] = {key: value for key, value in entry.items() if key not in ("type", "name")}
        parameters, output_shape = kind.infer(fields, shape)
        total += sum(map(size_of, parameters.values()))
        if max(total, size_of(shape), size_of(output_shape)) > MAX_ELEMENTS:
            raise LookupError
        make = partial(kind.from_document, fields)
        yield LayerPlan(entry["name"], shape, output_shape, parameters, kind.infer_buffers(fields, shape), make)
        shape = output_shape
