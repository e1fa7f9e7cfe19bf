"""Error messages about documents, in JSON's terms: what was expected, what was found and the remedy."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from specnet.document.json_places import MAX_INTEGER, SURROGATE
from specnet.document.json_text import MAX_PROBLEMS
from specnet.errors import KeyPath, PathKey

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")


_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")


def describe(value: object) -> str:
    """Describe a value in JSON's terms, shortened: `the string "32"`, `an array of 3`, `null`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            beginning = value[:1000]  # a string of 16 MB is not copied
            quoted = json.dumps(beginning, ensure_ascii=not beginning.isprintable())
            return f"the string {quoted}" if len(quoted) <= 42 else f'the string {quoted[:40]}…"'
        case int():
            digits = str(value) if value.bit_length() < 128 else "a huge value"
            return f"the integer {digits}"
        case float():
            return f"the number {value!r}"
        case list() | tuple():
            return f"an array of {len(value)}"
        case Mapping():
            return "an object"
    return f"a Python {type(value).__name__}"


MAX_NAMES = 10_000
"""Most names among which a similar one is searched, and most that are listed."""


MAX_COMPARED = 255
"""Most characters of a name that is compared; comparing takes the square of the length."""


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean "relu"?` if a valid name is similar, otherwise the list of valid names."""
    names = list(islice(names, MAX_NAMES))
    comparable = [name for name in names if len(name) <= MAX_COMPARED]
    lower = word[: 4 * MAX_COMPARED].lower()  # words this long are similar to no comparable name
    containing = [name for name in comparable if len(word) > 2 and lower in name]
    if containing:
        return "; did you mean " + " or ".join(f'"{name}"' for name in containing[:3]) + "?"
    similar = difflib.get_close_matches(lower, comparable, n=1, cutoff=0.6)
    if similar:
        return f'; did you mean "{similar[0]}"?'
    return "; valid: " + ", ".join(names) if names else ""


def first_duplicate(names: Iterable[str]) -> str | None:
    """Return the first name that appears a second time, None without one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def problem(message: str, code: str, *, at_key: bool = False) -> PydanticCustomError:
    """Return the error for a validator to raise; its message reaches the user unchanged."""
    return PydanticCustomError(code, "{message}", {"message": message, "at_key": at_key})


def _remedy(phrase: str, value: object) -> str:
    if isinstance(value, str):
        number = _INTEGER if "integer" in phrase else _NUMBER if "number" in phrase else None
        if number and number.fullmatch(value):
            return f"; write {value} without quotes"
    if isinstance(value, float) and "integer" in phrase and value.is_integer() and abs(value) <= MAX_INTEGER:
        return f"; write {int(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and phrase == "an array":
        return f"; write [{value}]" if abs(value) <= MAX_INTEGER else ""
    if isinstance(value, str) and value in ("true", "false") and "true or false" in phrase:
        return f"; write {value} without quotes"
    if isinstance(value, int) and not isinstance(value, bool) and "string" in phrase and abs(value) <= MAX_INTEGER:
        return f'; write "{value}"'
    return ""


def mismatch(phrase: str, value: object, code: str = "wrong_value") -> PydanticCustomError:
    """Return the error `expected <phrase>, got <value>; <remedy>`."""
    return problem(f"expected {phrase}, got {describe(value)}{_remedy(phrase, value)}", code)


def encodable(value: str) -> str:
    """Return the text; reject text that UTF-8 cannot encode."""
    if SURROGATE.search(value):
        raise problem("expected text, got half a surrogate pair (\\ud800 to \\udfff)", "surrogate")
    return value


def reraised(error: ValidationError, *outer: PathKey) -> Iterator[InitErrorDetails]:
    """Yield the errors of a ValidationError, which are already translated, below an outer path."""
    for e in error.errors(include_url=False):
        custom_error = PydanticCustomError(e["type"], "{message}", e["ctx"])
        yield InitErrorDetails(type=custom_error, loc=(*outer, *e["loc"]), input=e["input"])


def details(faults: Iterable[tuple[KeyPath, PydanticCustomError]], outer: KeyPath = ()) -> Iterator[InitErrorDetails]:
    """Yield errors in the form that a ValidationError takes, below an outer path; only as many as are shown."""
    for path, error in islice(faults, MAX_PROBLEMS):
        yield InitErrorDetails(type=error, loc=(*outer, *path), input=None)
