"""Strict JSON text (RFC 8259) to values, the place of every path in it, and back to canonical bytes (RFC 8785).

The standard library's scanner makes the values, at C speed, with hooks that notice what it would let pass
(duplicate keys, NaN, numbers out of range, lone surrogates). Only a text with a fault is walked a second time,
token by token, to say where.
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


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]')  # a string that never ends is passed once, not from each quote


_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_SPACE = " \t\n\r"


@dataclass
class JsonText:
    """A parsed document: its text, its value, and the faults that do not keep one from reading on."""

    text: str
    value: Any
    source: str | None = None
    findings: list[Finding] = field(default_factory=list)

    def require_text(self) -> None:
        """Raise SpecError where strings hold lone surrogates: nothing further can be looked at then."""
        if any(finding.code == "surrogate" for finding in self.findings):
            raise self.error()

    def error(self, findings: Iterable[Finding] = ()) -> SpecError:
        """Make one SpecError of the text's own faults and of `findings`, in document order."""
        known = {finding.path for finding in self.findings}
        every = [*self.findings, *(f for f in findings if f.path not in known)]
        places = locate(self.text, {f.path for f in every})
        placed = []
        for finding in every:
            value_at, key_at = places[finding.path]
            offset = finding.offset if finding.offset is not None else key_at if finding.at_key else value_at
            placed.append((offset, finding))
        placed.sort(key=lambda pair: pair[0])
        lines = Lines(self.text)
        problems = [lines.problem(offset, finding) for offset, finding in placed[:MAX_PROBLEMS]]
        return SpecError(problems, self.source)


def parse_json(data: bytes | str, source: str | None = None) -> JsonText:
    """Read one JSON document strictly; -0.0 reads as 0.0.

    Raises SpecError at once for what makes the text unreadable (encoding, size, depth, syntax). Faults that leave
    a value to look at (duplicate keys, numbers out of range, lone surrogates) are kept in `findings`.
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
        offset, message = _syntax_fault(text, error)
        raise SpecError([Lines(text).problem(offset, Finding((), message, "json_syntax"))], source) from None
    document = JsonText(text, value, source)
    if hooks.suspicious or _ESCAPED_SURROGATE.search(text):
        document.findings = list(lexical_findings(text))
    return document


class _Hooks:
    """What the standard library's scanner calls; `suspicious` is set when the text needs a second look."""

    def __init__(self) -> None:
        self.suspicious = False

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            self.suspicious = True
        return made

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
    def refuse(message: str, code: str, line: int = 1, column: int = 1) -> SpecError:
        return SpecError([Problem("", message, code, line, column)], source)

    if len(data) > MAX_BYTES:
        raise refuse(f"expected at most {MAX_BYTES} bytes of JSON, got more", "too_large")
    if isinstance(data, str):
        if data.startswith("\ufeff"):
            raise refuse("the text begins with a byte order mark; remove it", "bom")
        return data
    if data.startswith(b"\xef\xbb\xbf"):
        raise refuse("the file begins with a byte order mark; save it as UTF-8 without BOM", "bom")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = Lines(before).place(len(before))
        byte = data[error.start]
        raise refuse(
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


def _syntax_fault(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Give the place and the message of what the standard library stumbled over; the same for all its versions."""
    before, rest = text[: error.pos].rstrip(_SPACE), text[error.pos :].lstrip(_SPACE)
    if not text.strip(_SPACE):
        return 0, "expected a JSON object, got an empty text"
    trailing = "expected another entry after the comma; remove the trailing comma"
    if rest[:1] in ("]", "}") and before.endswith(","):
        return len(before) - 1, trailing
    if rest[:1] == "," and rest[1:].lstrip(_SPACE)[:1] in ("]", "}"):
        return len(text) - len(rest), trailing
    return error.pos, _syntax_message(rest, error.msg)


def _syntax_message(rest: str, said: str) -> str:
    found = f"got {_shown(rest[:1])}" if rest else "the text ends here"
    if rest[:2] in ("//", "/*") or rest[:1] == "#":
        return "expected JSON, got a comment; JSON has none, use the key metadata"
    if rest[:1] == "'":
        return "expected a double quote, got a single one; JSON strings stand in double quotes"
    if said.startswith("Extra data"):
        return f"expected the end of the text, {found}; a document is one JSON object"
    if said.startswith("Expecting property name"):
        return f"expected a key in double quotes, {found}"
    if said.startswith("Expecting value"):
        return f"expected a value, {found}"
    if said.startswith("Expecting ',' delimiter"):
        return f"expected a comma or a closing bracket, {found}"
    if said.startswith("Expecting ':' delimiter"):
        return f"expected a colon after the key, {found}"
    if said.startswith("Unterminated string"):
        return "this string is never closed; add the closing double quote"
    if said.startswith("Invalid control character"):
        return "a line break or control character stands inside a string; write it as an escape (\\n)"
    return f"invalid JSON: {said[:1].lower()}{said[1:]}"


def _shown(character: str) -> str:
    return json.dumps(character, ensure_ascii=not character.isprintable())
