"""Names and defaults of sibling layers: the layers of a model, or the layers of all lists of one composite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from specnet.document.messages import problem
from specnet.errors import KeyPath, path_text
from specnet.layerspec import LayerSpec

Faults = Iterator[tuple[KeyPath, PydanticCustomError]]


def name_siblings(lists: Iterable[tuple[KeyPath, Sequence[Any]]], whose: str = "") -> tuple[list[list[str]], Faults]:
    """Return the name of every entry of the lists, and the errors of names that occur twice.

    An automatic name is <type>_<n>, where n counts all entries of that type. Entries may be invalid values of any kind.
    `whose` names the parent of the siblings in messages.
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
            is_explicit = isinstance(name, str) and name != ""
            automatic = f"{kind}_{counts[kind]}" if isinstance(kind, str) else ""
            names[-1].append(str(name) if is_explicit else automatic)
            named.append((not is_explicit, (*path, index), names[-1][-1]))
    return names, _duplicate_names(named, whose)


def _duplicate_names(named: list[tuple[bool, KeyPath, str]], whose: str) -> Faults:
    first_paths: dict[str, KeyPath] = {}
    for is_automatic, path, name in sorted(named, key=lambda entry: entry[0]):
        first = first_paths.setdefault(name, path)
        if first == path or not name:
            continue
        sibling = path_text(first) + whose
        if is_automatic:
            message = f'the automatic name "{name}" is taken by its sibling {sibling}; give this layer another name'
            yield path, problem(message, "duplicate_name")
        else:
            message = f'the name "{name}" is taken by its sibling {sibling}; names must be unique among siblings'
            yield (*path, "name"), problem(message, "duplicate_name")


def resolve_defaults(layers: Sequence[LayerSpec | None], names: Sequence[str]) -> list[LayerSpec | None]:
    """Return the layers of one list with their names, and with the defaults that depend on the next activation.

    None, which marks an invalid layer, remains None.
    """
    resolved: list[LayerSpec | None] = []
    following: LayerSpec | None = None
    for layer, name in zip(reversed(layers), reversed(names), strict=True):
        activation = following if following is not None and following.is_activation else None
        resolved.append(layer and layer.model_copy(update={"name": name}).resolve(activation))
        if layer is None or not layer.transparent:
            following = layer
    return resolved[::-1]
