"""Initial values: documents that name a rule, and the rules, (generator, shape) -> float64 array.

Fan-in and fan-out of a matrix (in, out) are its two sides, of a kernel (height, width, in, out) the last two times the
product of the others; both of a vector are its length. Sources: Glorot and Bengio 2010 (glorot),
He et al. 2015 (he), LeCun et al. 1998 (lecun), Saxe et al. 2014 (orthogonal).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ValidationError, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from specnet.arrays.parameters import ShapeTuple
from specnet.document.base import Document
from specnet.document.messages import mismatch, problem
from specnet.document.tagged_union import Tagged
from specnet.fields import NonNegativeReal, Real

Float64Array: TypeAlias = npt.NDArray[np.float64]

MAX_RANK = 32

NAMES = (
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "zeros",
    "ones",
    "orthogonal",
)


def _numbers(value: Any) -> Any:
    """Turn nested arrays of numbers into nested tuples of floats; says which entry is none."""
    return _nested(value, 0)


def _nested(value: Any, depth: int) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if depth > MAX_RANK:
        message = f"expected at most {MAX_RANK} levels of nesting, got more"
        raise problem(message, "too_deep")
    if isinstance(value, (list, tuple)) and value:
        made, wrong = [], []
        for index, entry in enumerate(value):
            try:
                made.append(_nested(entry, depth + 1) if isinstance(entry, (list, tuple)) else _number(entry))
            except ValidationError as error:
                wrong += [_deeper(index, e) for e in error.errors()]
            except PydanticCustomError as error:
                wrong.append(InitErrorDetails(type=error, loc=(index,), input=entry))
            except (ValueError, OverflowError):
                wrong.append(InitErrorDetails(type=mismatch("a number", entry), loc=(index,), input=entry))
        if wrong:
            raise ValidationError.from_exception_data("values", wrong)
        return tuple(made)
    phrase = "a non-empty array of numbers"
    raise mismatch(phrase, value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return value + 0.0


def _deeper(index: int, error: Any) -> InitErrorDetails:
    told = problem(error["ctx"]["message"], error["type"])
    return InitErrorDetails(type=told, loc=(index, *error["loc"]), input=error["input"])


_NESTED = {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "number"}, {"type": "array"}]}}
Values = Annotated[tuple[Any, ...], BeforeValidator(_numbers), WithJsonSchema(_NESTED)]


class Normal(Document):
    """Draws from a normal distribution of mean 0."""

    type: Literal["normal"] = "normal"
    std: NonNegativeReal
    """Standard deviation."""


class Uniform(Document):
    """Draws evenly from [low, high)."""

    type: Literal["uniform"] = "uniform"
    low: Real
    """Lower bound."""
    high: Real
    """Upper bound, at least `low`."""

    @field_validator("high")
    @classmethod
    def _ordered(cls, high: float, info: ValidationInfo) -> float:
        if high < info.data.get("low", high):
            message = f"expected a number of at least low = {info.data['low']!r}, got {high!r}; exchange them"
            raise problem(message, "wrong_value")
        if math.isinf(high - info.data.get("low", high)):
            message = f"expected a range that a double can hold, got {info.data['low']!r} to {high!r}"
            raise problem(message, "overflow")
        return high


class Constant(Document):
    """Sets every element to one value."""

    type: Literal["constant"] = "constant"
    value: Real
    """The value."""


class ExplicitValues(Document):
    """Sets the elements one by one, as nested arrays of the parameter's shape."""

    type: Literal["values"] = "values"
    values: Values
    """Nested arrays of numbers, of the parameter's shape."""


OBJECTS: dict[str, type[Document]] = {
    "normal": Normal,
    "uniform": Uniform,
    "constant": Constant,
    "values": ExplicitValues,
}

Initializer = Annotated[
    str | Normal | Uniform | Constant | ExplicitValues,
    Tagged("initializer", lambda: OBJECTS, names_only=NAMES),
]


def numbers_of(initializer: str | Document) -> Sequence[tuple[str, float]]:
    """List the numbers an initializer's document holds, with the field each stands in."""
    if isinstance(initializer, ExplicitValues):
        return [("values", max(_flat(initializer.values), key=abs))]
    if isinstance(initializer, Normal):
        return [("std", 10 * initializer.std)]  # draws go beyond one standard deviation
    if isinstance(initializer, str):
        return []
    return [(field, value) for field, value in initializer if isinstance(value, float)]


def _flat(values: Any) -> Iterator[float]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def shape_fault(initializer: str | Document, shape: ShapeTuple) -> tuple[str, str] | None:
    """Say why `initializer` cannot fill `shape`, as (field, message), or None."""
    if isinstance(initializer, ExplicitValues):
        try:
            given = np.shape(initializer.values)
        except ValueError:
            return "values", "expected arrays of equal length, got a ragged array"
        if given != shape:
            return "values", f"expected values of shape {shape}, got {given}"
    if initializer == "orthogonal" and len(shape) < 2:
        return "", f'"orthogonal" needs a matrix, this parameter has shape {shape}; choose "zeros" or another'
    return None


def draw(
    initializer: str | Document, seed: int, name: str, shape: ShapeTuple, fans: tuple[int, int] | None = None
) -> Float64Array:
    """Return the initial values of the parameter `name`, in float64.

    The generator is seeded from (seed, SHA-256 of name), so no other parameter changes the values. `fans` replaces
    the fan-in and fan-out that follow from the shape.
    """
    if isinstance(initializer, ExplicitValues):
        return np.array(initializer.values, dtype=np.float64)
    if isinstance(initializer, Constant):
        return np.full(shape, initializer.value)
    if initializer in ("zeros", "ones"):
        return np.full(shape, float(initializer == "ones"))
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest, "big")])))
    if isinstance(initializer, Normal):
        return generator.normal(0.0, initializer.std, shape)
    if isinstance(initializer, Uniform):
        return generator.uniform(initializer.low, initializer.high, shape)
    if initializer == "orthogonal":
        return _orthogonal(generator, shape)
    variance = _variances(*(fans or fans_of(shape)))[str(initializer)]
    if str(initializer).endswith("_uniform"):
        limit = math.sqrt(3 * variance)
        return generator.uniform(-limit, limit, shape)
    return generator.normal(0.0, math.sqrt(variance), shape)


def fans_of(shape: ShapeTuple) -> tuple[int, int]:
    """Return (fan-in, fan-out) of a parameter of this shape."""
    if len(shape) < 2:
        return shape[0], shape[0]
    *positions, inputs, outputs = shape
    return math.prod(positions) * inputs, math.prod(positions) * outputs


def _variances(fan_in: int, fan_out: int) -> Mapping[str, float]:
    he, glorot = 2 / fan_in, 2 / (fan_in + fan_out)
    return {
        "he_normal": he,
        "he_uniform": he,
        "glorot_normal": glorot,
        "glorot_uniform": glorot,
        "lecun_normal": 1 / fan_in,
    }


def _orthogonal(generator: np.random.Generator, shape: ShapeTuple) -> Float64Array:
    rows, columns = shape[0], math.prod(shape[1:])
    gaussian = generator.normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(gaussian)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)  # without this, QR's sign choice makes q not uniform
    return np.ascontiguousarray(q if rows >= columns else q.T).reshape(shape)
