"""Settings of the command line (`--set training.epochs=3`), written over those of a document."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specnet.document.base import read_document
from specnet.document.json_text import parse_json
from specnet.errors import PathKey, Problem, SpecError
from specnet.files.paths import user_path
from specnet.spec.model_spec import ModelSpec

_PART = re.compile(r"([A-Za-z_$][A-Za-z0-9_$-]*)((?:\[\d{1,6}\])*)")
"""Between two dots of a path: a key, and places in lists."""


def apply_overrides(value: Any, overrides: Mapping[str, str], folder: Path) -> list[tuple[PathKey, ...]]:
    """Set values of the document; give what is not as the file has it. A model named by its path comes in first."""
    changed: list[tuple[PathKey, ...]] = []
    for path, text in overrides.items():
        keys = _keys(path)
        if keys[0] == "model" and len(keys) > 1 and isinstance(value, dict) and isinstance(value.get("model"), str):
            source = folder / user_path(value["model"])
            ModelSpec.from_file(source)  # tells its faults at their places in its own file
            model = parse_json(read_document(source), os.fspath(source)).value
            value["model"] = {key: entry for key, entry in model.items() if key != "$schema"}
            changed.append(("model",))
        _override(value, path, keys, text)
        changed.append(keys)
    return changed


def _keys(path: str) -> tuple[PathKey, ...]:
    """Cut the path of a value: "model.layers[0].units" -> ("model", "layers", 0, "units"). Raises SpecError."""
    keys: list[PathKey] = []
    for part in path.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            raise _no_path(path)
        keys += [found[1], *(int(index) for index in re.findall(r"\d+", found[2]))]
    return tuple(keys)


def _override(value: Any, path: str, keys: tuple[PathKey, ...], text: str) -> None:
    """Set one value of the document, given as JSON, or as plain text where that is no JSON."""
    *parents, last = keys
    for key in parents:
        if isinstance(value, dict) and isinstance(key, str):
            inner = value.setdefault(key, {})
            if isinstance(inner, str):  # short for an object of this type
                inner = value[key] = {"type": inner}
            value = inner
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            raise _no_path(path)
    fits = isinstance(last, str) if isinstance(value, dict) else isinstance(value, list) and last in range(len(value))
    if not fits:
        raise _no_path(path)
    try:
        value[last] = json.loads(text)
    except ValueError:
        value[last] = text


def _no_path(path: str) -> SpecError:
    message = "expected the path of a value in the document, as training.epochs or model.layers[0].units"
    return SpecError([Problem(path, message, "unknown_key")], "--set")
