"""JSON Schemas (draft 2020-12) of the documents, generated from the models that validate them."""

from __future__ import annotations

import json
from typing import Any, Literal

from specnet.document.base import Document
from specnet.spec.composite_spec import LAYER_ENTRY, PLACEHOLDER
from specnet.spec.model_spec import ModelSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema(kind: Literal["model", "experiment"]) -> Schema:
    """Return the JSON Schema of one kind of document, with every layer type that is registered now."""
    if kind == "model":
        return {"$schema": DIALECT, **_with_definitions(ModelSpec)}
    from specnet.training.spec.experiment_spec import ExperimentSpec  # noqa: PLC0415 - a model's schema does not need it

    schema = _with_definitions(ExperimentSpec)
    model = _with_definitions(ModelSpec)
    schema["$defs"] |= model.pop("$defs")
    schema["$defs"]["model"] = model
    return {"$schema": DIALECT, **schema}


def schema_text(kind: Literal["model", "experiment"]) -> str:
    """Return the text of the file schemas/<kind>.schema.json."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


def _with_definitions(document: type[Document]) -> Schema:
    schema = _insert_references(document.model_json_schema())
    definitions = {
        name: part for name, part in schema.pop("$defs", {}).items() if name not in ("LayerSpec", "ModelSpec")
    }
    return {**schema, "$defs": {**definitions, "layer": _insert_references(LAYER_ENTRY.json_schema())}}


def _insert_references(schema: Any) -> Any:
    """Replace placeholders by references, which Pydantic cannot write because it does not know their definitions."""
    if isinstance(schema, list):
        return [_insert_references(part) for part in schema]
    if isinstance(schema, dict):
        if PLACEHOLDER in schema:
            return {"$ref": f"#/$defs/{schema[PLACEHOLDER]}"}
        return {key: _insert_references(part) for key, part in schema.items()}
    return schema
