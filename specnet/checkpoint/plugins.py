"""Packages that define layers which are not built in: recorded when saving, reported when they are missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from specnet.document.json_text import parse_json
from specnet.errors import SpecError

if TYPE_CHECKING:
    from specnet.layerspec import LayerSpec

MAX_BYTES = 64 * 1024
"""A longer record is ignored."""

_PATTERNS = {
    "type": r"[A-Za-z0-9_.-]{1,255}",
    "module": r"[A-Za-z_][A-Za-z0-9_.]{0,254}",
    "distribution": r"([A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)?",
    "version": r"([0-9][A-Za-z0-9.+!_-]{0,49})?",
}


def plugin_records(layers: Iterable[LayerSpec]) -> str:
    """Return JSON with type, module, distribution and version of every layer that is not built in; "" if none is."""
    from specnet.spec.registry import origin_of  # noqa: PLC0415 - loading does not need it

    kinds = {layer.type: type(layer) for layer in _flatten(layers)}
    kinds = {name: kind for name, kind in kinds.items() if not kind.__module__.startswith("specnet.spec.layers.")}
    return json.dumps([origin_of(kind) for kind in kinds.values()], indent=2) if kinds else ""


def _flatten(layers: Iterable[LayerSpec]) -> Iterator[LayerSpec]:
    for layer in layers:
        yield layer
        yield from _flatten(getattr(layer, "inside", ()))


def missing_plugins(record: bytes, types: Iterable[str]) -> dict[str, str]:
    """Return, for each unknown layer type that the record lists, what to install or import.

    The record may come from an untrusted file: entries that do not look like package names and versions are ignored.
    """
    try:
        entries = parse_json(record).value if len(record) <= MAX_BYTES else []
    except SpecError:
        return {}
    unknown: set[str] = set(types)
    advice: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), str) and re.fullmatch(pattern, entry[key]) for key, pattern in _PATTERNS.items()
        ):
            continue
        kind, module, distribution, version = (entry[key] for key in _PATTERNS)
        if kind not in unknown:
            continue
        advice[kind] = _install_advice(kind, module, distribution, version)
    return advice


def _install_advice(kind: str, module: str, distribution: str, version: str) -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import, rarely needed

    if not (distribution and version):
        return f'the layer type "{kind}" was registered by the Python module {module}; import that first'
    try:
        installed = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        state = "which is not installed here"
    else:
        state = "which does not load" if installed == version else f"but version {installed} is installed here"
    return (
        f'the layer type "{kind}" was saved with {distribution} {version}, {state}: '
        f"pip install '{distribution}=={version}'"
    )
