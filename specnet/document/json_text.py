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
from dataclasses import dataclass, field
from typing import Any

from specnet.document.json_places import MAX_INTEGER, Finding, Lines, lexical_findings, locate
from specnet.errors import Problem, SpecError

MAX_BYTES = 16 * 2**20


MAX_VALUES = 2**20


MAX_DEPTH = 256


MAX_PROBLEMS = 1000


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]')  # matches an unterminated string once, not again at each quote


_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_SPACE = " \t\n\r"


@dataclass
class JsonText:
    """A parsed document: its text, its value, and the errors that do not prevent further checks."""

    text: str
    value: Any
    source: str | None = None
    findings: list[Finding] = field(default_factory=list)

    def require_text(self) -> None:
        """Raise SpecError if strings contain lone surrogates, which prevent further checks."""
        if any(finding.code == "surrogate" for finding in self.findings):
            raise self.error()

    def error(self, findings: Iterable[Finding] = ()) -> SpecError:
        """Return one SpecError for the errors of the text and for `findings`, in document order."""
        text_paths = {finding.path for finding in self.findings}
        merged = [*self.findings, *(f for f in findings if f.path not in text_paths)]
        offsets = locate(self.text, {f.path for f in merged})
        placed = []
        for finding in merged:
            value_at, key_at = offsets[finding.path]
            offset = finding.offset if finding.offset is not None else key_at if finding.at_key else value_at
            placed.append((offset, finding))
        placed.sort(key=lambda pair: pair[0])
        lines = Lines(self.text)
        problems = [lines.problem(offset, finding) for offset, finding in placed[:MAX_PROBLEMS]]
        return SpecError(problems, self.source)


def parse_json(data: bytes | str, source: str | None = None) -> JsonText:
    """Parse one JSON document strictly; -0.0 is read as 0.0.

    Raises SpecError at once if the text cannot be parsed (encoding, size, depth, syntax). Errors that leave a usable
    value (duplicate keys, out-of-range numbers, lone surrogates) are returned in `findings`.
    """
    text = _decode(data, source)
    _check_depth(text, source)
    hooks = _Hooks()
    try:
        value = json.loads(
            text,
            object_pairs_hook=hooks.pairs,
            parse_constant=hooks.constant,
            parse_int=hooks.integer,
            parse_float=hooks.real,
        )
    except json.JSONDecodeError as error:
        offset, message = _syntax_error(text, error)
        raise SpecError([Lines(text).problem(offset, Finding((), message, "json_syntax"))], source) from None
    document = JsonText(text, value, source)
    if hooks.suspicious or _ESCAPED_SURROGATE.search(text):
        document.findings = list(lexical_findings(text))
    return document


class _Hooks:
    """Callbacks of the standard library's scanner; `suspicious` is set if the text needs the second scan."""

    def __init__(self) -> None:
        self.suspicious = False

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            self.suspicious = True
        return members

    def constant(self, _token: str) -> float:
        self.suspicious = True
        return 0.0

    def integer(self, token: str) -> int:
        if len(token) > 15 and (len(token) > 17 or abs(int(token)) > MAX_INTEGER):
            self.suspicious = True
            return 0
        return int(token)

    def real(self, token: str) -> float:
        number = float(token)
        if math.isinf(number):
            self.suspicious = True
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


def _check_depth(text: str, source: str | None) -> None:
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > MAX_VALUES:
        message = f"expected at most {MAX_VALUES} values, got more; keep large arrays in a checkpoint"
        raise SpecError([Problem("", message, "too_large", 1, 1)], source)
    if opened <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match.group()
        depth += (token in "[{") - (token in "]}")
        if depth > MAX_DEPTH:
            finding = Finding((), f"expected at most {MAX_DEPTH} levels of nesting, got more", "too_deep")
            raise SpecError([Lines(text).problem(match.start(), finding)], source)


def _syntax_error(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Return offset and message of the standard library's syntax error; the same for all Python versions."""
    before, rest = text[: error.pos].rstrip(_SPACE), text[error.pos :].lstrip(_SPACE)
    if not text.strip(_SPACE):
        return 0, "expected a JSON object, got an empty text"
    trailing_comma = "expected another entry after the comma; remove the trailing comma"
    if rest[:1] in ("]", "}") and before.endswith(","):
        return len(before) - 1, trailing_comma
    if rest[:1] == "," and rest[1:].lstrip(_SPACE)[:1] in ("]", "}"):
        return len(text) - len(rest), trailing_comma
    return error.pos, _syntax_message(rest, error.msg)


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
