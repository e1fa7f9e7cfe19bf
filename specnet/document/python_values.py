"""Values from Python as those of a document: numpy's numbers and arrays become Python's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCALARS = (str, int, float, bool, type(None))


def plain(value: Any) -> Any:
    """Return a copy of dicts, lists and tuples in which numpy's scalars and arrays are Python's numbers and lists.

    What is in a value twice is copied once, because such a value can stand for far more than the memory holds. numpy
    is not imported for this. Raises RecursionError for values that nest too deeply or contain themselves.
    """
    return _plain(value, {})


def _plain(value: Any, copies: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if id(value) in copies:
        return copies[id(value)]
    copied = value
    if kind is list:
        copied = [_plain(inner, copies) for inner in value]
    elif kind is tuple:
        copied = tuple(_plain(inner, copies) for inner in value)
    elif isinstance(value, Mapping):
        copied = {key: _plain(inner, copies) for key, inner in value.items()}
    elif kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        copied = value.tolist()
    copies[id(value)] = copied
    return copied
