"""Initial values of parameters: the documents that select a rule, and the rules, which return float64 arrays.

Fan-in and fan-out depend on the shape. For a matrix (in, out) they are its two sides. For a kernel
(height, width, in, out) they are the last two sides, each times the product of the others. For a vector both are its
length. Sources: Glorot and Bengio 2010 (glorot), He et al. 2015 (he), LeCun et al. 1998 (lecun), Saxe et al. 2014
(orthogonal).
"""

from __future__ import annotations

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


def _nested_numbers(value: Any) -> Any:
    """Return nested arrays of numbers as nested tuples of floats; reports each entry that is not a number."""
    return _nested_tuple(value, 0)


def _nested_tuple(value: Any, depth: int) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if depth > MAX_RANK:
        message = f"expected at most {MAX_RANK} levels of nesting, got more"
        raise problem(message, "too_deep")
    if isinstance(value, (list, tuple)) and value:
        entries, errors = [], []
        for index, entry in enumerate(value):
            try:
                is_array = isinstance(entry, (list, tuple))
                entries.append(_nested_tuple(entry, depth + 1) if is_array else _finite_float(entry))
            except ValidationError as error:
                errors += [_with_index(index, e) for e in error.errors()]
            except PydanticCustomError as error:
                errors.append(InitErrorDetails(type=error, loc=(index,), input=entry))
            except (ValueError, OverflowError):
                errors.append(InitErrorDetails(type=mismatch("a number", entry), loc=(index,), input=entry))
        if errors:
            raise ValidationError.from_exception_data("values", errors)
        return tuple(entries)
    phrase = "a non-empty array of numbers"
    raise mismatch(phrase, value)


def _finite_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return value + 0.0


def _with_index(index: int, error: Any) -> InitErrorDetails:
    """Return an error of a nested array with the array's index in front of its path."""
    custom_error = problem(error["ctx"]["message"], error["type"])
    return InitErrorDetails(type=custom_error, loc=(index, *error["loc"]), input=error["input"])


_NESTED = {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "number"}, {"type": "array"}]}}
Values = Annotated[tuple[Any, ...], BeforeValidator(_nested_numbers), WithJsonSchema(_NESTED)]


class Normal(Document):
    """Draws from a normal distribution with mean 0."""

    type: Literal["normal"] = "normal"
    std: NonNegativeReal
    """Standard deviation."""


class Uniform(Document):
    """Draws from a uniform distribution over [low, high)."""

    type: Literal["uniform"] = "uniform"
    low: Real
    """Lower bound."""
    high: Real
    """Upper bound, at least `low`."""

    @field_validator("high")
    @classmethod
    def _check_range(cls, high: float, info: ValidationInfo) -> float:
        if high < info.data.get("low", high):
            message = f"expected a number of at least low = {info.data['low']!r}, got {high!r}; swap low and high"
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
    """Sets each element to a given number."""

    type: Literal["values"] = "values"
    values: Values
    """Nested arrays of numbers with the parameter's shape."""


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
    """Return (field, number) pairs that bound the values an initializer sets, to check them against a dtype."""
    if isinstance(initializer, ExplicitValues):
        return [("values", max(_flat_numbers(initializer.values), key=abs))]
    if isinstance(initializer, Normal):
        return [("std", 10 * initializer.std)]  # draws exceed one standard deviation
    if isinstance(initializer, str):
        return []
    return [(field, value) for field, value in initializer if isinstance(value, float)]


def _flat_numbers(values: Any) -> Iterator[float]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat_numbers(value)
        else:
            yield value


def shape_fault(initializer: str | Document, shape: ShapeTuple) -> tuple[str, str] | None:
    """Return (field, message) if `initializer` cannot fill `shape`, otherwise None."""
    if isinstance(initializer, ExplicitValues):
        try:
            values_shape = np.shape(initializer.values)
        except ValueError:
            return "values", "expected arrays of equal length, got a ragged array"
        if values_shape != shape:
            return "values", f"expected values of shape {shape}, got {values_shape}"
    if initializer == "orthogonal" and len(shape) < 2:
        return "", f'"orthogonal" needs a matrix, got a parameter of shape {shape}; choose another, for example "zeros"'
    return None


def draw(
    initializer: str | Document, seed: int, name: str, shape: ShapeTuple, fans: tuple[int, int] | None = None
) -> Float64Array:
    """Return the initial values of the parameter with the full name `name`, in float64.

    The random generator is seeded from (seed, SHA-256 of name), so the values do not depend on other parameters. `fans`
    replaces the fan-in and fan-out derived from the shape.
    """
    if isinstance(initializer, ExplicitValues):
        return np.array(initializer.values, dtype=np.float64)
    if isinstance(initializer, Constant):
        return np.full(shape, initializer.value)
    if initializer in ("zeros", "ones"):
        return np.full(shape, float(initializer == "ones"))
    import hashlib  # noqa: PLC0415 - loads OpenSSL, which checking a document does without

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
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)  # otherwise the sign convention of QR makes q non-uniform
    return np.ascontiguousarray(q if rows >= columns else q.T).reshape(shape)
