"""Prints docs/reference.md: every key of the documents and every layer, as the code has them.

python docs/generate_reference.py > docs/reference.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from specnet import ShapeError
from specnet.initializers import NAMES, OBJECTS
from specnet.layerspec import LayerSpec
from specnet.schema import json_schema
from specnet.spec import ModelSpec
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.registry import layer_types
from specnet.training.losses import LOSSES
from specnet.training.metrics import METRICS
from specnet.training.optimizers import OPTIMIZERS
from specnet.training.schedules import SCHEDULES

INPUT_SHAPES = ((5,), (784,))
"""Shapes on which a layer's example is tried, to see what arrays it has."""

HEAD = """\
# Reference

Every key of the documents and every layer. This page is generated (`python docs/generate_reference.py`); the rules that
hold for all of it are in [documents.md](documents.md), those of training in [training.md](training.md).
"""


def page() -> Iterator[str]:
    """Yield the page, part by part."""
    model, experiment = json_schema("model"), json_schema("experiment")
    yield HEAD
    yield "## The model document\n"
    yield table(model)
    yield "## Layers\n"
    yield "Every layer has a `type`, and may have a `name`: " + name_text(model) + "\n"
    yield "Activations work on arrays of any shape; what is said of the last axis holds for any number of axes.\n"
    for branch in model["$defs"]["layer"]["allOf"]:
        kind = branch["then"]["properties"]["type"]["const"]
        yield f"### `{kind}`\n"
        yield from of_layer(layer_types()[kind], branch["then"])
    yield "## Initial values\n"
    yield "A name, " + ", ".join(f"`{name}`" for name in NAMES) + ", or an object:\n"
    yield from choices(OBJECTS)
    yield "## The experiment document\n"
    yield table(experiment)
    for title, definition in (
        ("`data`", "DataSpec"),
        ("`data.train`, `data.validation`", "DataEntry"),
        ("`data.validation`, or", "Fraction"),
        ("`training`", "TrainingSpec"),
        ("`training.early_stopping`", "EarlyStoppingSpec"),
        ("`training.initialize_from`", "InitializeFrom"),
        ("`training.checkpoint`", "CheckpointPolicy"),
    ):
        yield f"### {title}\n"
        part = experiment["$defs"].get(definition, {})
        yield part.get("description", "") + "\n"
        yield table(part)
    yield "## Losses\n"
    yield "A name, or an object with `type` and its keys.\n"
    yield from choices(LOSSES)
    yield "## Optimizers\n"
    yield "A name, or an object with `type` and its keys.\n"
    yield from choices(OPTIMIZERS)
    yield "## Schedules\n"
    yield "A name, or an object with `type` and its keys.\n"
    yield from choices(SCHEDULES)
    yield "## Metrics\n"
    yield "A name, or an object with `type` and its keys.\n"
    yield from choices(METRICS)


def of_layer(cls: type[LayerSpec], schema: dict[str, Any]) -> Iterator[str]:
    """Describe one layer."""
    yield " ".join((cls.__doc__ or "").split()) + "\n"
    rows = table(schema, leave_out=("type", "name"))
    if rows:
        yield rows
    example = schema["examples"][0]
    arrays = arrays_of(cls, example)
    if arrays:
        yield arrays + "\n"
    for shown in schema["examples"]:
        yield f"```json\n{json.dumps(in_order(shown))}\n```\n"


def in_order(example: Any) -> Any:
    """Put the type first, as people write it; a schema's keys are sorted."""
    if isinstance(example, list):
        return [in_order(entry) for entry in example]
    if isinstance(example, dict):
        first = {"type": example["type"]} if "type" in example else {}
        return {**first, **{key: in_order(value) for key, value in example.items() if key != "type"}}
    return example


def arrays_of(cls: type[LayerSpec], example: dict[str, Any]) -> str:
    """Say what a layer trains and keeps."""
    if issubclass(cls, CompositeSpec):
        return ""
    for shape in INPUT_SHAPES:
        try:
            plan = ModelSpec.model_validate({"input_shape": list(shape), "layers": [example]}).plan().layers[0]
        except (ShapeError, ValueError):
            continue
        trained = ", ".join(f"`{name}`" for name in plan.parameters)
        kept = ", ".join(f"`{name}`" for name in plan.buffers)
        parts = [f"trains {trained}" if trained else "", f"keeps {kept}" if kept else ""]
        text = " and ".join(part for part in parts if part)
        return f"It {text}." if text else ""
    raise AssertionError(example)


def choices(classes: dict[str, Any]) -> Iterator[str]:
    """Describe what a `type` chooses among."""
    for name, cls in classes.items():
        yield f"### `{name}`\n"
        yield " ".join((cls.__doc__ or "").split()) + "\n"
        rows = table(cls.model_json_schema(), leave_out=("type",))
        if rows:
            yield rows


def name_text(model: dict[str, Any]) -> str:
    """Give what the schema says of a layer's name."""
    text: str = model["$defs"]["layer"]["allOf"][0]["then"]["properties"]["name"]["description"]
    return (text[:1].lower() + text[1:]).replace("<", "&lt;")


def table(schema: dict[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """List the keys of an object: what they take, their default, their meaning."""
    required = schema.get("required", [])
    rows = []
    for key, part in schema.get("properties", {}).items():
        if key in leave_out:
            continue
        default = "required" if key in required else f"`{json.dumps(part['default'])}`" if "default" in part else ""
        if "Default:" in part.get("description", ""):
            default = ""  # it depends on something, which the description says
        meaning = " ".join(str(part.get("description", "")).replace("<", "&lt;").split())
        rows.append(f"| `{key}` | {takes(part)} | {default} | {meaning} |")
    if not rows:
        return ""
    return "\n".join(["| key | takes | default | |", "|---|---|---|---|", *rows]) + "\n"


_NAMED = {"model": "a model document", "layer": "a layer"}
_WORDS = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false", "null": "`null`"}


def takes(part: dict[str, Any]) -> str:
    """Say in words what a schema accepts."""
    if "$ref" in part:
        return _NAMED.get(part["$ref"].rpartition("/")[2], "an object, below")
    if "anyOf" in part and part["anyOf"][0].get("enum") == list(NAMES):
        return "[initial values](#initial-values)"
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(takes(option) for option in part["anyOf"]))
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
    kind = part.get("type")
    if kind == "array" and "prefixItems" in part:
        return f"an array of {len(part['prefixItems'])} numbers"
    if kind == "array":
        return "an array" + (f" of {plural(takes(part['items']))}" if part.get("items") else "")
    if kind == "object":
        kinds = part.get("properties", {}).get("type", {}).get("enum")
        return "an object" + (f" of type {', '.join(f'`{name}`' for name in kinds)}" if kinds else "")
    return _WORDS[str(kind)] + limits(part)


def limits(part: dict[str, Any]) -> str:
    """Say the bounds of a number."""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{word} {part[key]:g}" for key, word in words.items() if key in part and abs(part[key]) < 2**53 - 1]
    return f" {' and '.join(said)}" if said else ""


def plural(text: str) -> str:
    """Make "an integer above 0" to "integers above 0"."""
    first, _, rest = text.partition(" ")
    if first not in ("a", "an"):
        return text
    noun, space, more = rest.partition(" ")
    return f"{noun}s{space}{more}"


if __name__ == "__main__":
    print("\n".join(page()).rstrip())
