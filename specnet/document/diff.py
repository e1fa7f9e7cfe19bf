"""A readable list of the differences between two documents of one kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from specnet.errors import KeyPath, path_text


def differences(
    old: Any, new: Any, ignored: Collection[KeyPath] = (), path: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Yield each difference of two JSON values as (path, "path was 32, is 64"), in the order of the new value."""
    if path in ignored or (old == new and type(old) is type(new)):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from differences(old.get(key), new.get(key), ignored, (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, ignored, (*path, index))
    else:
        yield path, f"{path_text(path) or 'the document'} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, Mapping):
        return f'a "{value["type"]}"' if isinstance(value.get("type"), str) else "an object"
    return "nothing" if value is None else f"{value!r:.60}"
