"""Strict JSON text (RFC 8259) to values, the place of every path in it, and back to canonical bytes (RFC 8785).

The standard library's scanner makes the values, at C speed, with hooks that notice what it would let pass
(duplicate keys, NaN, numbers out of range, lone surrogates). Only a text with a fault is walked a second time,
token by token, to say where.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from specnet.errors import KeyPath, Problem, SpecError, path_text

MAX_BYTES = 16 * 2**20


MAX_VALUES = 2**20


MAX_DEPTH = 256


MAX_PROBLEMS = 1000


MAX_INTEGER = 2**53 - 1


_TOKEN = re.compile(r'[ \t\n\r]*(?:("(?:[^"\\]|\\.)*")|([{}\[\],:])|([^\s,:\[\]{}"]+))')


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]')  # a string that never ends is passed once, not from each quote


_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_SPACE = " \t\n\r"


_SURROGATE = re.compile("[\ud800-\udfff]")


class Finding(NamedTuple):
    """A fault at a path, before its line and column are known. `at_key`: the place is the key, not the value."""

    path: KeyPath
    message: str
    code: str
    at_key: bool = False
    offset: int | None = None


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
        places = _locate(self.text, {f.path for f in every})
        placed = []
        for finding in every:
            value_at, key_at = places[finding.path]
            offset = finding.offset if finding.offset is not None else key_at if finding.at_key else value_at
            placed.append((offset, finding))
        placed.sort(key=lambda pair: pair[0])
        lines = _Lines(self.text)
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
        raise SpecError([_Lines(text).problem(offset, Finding((), message, "json_syntax"))], source) from None
    document = JsonText(text, value, source)
    if hooks.suspicious or _ESCAPED_SURROGATE.search(text):
        document.findings = list(_lexical_findings(text))
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
        line, column = _Lines(before).place(len(before))
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
            raise SpecError([_Lines(text).problem(match.start(), finding)], source)


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


class _Node(NamedTuple):
    path: KeyPath
    value_at: int
    key_at: int
    token: str  # the scalar's text, or "{" or "["
    siblings: dict[str, int]  # of the object around: its keys so far and their offsets


def _walk(text: str) -> Iterator[_Node]:
    """Yield every key and value of a text that is known to be well formed, in document order."""
    stack: list[list[Any]] = []  # [is_object, the current key or index, offset of the key, keys so far]
    expect_key = False
    for match in _TOKEN.finditer(text):
        token, at = match.group().lstrip(" \t\n\r"), match.end() - len(match.group().lstrip(" \t\n\r"))
        if token in ("]", "}"):
            stack.pop()
            expect_key = False
        elif token == ",":
            if stack[-1][0]:
                expect_key = True
            else:
                stack[-1][1] += 1
        elif token == ":":
            expect_key = False
        elif expect_key:
            stack[-1][1:3] = [json.loads(token), at]
        else:
            _, _, key_at, siblings = stack[-1] if stack else (False, None, at, {})
            yield _Node(tuple(frame[1] for frame in stack), at, key_at, token, siblings)
            if token in ("[", "{"):
                expect_key = token == "{"
                stack.append([expect_key, None if expect_key else 0, at, {}])


def _lexical_findings(text: str) -> Iterator[Finding]:
    lines = _Lines(text)
    for node in _walk(text):
        if node.path and isinstance(node.path[-1], str):
            yield from _key_findings(lines, node)
        first = node.token[0]
        if first == '"':
            if _SURROGATE.search(json.loads(node.token)):
                message = "expected text, got half a surrogate pair (\\ud800 to \\udfff); write the character itself"
                yield Finding(node.path, message, "surrogate", offset=node.value_at)
        elif first in "-0123456789NI":
            wrong = _number_fault(node.token)
            if wrong:
                yield Finding(node.path, wrong, "number_range", offset=node.value_at)


def _key_findings(lines: _Lines, node: _Node) -> Iterator[Finding]:
    key = str(node.path[-1])
    if _SURROGATE.search(key):
        yield Finding(node.path, "the key holds half a surrogate pair", "surrogate", offset=node.key_at)
    first_at = node.siblings.setdefault(key, node.key_at)
    if first_at != node.key_at:
        line, column = lines.place(first_at)
        message = f"the key stands here a second time, first at {line}:{column}; remove one of them"
        yield Finding(node.path, message, "duplicate_key", offset=node.key_at)


def _number_fault(token: str) -> str | None:
    shown = token if len(token) <= 24 else f"{token[:12]}… ({len(token)} characters)"
    if token.lstrip("-") in ("NaN", "Infinity"):
        return f"expected a number, got {token}; JSON has no such value"
    if token.lstrip("-").isdigit():
        if len(token) > 17 or abs(int(token)) > MAX_INTEGER:
            return f"expected an integer within ±(2^53 - 1), got {shown}"
    elif math.isinf(float(token)):
        return f"expected a number that a double can hold, got {shown}"
    return None


def _locate(text: str, wanted: set[KeyPath]) -> dict[KeyPath, tuple[int, int]]:
    """Map each wanted path to the offsets of its value and key; a path that is not there to its nearest parent's."""
    found: dict[KeyPath, tuple[int, int]] = {}
    needed = {path[:length] for path in wanted for length in range(len(path) + 1)}
    for node in _walk(text):
        if node.path in needed:
            found[node.path] = (node.value_at, node.key_at)
    for path in wanted:
        parent = path
        while parent and parent not in found:
            parent = parent[:-1]
        found.setdefault(path, (found[parent][0], found[parent][0]) if parent in found else (0, 0))
    return found


class _Lines:
    """Where the lines of a text begin."""

    def __init__(self, text: str) -> None:
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Give line and column, both from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def problem(self, offset: int, finding: Finding) -> Problem:
        """Say where a finding stands."""
        line, column = self.place(offset)
        return Problem(path_text(finding.path), finding.message, finding.code, line, column)
