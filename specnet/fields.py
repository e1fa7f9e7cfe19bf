"""Types for the fields of documents; a custom layer imports the types of its fields from here.

Each type accepts the values that its name states. It rejects all others with "expected …, got …" and, if there is
a remedy, the remedy.
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
    """Return a validator that reports every value the field's type rejects as `expected <phrase>, got …`."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise mismatch(phrase, value) from None

    return WrapValidator(validate)


def as_tuple(value: Any) -> Any:
    """Return a list as a tuple, because strict validation rejects a list for a tuple field."""
    return tuple(value) if isinstance(value, list) else value


def _normalize_number(value: Any) -> Any:
    """Return a Python number as JSON text would be read: integers are bounded and -0.0 becomes 0.0."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        raise mismatch("an integer within ±(2^53 - 1)", value)
    return value + 0.0 if isinstance(value, float) and not value else value


def at_most(count: int) -> BeforeValidator:
    """Return a validator that turns a list into a tuple, and rejects one of more than `count` entries at once."""

    def validate(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) > count:
            raise problem(f"expected at most {count} entries, got {len(value)}", "too_long")
        return as_tuple(value)

    return BeforeValidator(validate)


Real = Annotated[float, Field(allow_inf_nan=False), expecting("a number"), BeforeValidator(_normalize_number)]


PositiveReal = Annotated[
    float, Field(gt=0, allow_inf_nan=False), expecting("a positive number"), BeforeValidator(_normalize_number)
]


NonNegativeReal = Annotated[
    float, Field(ge=0, allow_inf_nan=False), expecting("a number of at least 0"), BeforeValidator(_normalize_number)
]


Share = Annotated[float, Field(ge=0, lt=1), expecting("a number in [0, 1)"), BeforeValidator(_normalize_number)]


PositiveInteger = Annotated[int, Field(gt=0, le=2**53 - 1), expecting("a positive integer")]


Seed = Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer from 0 to 2^53 - 1")]


Flag = Annotated[bool, expecting("true or false")]


Text = Annotated[str, expecting("a string"), AfterValidator(encodable)]


def _non_empty_tuple(value: Any) -> Any:
    # Not min_length: Pydantic counts only valid entries, and would report an array of invalid ones as too short.
    if isinstance(value, (list, tuple)) and not value:
        raise problem("expected at least 1 entry, got an empty array", "too_short")
    return as_tuple(value)


def _axes(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) > MOST_AXES:
        raise problem(f"expected at most {MOST_AXES} axes, got {len(value)}", "too_long")
    return _non_empty_tuple(value)


def _number_or_array(value: Any, what: str = "number", minimum: float = -math.inf) -> Any:
    """Return a number as a float, or an array of numbers as a tuple of floats; reports each invalid entry."""

    def is_valid(entry: Any) -> bool:
        is_number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        return is_number and minimum <= entry and abs(entry) <= sys.float_info.max

    if not isinstance(value, (list, tuple)):
        if not is_valid(value):
            raise mismatch(f"a {what} or an array of {what}s", value)
        return float(_normalize_number(value))
    details = [
        InitErrorDetails(type=mismatch(f"a {what}", entry), loc=(index,), input=entry)
        for index, entry in enumerate(_non_empty_tuple(value))
        if not is_valid(entry)
    ]
    if details:
        raise ValidationError.from_exception_data("numbers", details)
    # a million numbers are many: those that are what they must be are not made again
    return tuple(entry if type(entry) is float and entry else float(_normalize_number(entry)) for entry in value)


def _positive_number_or_array(value: Any) -> Any:
    return _number_or_array(value, "positive number", SMALLEST)


def _feature_schema(number: JsonSchema) -> JsonSchema:
    return {"anyOf": [number, {"type": "array", "minItems": 1, "items": number}]}


Feature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_number_or_array),
    WithJsonSchema(_feature_schema({"type": "number"})),
]


PositiveFeature = Annotated[
    float | tuple[float, ...],
    BeforeValidator(_positive_number_or_array),
    WithJsonSchema(_feature_schema({"type": "number", "minimum": SMALLEST})),
]


MOST_AXES = 64
"""Most axes of a numpy array."""


Shape = Annotated[
    tuple[PositiveInteger, ...],
    BeforeValidator(_axes),
    WithJsonSchema({"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "minItems": 1}),
]
