"""Types for the fields of documents; a layer of your own imports its fields' types from here.

Each accepts what its name says and rejects all else with "expected …, got …" and, where there is one, the remedy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema, WrapValidator
from pydantic_core import InitErrorDetails

from specnet.arrays.conversion import SMALLEST
from specnet.document.base import JsonSchema
from specnet.document.json_places import MAX_INTEGER
from specnet.document.messages import encodable, mismatch, problem


def expecting(phrase: str) -> WrapValidator:
    """Annotate a field so that whatever its type refuses is told as `expected <phrase>, got …`."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise mismatch(phrase, value) from None

    return WrapValidator(validate)


def as_tuple(value: Any) -> Any:
    """Let a JSON array stand for a tuple, which strict validation would refuse."""
    return tuple(value) if isinstance(value, list) else value


def _as_read(value: Any) -> Any:
    """Bring a number given in Python to what JSON would have made of it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        raise mismatch("an integer within ±(2^53 - 1)", value)
    return value + 0.0 if isinstance(value, float) else value


Real = Annotated[float, Field(allow_inf_nan=False), expecting("a number"), BeforeValidator(_as_read)]


PositiveReal = Annotated[
    float, Field(gt=0, allow_inf_nan=False), expecting("a positive number"), BeforeValidator(_as_read)
]


NonNegativeReal = Annotated[
    float, Field(ge=0, allow_inf_nan=False), expecting("a number of at least 0"), BeforeValidator(_as_read)
]


Share = Annotated[float, Field(ge=0, lt=1), expecting("a number in [0, 1)"), BeforeValidator(_as_read)]


PositiveInteger = Annotated[int, Field(gt=0, le=2**53 - 1), expecting("a positive integer")]


Seed = Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer from 0 to 2^53 - 1")]


Flag = Annotated[bool, expecting("true or false")]


Text = Annotated[str, expecting("a string"), AfterValidator(encodable)]


def _some_entries(value: Any) -> Any:
    # Not min_length: Pydantic counts valid entries, and would call an array of wrong ones too short.
    if isinstance(value, (list, tuple)) and not value:
        raise problem("expected at least 1 entry, got an empty array", "too_short")
    return as_tuple(value)


def _reals(value: Any, what: str = "number", least: float = -math.inf) -> Any:
    """Take a number, or an array of numbers as a tuple; says which entry is none."""

    def fits(entry: Any) -> bool:
        real = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        return real and least <= entry and abs(entry) <= sys.float_info.max

    if not isinstance(value, (list, tuple)):
        if not fits(value):
            raise mismatch(f"a {what}, or an array of them", value)
        return float(_as_read(value))
    details = [
        InitErrorDetails(type=mismatch(f"a {what}", entry), loc=(index,), input=entry)
        for index, entry in enumerate(_some_entries(value))
        if not fits(entry)
    ]
    if details:
        raise ValidationError.from_exception_data("numbers", details)
    return tuple(float(_as_read(entry)) for entry in value)


def _positive_reals(value: Any) -> Any:
    return _reals(value, "positive number", SMALLEST)


def _feature_schema(number: JsonSchema) -> JsonSchema:
    return {"anyOf": [number, {"type": "array", "minItems": 1, "items": number}]}


Feature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_reals),
    WithJsonSchema(_feature_schema({"type": "number"})),
]


PositiveFeature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_positive_reals),
    WithJsonSchema(_feature_schema({"type": "number", "minimum": SMALLEST})),
]


Shape = Annotated[
    tuple[PositiveInteger, ...],
    BeforeValidator(_some_entries),
    WithJsonSchema({"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "minItems": 1}),
]
