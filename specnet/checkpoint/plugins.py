"""Where layers come from that are not specnet's own: recorded when saving, told when they are missing."""

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
"""A longer record is not looked at."""

_FORMS = {
    "type": r"[A-Za-z0-9_.-]{1,255}",
    "module": r"[A-Za-z_][A-Za-z0-9_.]{0,254}",
    "distribution": r"([A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)?",
    "version": r"([0-9][A-Za-z0-9.+!_-]{0,49})?",
}


def plugin_records(layers: Iterable[LayerSpec]) -> str:
    """Write, as JSON, type, module, distribution and version of every layer that is not built in; "" without any."""
    from specnet.spec.registry import origin_of  # noqa: PLC0415 - loading does without

    kinds = {layer.type: type(layer) for layer in _all(layers)}
    kinds = {name: kind for name, kind in kinds.items() if not kind.__module__.startswith("specnet.spec.layers.")}
    return json.dumps([origin_of(kind) for kind in kinds.values()], indent=2) if kinds else ""


def _all(layers: Iterable[LayerSpec]) -> Iterator[LayerSpec]:
    for layer in layers:
        yield layer
        yield from _all(getattr(layer, "inside", ()))


def missing_plugins(record: bytes, types: Iterable[str]) -> dict[str, str]:
    """Say for each layer type that is unknown here what to install or import, as far as the record knows.

    The record may be a stranger's: what is not of the form of a package's name and version is passed over.
    """
    try:
        entries = parse_json(record).value if len(record) <= MAX_BYTES else []
    except SpecError:
        return {}
    wanted: set[str] = set(types)
    told: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), str) and re.fullmatch(form, entry[key]) for key, form in _FORMS.items()
        ):
            continue
        kind, module, distribution, version = (entry[key] for key in _FORMS)
        if kind not in wanted:
            continue
        told[kind] = _advice(kind, module, distribution, version)
    return told


def _advice(kind: str, module: str, distribution: str, version: str) -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import, seldom needed

    if not (distribution and version):
        return f'the layer type "{kind}" was registered by the Python module {module}; import that first'
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        state = "is not installed here"
    else:
        state = "does not load" if found == version else f"is {found} here"
    return (
        f'the layer type "{kind}" was saved with {distribution} {version}, which {state}: '
        f"pip install '{distribution}=={version}'"
    )
