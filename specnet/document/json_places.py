"""Line and column of every path in a JSON text, and the errors that are visible only in its tokens."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from specnet.errors import KeyPath, Problem, path_text

MAX_INTEGER = 2**53 - 1


_TOKEN = re.compile(r'[ \t\n\r]*(?:("(?:[^"\\]|\\.)*")|([{}\[\],:])|([^\s,:\[\]{}"]+))')


SURROGATE = re.compile("[\ud800-\udfff]")


class Finding(NamedTuple):
    """An error at a path, before its line and column are known. `at_key` places it at the key, not the value."""

    path: KeyPath
    message: str
    code: str
    at_key: bool = False
    offset: int | None = None


class _Node(NamedTuple):
    path: KeyPath
    value_at: int  # offset of the value
    key_at: int  # offset of the key
    token: str  # the scalar's text, or "{" or "["
    siblings: dict[str, int]  # keys of the enclosing object so far, and the offset of each


def _walk(text: str) -> Iterator[_Node]:
    """Yield every key and value of a well-formed text, in document order."""
    stack: list[list[Any]] = []  # [is_object, current key or index, offset of the key, keys so far]
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


def lexical_findings(text: str) -> Iterator[Finding]:
    """Yield duplicate keys, out-of-range numbers and lone surrogates, in text order."""
    lines = Lines(text)
    for node in _walk(text):
        if node.path and isinstance(node.path[-1], str):
            yield from _key_findings(lines, node)
        first = node.token[0]
        if first == '"':
            if SURROGATE.search(json.loads(node.token)):
                message = "expected text, got half a surrogate pair (\\ud800 to \\udfff); write the character itself"
                yield Finding(node.path, message, "surrogate", offset=node.value_at)
        elif first in "-0123456789NI":
            number_error = _number_error(node.token)
            if number_error:
                yield Finding(node.path, number_error, "number_range", offset=node.value_at)


def _key_findings(lines: Lines, node: _Node) -> Iterator[Finding]:
    key = str(node.path[-1])
    if SURROGATE.search(key):
        yield Finding(
            node.path,
            "expected text as the key, got half a surrogate pair (\\ud800 to \\udfff)",
            "surrogate",
            offset=node.key_at,
        )
    first_at = node.siblings.setdefault(key, node.key_at)
    if first_at != node.key_at:
        line, column = lines.place(first_at)
        message = f"this key appears a second time, first at {line}:{column}; remove one of them"
        yield Finding(node.path, message, "duplicate_key", offset=node.key_at)


def _number_error(token: str) -> str | None:
    shown = token if len(token) <= 24 else f"{token[:12]}… ({len(token)} characters)"
    if token.lstrip("-") in ("NaN", "Infinity"):
        return f"expected a number, got {token}; JSON has no such value"
    if token.lstrip("-").isdigit():
        if len(token) > 17 or abs(int(token)) > MAX_INTEGER:
            return f"expected an integer within ±(2^53 - 1), got {shown}"
    elif math.isinf(float(token)):
        return f"expected a number that a double can hold, got {shown}"
    return None


def locate(text: str, wanted: set[KeyPath]) -> dict[KeyPath, tuple[int, int]]:
    """Map each wanted path to the offsets of its value and key; for a missing path, both are its nearest parent's."""
    offsets: dict[KeyPath, tuple[int, int]] = {}
    needed = {path[:length] for path in wanted for length in range(len(path) + 1)}
    for node in _walk(text):
        if node.path in needed:
            offsets[node.path] = (node.value_at, node.key_at)
    for path in wanted:
        parent = path
        while parent and parent not in offsets:
            parent = parent[:-1]
        offsets.setdefault(path, (offsets[parent][0], offsets[parent][0]) if parent in offsets else (0, 0))
    return offsets


class Lines:
    """The offsets at which the lines of a text begin."""

    def __init__(self, text: str) -> None:
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def problem(self, offset: int, finding: Finding) -> Problem:
        """Return a finding as a problem with line and column."""
        line, column = self.place(offset)
        return Problem(path_text(finding.path), finding.message, finding.code, line, column)
