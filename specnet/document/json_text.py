"""A strict JSON parser (RFC 8259): the values of a text, and the line and column of every error.

The standard library's scanner builds the values at C speed. Hooks detect what it would accept: duplicate keys, NaN,
out-of-range numbers and lone surrogates. Only a text with an error is scanned a second time, token by token, to find
where the error is. `canonical.py` writes the canonical bytes (RFC 8785).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

from specnet.document.json_places import (
    ESCAPED_SURROGATE,
    MAX_INTEGER,
    Finding,
    Lines,
    count_keys,
    lexical_findings,
    locate,
)
from specnet.errors import Problem, SpecError

MAX_BYTES = 16 * 2**20


MAX_VALUES = 2**20
"""Most values, with keys; a container counts twice, because it takes more memory than its text."""


MAX_DEPTH = 256


MAX_PROBLEMS = 1000


_STRING = r'"(?:[^"\\]++|\\.)*+"?'  # an unterminated one is matched once, not at each quote


_STRINGS = re.compile(_STRING)


_BRACKETS = re.compile(rf"{_STRING}|([\[\]{{}}])")


_LEVELS = {"[": 1, "{": 1, "]": -1, "}": -1, "": 0}
"""By how much each bracket changes the depth; a string changes nothing."""


_SPACE = " \t\n\r"


_SPACES = re.compile(f"[{_SPACE}]*+")


@dataclass
class JsonText:
    """A parsed document: its text and its value."""

    text: str
    value: Any
    source: str | None = None
    hooks: _Hooks | None = None

    @cached_property
    def _has_duplicates(self) -> bool:
        if self.hooks is None or self.hooks.keys >= self.text.count(":"):  # not every ":" follows a key
            return False
        return self.hooks.keys < count_keys(self.text)

    @property
    def has_errors(self) -> bool:
        """Whether `findings` is certain to hold an error; lone surrogates are only known after the search."""
        return self.hooks is not None and (self.hooks.bad_numbers or self._has_duplicates)

    @cached_property
    def findings(self) -> list[Finding]:
        """The errors that leave a usable value: duplicate keys, out-of-range numbers, lone surrogates.

        Only the first MAX_PROBLEMS. They are searched at the first use, because the search takes longer than parsing.
        """
        if self.hooks is None or not (self.has_errors or ESCAPED_SURROGATE.search(self.text)):
            return []
        found = lexical_findings(self.text, numbers=self.hooks.bad_numbers, duplicates=self._has_duplicates)
        return list(islice(found, MAX_PROBLEMS))

    def require_text(self) -> None:
        """Raise SpecError if strings contain lone surrogates, which prevent further checks, or may contain them."""
        if not ESCAPED_SURROGATE.search(self.text):
            return
        if len(self.findings) >= MAX_PROBLEMS or any(finding.code == "surrogate" for finding in self.findings):
            raise self.error()

    def error(self, findings: Iterable[Finding] = ()) -> SpecError:
        """Return one SpecError for the errors of the text and for `findings`, in document order."""
        text_paths = {finding.path for finding in self.findings}
        others = islice(findings, 10 * MAX_PROBLEMS)  # placing them is slow
        merged = [*self.findings, *(f for f in others if f.path not in text_paths)]
        offsets = locate(self.text, {f.path for f in merged if f.offset is None})
        placed = []
        for finding in merged:
            if finding.offset is None:
                value_at, key_at = offsets[finding.path]
                placed.append((key_at if finding.at_key else value_at, finding))
            else:
                placed.append((finding.offset, finding))
        placed.sort(key=lambda pair: pair[0])
        lines = Lines(self.text)
        problems = [lines.problem(offset, finding) for offset, finding in placed[:MAX_PROBLEMS]]
        return SpecError(problems, self.source)


def parse_json(data: bytes | str, source: str | None = None) -> JsonText:
    """Parse one JSON document strictly; -0.0 is read as 0.0.

    Raises SpecError at once if the text cannot be parsed (encoding, size, depth, syntax). Errors that leave a usable
    value are in its `findings`.
    """
    text = _decode(data, source)
    _check_count(text, source)
    _check_depth(text, source)
    hooks = _Hooks()
    try:
        value = json.loads(
            text,
            object_hook=hooks.members,
            parse_constant=hooks.constant,
            parse_int=hooks.integer,
            parse_float=hooks.real,
        )
    except json.JSONDecodeError as error:
        offset, message = _syntax_error(text, error)
        raise SpecError([Lines(text).problem(offset, Finding((), message, "json_syntax"))], source) from None
    return JsonText(text, value, source, hooks)


class _Hooks:
    """Callbacks of the standard library's scanner, which tell whether the text needs the second scan."""

    def __init__(self) -> None:
        self.bad_numbers = False
        self.keys = 0  # of all objects, duplicates counted once; a list of pairs would show them, but needs much memory

    def members(self, members: dict[str, Any]) -> dict[str, Any]:
        self.keys += len(members)
        return members

    def constant(self, _token: str) -> float:
        self.bad_numbers = True
        return 0.0

    def integer(self, token: str) -> int:
        if len(token) > 15 and (len(token) > 17 or abs(int(token)) > MAX_INTEGER):
            self.bad_numbers = True
            return 0
        return int(token)

    def real(self, token: str) -> float:
        number = float(token)
        if math.isinf(number):
            self.bad_numbers = True
            return 0.0
        return number + 0.0  # makes -0.0 positive


def _decode(data: bytes | str, source: str | None) -> str:
    def error_at(message: str, code: str, line: int = 1, column: int = 1) -> SpecError:
        return SpecError([Problem("", message, code, line, column)], source)

    if len(data) > MAX_BYTES:
        raise error_at(f"expected at most {MAX_BYTES} bytes of JSON, got more", "too_large")
    if isinstance(data, str):
        if data.startswith("\ufeff"):
            raise error_at("the text begins with a byte order mark; remove it", "bom")
        return data
    if data.startswith(b"\xef\xbb\xbf"):
        raise error_at("the file begins with a byte order mark; save it as UTF-8 without BOM", "bom")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = Lines(before).place(len(before))
        byte = data[error.start]
        raise error_at(
            f"expected UTF-8 text, got the byte 0x{byte:02x}; save the file as UTF-8", "not_utf8", line, column
        ) from None


def _count_values(text: str) -> int:
    return 2 * (text.count("[") + text.count("{")) + text.count(",") + text.count(":")


def _check_count(text: str, source: str | None) -> None:
    count = _count_values(text)
    if count > MAX_VALUES:  # commas and brackets in strings are none
        count -= sum(_count_values(match[0]) for match in _STRINGS.finditer(text))
    if count > MAX_VALUES:
        message = f"expected at most {MAX_VALUES} values, got more; keep large arrays in a checkpoint"
        raise SpecError([Problem("", message, "too_large", 1, 1)], source)


def _check_depth(text: str, source: str | None) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depths = accumulate(map(_LEVELS.__getitem__, _BRACKETS.findall(text)))
    excess = next((index for index, depth in enumerate(depths) if depth > MAX_DEPTH), None)
    if excess is not None:
        match = next(islice(_BRACKETS.finditer(text), excess, None))
        finding = Finding((), f"expected at most {MAX_DEPTH} levels of nesting, got more", "too_deep")
        raise SpecError([Lines(text).problem(match.start(), finding)], source)


def _syntax_error(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Return offset and message of the standard library's syntax error; the same for all Python versions."""
    if _skip_space(text, 0) == len(text):
        return 0, "expected a JSON object, got an empty text"
    trailing_comma = "expected another entry after the comma; remove the trailing comma"
    before, rest = _last_before_space(text, error.pos), _skip_space(text, error.pos)
    after_rest = _skip_space(text, rest + 1)
    if text[rest : rest + 1] in ("]", "}") and text[before : before + 1] == ",":
        return before, trailing_comma
    if text[rest : rest + 1] == "," and text[after_rest : after_rest + 1] in ("]", "}"):
        return rest, trailing_comma
    return error.pos, _syntax_message(text[rest : rest + 2], error.msg)


def _skip_space(text: str, at: int) -> int:
    """Return the offset of the first character from `at` that is no space."""
    match = _SPACES.match(text, at)
    assert match is not None
    return match.end()


def _last_before_space(text: str, end: int) -> int:
    """Return the offset of the last character before `end` that is no space, or -1; a copy of the text is large."""
    while end > 0:
        begin = max(0, end - 4096)
        stripped = len(text[begin:end].rstrip(_SPACE))
        if stripped:
            return begin + stripped - 1
        end = begin
    return -1


def _syntax_message(rest: str, library_message: str) -> str:
    got = f"got {_quoted(rest[:1])}" if rest else "got the end of the text"
    if rest[:2] in ("//", "/*") or rest[:1] == "#":
        return "expected JSON, got a comment; JSON has no comments, use the key metadata"
    if rest[:1] == "'":
        return "expected a double quote, got a single quote; JSON strings use double quotes"
    if library_message.startswith("Extra data"):
        return f"expected the end of the text, {got}; a document is one JSON object"
    if library_message.startswith("Expecting property name"):
        return f"expected a key in double quotes, {got}"
    if library_message.startswith("Expecting value"):
        return f"expected a value, {got}"
    if library_message.startswith("Expecting ',' delimiter"):
        return f"expected a comma or a closing bracket, {got}"
    if library_message.startswith("Expecting ':' delimiter"):
        return f"expected a colon after the key, {got}"
    if library_message.startswith("Unterminated string"):
        return "this string is never closed; add the closing double quote"
    if library_message.startswith("Invalid control character"):
        return "expected text, got a line break or control character inside a string; write it as an escape (\\n)"
    return f"invalid JSON: {library_message[:1].lower()}{library_message[1:]}"


def _quoted(character: str) -> str:
    return json.dumps(character, ensure_ascii=not character.isprintable())
