"""Types of fields with a number for each axis. The normal form is an array, so equal layers have equal documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails

from specnet.document.base import JsonSchema
from specnet.document.messages import mismatch, problem

MOST = 1 << 30
"""The largest of these numbers: sizes of kernels, pools and factors, strides, dilations, positions at an edge."""


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def _counts(axes: int, least: int) -> Callable[[Any], Any]:
    what = f"an integer from {least} to 2^30"

    def validate(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            if not _is_count(value, least):
                raise mismatch(f"{what}{f', or an array of {axes}' if axes > 1 else ''}", value)
            return (value,) * axes
        if len(value) != axes:
            raise problem(
                f"expected {axes} {'entry' if axes == 1 else 'entries'}, one an axis, got {len(value)}", "length"
            )
        _raise_all(
            (index, mismatch(what, entry), entry) for index, entry in enumerate(value) if not _is_count(entry, least)
        )
        return tuple(value)

    return validate


def _raise_all(faults: Any) -> None:
    details = [InitErrorDetails(type=error, loc=(index,), input=entry) for index, error, entry in faults]
    if details:
        raise ValidationError.from_exception_data("numbers", details)


def _edges(axes: int) -> Callable[[Any], Any]:
    numbers = "one number or pair" if axes == 1 else "two numbers or pairs"
    what = f"a number of positions, or an array of {numbers} [before, behind]"

    def pair(entry: Any) -> tuple[int, int] | None:
        if _is_count(entry, 0):
            return entry, entry
        is_pair = isinstance(entry, (list, tuple)) and len(entry) == 2 and all(_is_count(each, 0) for each in entry)
        return (entry[0], entry[1]) if is_pair else None

    def validate(value: Any) -> Any:
        entries = value if isinstance(value, (list, tuple)) else [value] * axes
        if len(entries) != axes:
            raise mismatch(what, value)
        pairs = [pair(entry) for entry in entries]
        if not isinstance(value, (list, tuple)) and pairs[0] is None:
            raise mismatch(what, value)
        wrong = "a number of positions or a pair [before, behind]"
        _raise_all((i, mismatch(wrong, entries[i]), entries[i]) for i, found in enumerate(pairs) if found is None)
        return tuple(pairs)

    return validate


def _padding(axes: int) -> Callable[[Any], Any]:
    edges = _edges(axes)

    def validate(value: Any) -> Any:
        if isinstance(value, str) and value in ("valid", "same"):
            return value
        if not isinstance(value, (list, tuple)) and not _is_count(value, 0):
            raise mismatch('"valid", "same", a number of zeros, or an array of numbers', value)
        pairs = edges(value)
        return pairs if any(map(any, pairs)) else "valid"

    return validate


def _counts_schema(axes: int, least: int) -> JsonSchema:
    number: JsonSchema = {"type": "integer", "exclusiveMinimum": least - 1, "maximum": MOST}
    return {"anyOf": [number, {"type": "array", "items": number, "minItems": axes, "maxItems": axes}]}


def _edges_schema(axes: int) -> JsonSchema:
    number: JsonSchema = {"type": "integer", "minimum": 0, "maximum": MOST}
    pair: JsonSchema = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    array: JsonSchema = {"type": "array", "items": {"anyOf": [number, pair]}, "minItems": axes, "maxItems": axes}
    return {"anyOf": [number, array]}


def _padding_schema(axes: int) -> JsonSchema:
    return {"anyOf": [{"enum": ["valid", "same"]}, *_edges_schema(axes)["anyOf"]]}


Numbers: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]

Counts1 = Annotated[Numbers, BeforeValidator(_counts(1, 1)), WithJsonSchema(_counts_schema(1, 1))]
Counts2 = Annotated[Numbers, BeforeValidator(_counts(2, 1)), WithJsonSchema(_counts_schema(2, 1))]
Extra1 = Annotated[Numbers, BeforeValidator(_counts(1, 0)), WithJsonSchema(_counts_schema(1, 0))]
Extra2 = Annotated[Numbers, BeforeValidator(_counts(2, 0)), WithJsonSchema(_counts_schema(2, 0))]
Edges1 = Annotated[Pairs, BeforeValidator(_edges(1)), WithJsonSchema(_edges_schema(1))]
Edges2 = Annotated[Pairs, BeforeValidator(_edges(2)), WithJsonSchema(_edges_schema(2))]
Padding1 = Annotated[str | Pairs, BeforeValidator(_padding(1)), WithJsonSchema(_padding_schema(1))]
Padding2 = Annotated[str | Pairs, BeforeValidator(_padding(2)), WithJsonSchema(_padding_schema(2))]
