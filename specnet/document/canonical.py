"""The canonical form of JSON (RFC 8785) and its SHA-256."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_quote = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps with an option creates an encoder for each string


def canonical_json(value: Any) -> bytes:
    """Return `value` in the canonical form of RFC 8785: keys sorted by UTF-16, ECMAScript numbers, no spaces.

    Takes dict, list, tuple, str, bool, None, int within ±(2^53 - 1) and finite float.
    """
    return _canonical(value).encode("utf-8")


def _canonical(value: Any) -> str:
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, float):
        return _ecmascript_number(value)
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
        return "{" + ",".join(f"{_canonical(key)}:{_canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(value)


def _ecmascript_number(value: float) -> str:
    """Format a number like ECMA-262 Number::toString: Python's shortest digits, placed by the decimal point."""
    if not math.isfinite(value):
        msg = f"{value} has no canonical form"
        raise ValueError(msg)
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    integer, _, fraction = mantissa.partition(".")
    significant = (integer + fraction).lstrip("0")
    point = len(significant) - len(fraction) + int(exponent or 0)
    digits = significant.rstrip("0")
    count = len(digits)
    sign = "-" if value < 0 else ""
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    decimals = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{decimals}e{'+' if power > 0 else '-'}{abs(power)}"


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of the canonical form of `value`, in hexadecimal."""
    import hashlib  # noqa: PLC0415 - loads OpenSSL, which checking a document does without

    return hashlib.sha256(canonical_json(value)).hexdigest()
