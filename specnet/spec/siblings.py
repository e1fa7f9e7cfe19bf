"""Names and defaults of layers that are siblings: those of a model, or of all lists of one composite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from specnet.document.messages import problem
from specnet.errors import KeyPath, path_text
from specnet.layerspec import LayerSpec

Faults = Iterator[tuple[KeyPath, PydanticCustomError]]


def name_siblings(lists: Iterable[tuple[KeyPath, Sequence[Any]]], whose: str = "") -> tuple[list[list[str]], Faults]:
    """Return the name of every entry of the lists, and the faults of names that are taken.

    Automatic names are <type>_<n>, counted over all entries of the type. Entries may have any form, faulty ones too.
    `whose` says in messages what the siblings belong to.
    """
    counts: dict[str, int] = {}
    names: list[list[str]] = []
    named: list[tuple[bool, KeyPath, str]] = []  # is automatic, path, name
    for path, entries in lists:
        names.append([])
        for index, entry in enumerate(entries):
            keys = entry if isinstance(entry, Mapping) else dict(entry) if isinstance(entry, LayerSpec) else {}
            kind, name = keys.get("type"), keys.get("name")
            if isinstance(kind, str):
                counts[kind] = counts.get(kind, 0) + 1
            is_given = isinstance(name, str) and name != ""
            automatic = f"{kind}_{counts[kind]}" if isinstance(kind, str) else ""
            names[-1].append(str(name) if is_given else automatic)
            named.append((not is_given, (*path, index), names[-1][-1]))
    return names, _duplicate_names(named, whose)


def _duplicate_names(named: list[tuple[bool, KeyPath, str]], whose: str) -> Faults:
    owner: dict[str, KeyPath] = {}
    for is_automatic, path, name in sorted(named, key=lambda entry: entry[0]):
        first = owner.setdefault(name, path)
        if first == path or not name:
            continue
        where = path_text(first) + whose
        if is_automatic:
            message = f'the automatic name "{name}" is taken by its sibling {where}; give this layer another name'
            yield path, problem(message, "duplicate_name")
        else:
            message = f'the name "{name}" is taken by its sibling {where}; names are unique among siblings'
            yield (*path, "name"), problem(message, "duplicate_name")


def resolve_defaults(layers: Sequence[LayerSpec | None], names: Sequence[str]) -> list[LayerSpec | None]:
    """Return the layers of one list with their names, and with the defaults that depend on the next activation in it.

    A faulty layer, None, stays None.
    """
    resolved: list[LayerSpec | None] = []
    following: LayerSpec | None = None
    for layer, name in zip(reversed(layers), reversed(names), strict=True):
        activation = following if following is not None and following.activation else None
        resolved.append(layer and layer.model_copy(update={"name": name}).resolve(activation))
        if layer is None or not layer.transparent:
            following = layer
    return resolved[::-1]
