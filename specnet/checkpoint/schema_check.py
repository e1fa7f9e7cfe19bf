"""Check whether a JSON Schema accepts a value; knows only the keywords of the schemas that schema.py generates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "examples", "then"}


def accepts(value: Any, schema: Schema, root: Schema | None = None) -> bool:
    """Return whether `schema` accepts `value`; False also if the schema has an unknown keyword.

    Stricter than JSON Schema in one point, like the documents: 64.0 is not an integer.
    """
    root = schema if root is None else root
    for keyword, argument in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        check = _KEYWORDS.get(keyword)
        if check is None or not check(value, argument, schema, root):
            return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _equal_with_type(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _check_properties(value: Any, argument: Any, _schema: Schema, root: Schema) -> bool:
    return not isinstance(value, dict) or all(accepts(value[k], s, root) for k, s in argument.items() if k in value)


def _check_additional(value: Any, argument: Any, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, dict) or argument is True:
        return True
    additional = value.keys() - schema.get("properties", {}).keys()
    return not additional if argument is False else all(accepts(value[key], argument, root) for key in additional)


def _check_condition(value: Any, argument: Any, schema: Schema, root: Schema) -> bool:
    return not accepts(value, argument, root) or accepts(value, schema.get("then", {}), root)


def _make_bound_check(within: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Schema, Schema], bool]:
    return lambda value, argument, _schema, _root: not _is_number(value) or within(value, argument)


_KEYWORDS: dict[str, Callable[[Any, Any, Schema, Schema], bool]] = {
    "$ref": lambda v, a, _s, root: accepts(v, root["$defs"][a.removeprefix("#/$defs/")], root),
    "type": lambda v, a, _s, _r: _TYPES[a](v),
    "const": lambda v, a, _s, _r: _equal_with_type(v, a),
    "enum": lambda v, a, _s, _r: any(_equal_with_type(v, choice) for choice in a),
    "required": lambda v, a, _s, _r: not isinstance(v, dict) or all(key in v for key in a),
    "properties": _check_properties,
    "additionalProperties": _check_additional,
    "items": lambda v, a, _s, root: not isinstance(v, list) or all(accepts(entry, a, root) for entry in v),
    "minItems": lambda v, a, _s, _r: not isinstance(v, list) or len(v) >= a,
    "maxItems": lambda v, a, _s, _r: not isinstance(v, list) or len(v) <= a,
    "maxLength": lambda v, a, _s, _r: not isinstance(v, str) or len(v) <= a,
    "pattern": lambda v, a, _s, _r: not isinstance(v, str) or (bool(re.search(a, v)) and not v.endswith("\n")),
    "minimum": _make_bound_check(lambda value, limit: value >= limit),
    "maximum": _make_bound_check(lambda value, limit: value <= limit),
    "exclusiveMinimum": _make_bound_check(lambda value, limit: value > limit),
    "exclusiveMaximum": _make_bound_check(lambda value, limit: value < limit),
    "anyOf": lambda v, a, _s, root: any(accepts(v, part, root) for part in a),
    "allOf": lambda v, a, _s, root: all(accepts(v, part, root) for part in a),
    "if": _check_condition,
}
