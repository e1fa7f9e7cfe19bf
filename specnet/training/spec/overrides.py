"""Settings of the command line (`--set training.epochs=3`), which replace values of a document."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specnet.document.base import read_document
from specnet.document.json_text import parse_json
from specnet.document.messages import describe
from specnet.errors import PathKey, Problem, SpecError
from specnet.files.paths import user_path
from specnet.spec.model_spec import ModelSpec

_PART = re.compile(r"([A-Za-z_$][A-Za-z0-9_$-]*)((?:\[\d{1,6}\])*)")
"""One part of a path between two dots: a key, and indices into arrays."""


MOST_KEYS = 100
"""Keys of the longest path; those of documents have a few."""


def apply_overrides(value: Any, overrides: Mapping[str, str], folder: Path) -> list[tuple[PathKey, ...]]:
    """Set values of the document, after reading in a model that is named by path; return the changed paths."""
    changed: list[tuple[PathKey, ...]] = []
    for path, text in overrides.items():
        if not isinstance(path, str) or not isinstance(text, str):
            message = f'expected JSON text for a path, such as {{"training.epochs": "3"}}, got {describe(text)}'
            raise SpecError([Problem(str(path), message, "wrong_type")], "overrides")
        keys = _split_path(path)
        if keys[0] == "model" and len(keys) > 1 and isinstance(value, dict) and isinstance(value.get("model"), str):
            source = folder / user_path(value["model"])
            ModelSpec.from_file(source)  # reports the model's errors at their places in the model's file
            model = parse_json(read_document(source), os.fspath(source)).value
            value["model"] = {key: entry for key, entry in model.items() if key != "$schema"}
            changed.append(("model",))
        _set_value(value, path, keys, text)
        changed.append(keys)
    return changed


def _split_path(path: str) -> tuple[PathKey, ...]:
    """Split the path of a value: "model.layers[0].units" -> ("model", "layers", 0, "units"). Raises SpecError."""
    keys: list[PathKey] = []
    for part in path.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise _path_error(path)
        if len(keys) > MOST_KEYS:
            raise SpecError([Problem(path, "is nested too deeply", "too_deep")], "--set")
        keys += [match[1], *(int(index) for index in re.findall(r"\d+", match[2]))]
    return tuple(keys)


def _set_value(value: Any, path: str, keys: tuple[PathKey, ...], text: str) -> None:
    """Set one value of the document to `text`: parsed if it is valid JSON, otherwise as plain text."""
    *parents, last = keys
    for key in parents:
        if isinstance(value, dict) and isinstance(key, str):
            inner = value.setdefault(key, {})
            if isinstance(inner, str):  # shorthand for an object of this type
                inner = value[key] = {"type": inner}
            value = inner
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            raise _path_error(path)
    valid = isinstance(last, str) if isinstance(value, dict) else isinstance(value, list) and last in range(len(value))
    if not valid:
        raise _path_error(path)
    try:
        value[last] = json.loads(text)
    except ValueError:
        value[last] = text
    except RecursionError:
        raise SpecError([Problem(path, "is nested too deeply", "too_deep")], "--set") from None


def _path_error(path: str) -> SpecError:
    message = "expected the path of a value in the document, for example training.epochs or model.layers[0].units"
    return SpecError([Problem(path, message, "unknown_key")], "--set")
