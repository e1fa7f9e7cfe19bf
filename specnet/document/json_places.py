r"""Line and column of every path in a JSON text, and the errors that are visible only in its tokens.

The texts are well-formed, but may come from elsewhere: one string of 16 MB, or a million values. The quantifiers of the
patterns are therefore possessive, because `(?:a|b)*` keeps a state per repetition, and only errors cost a path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from specnet.errors import KeyPath, PathKey, Problem, path_text

MAX_INTEGER = 2**53 - 1


SURROGATE = re.compile("[\ud800-\udfff]")


ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_STRING = r'"(?:[^"\\]++|\\.)*+"'


_SPACES = r"[ \t\n\r]*+"


_ENTRY = re.compile(rf'[ \t\n\r,]*+(?:({_STRING}){_SPACES}:{_SPACES})?({_STRING}|[{{}}\[\]]|[^\s,:{{}}\[\]"]++)')
"""One entry of a container: its key, if any, and a scalar or an opening bracket; or the closing bracket."""


_TO_BRACKET = re.compile(rf'(?:[^"{{}}\[\]]++|{_STRING})*+([{{}}\[\]])')


_STRING_OR_KEY = re.compile(rf"{_STRING}({_SPACES}:)?+")


_PAIRED = re.compile(
    '"(?:[^"\\\\\ud800-\udfff]++'
    r"|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+"
    '"'
)
"""A string whose surrogates are all pairs."""


_scan = json.JSONDecoder().raw_decode
"""Returns the value at an offset and the offset of its end; unlike `json.loads`, it copies no token."""


class Finding(NamedTuple):
    """An error at a path, before its line and column are known. `at_key` places it at the key, not the value."""

    path: KeyPath
    message: str
    code: str
    at_key: bool = False
    offset: int | None = None


@dataclass(slots=True)
class _Container:
    """An object or array that is being scanned, and the key or index of its current entry."""

    key: PathKey = -1
    first_places: dict[str, int] = field(default_factory=dict)  # of the keys of an object
    indices: Iterator[int] = field(default_factory=count)  # of an array


def count_keys(text: str) -> int:
    """Return the number of keys of all objects, duplicates included."""
    return sum(match.lastindex is not None for match in _STRING_OR_KEY.finditer(text))


def lexical_findings(text: str, *, numbers: bool, duplicates: bool) -> Iterator[Finding]:
    """Yield lone surrogates, out-of-range numbers and duplicate keys, in text order; the latter two on request."""
    lines = Lines(text)
    has_surrogates = bool(ESCAPED_SURROGATE.search(text) or SURROGATE.search(text))
    stack: list[_Container] = []

    def finding(message: str, code: str, offset: int) -> Finding:
        return Finding(tuple(container.key for container in stack), message, code, offset=offset)

    for match in _ENTRY.finditer(text):
        at, key_at = match.start(2), match.start(1)
        first = text[at]
        if first in "]}":
            stack.pop()
            continue
        if key_at >= 0:
            token, container = match[1], stack[-1]
            container.key = key = _scan(token)[0] if "\\" in token else token[1:-1]
            if has_surrogates and not _PAIRED.match(token):
                message = "expected text as the key, got half a surrogate pair (\\ud800 to \\udfff)"
                yield finding(message, "surrogate", key_at)
            if duplicates and (first_at := container.first_places.setdefault(key, key_at)) != key_at:
                line, column = lines.place(first_at)
                message = f"this key appears a second time, first at {line}:{column}; remove one of them"
                yield finding(message, "duplicate_key", key_at)
        elif stack:
            stack[-1].key = next(stack[-1].indices)
        if first in "[{":
            stack.append(_Container())
        elif first == '"':
            if has_surrogates and not _PAIRED.match(text, at):
                message = "expected text, got half a surrogate pair (\\ud800 to \\udfff); write the character itself"
                yield finding(message, "surrogate", at)
        elif numbers and first in "-0123456789NI" and (number_error := _number_error(match[2])):
            yield finding(number_error, "number_range", at)


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


@dataclass(slots=True)
class _Place:
    """The offsets of a value and its key, and the places of the entries that lead to wanted paths."""

    value_at: int = -1  # -1 if the text has no such value
    key_at: int = -1
    entries: dict[PathKey, _Place] = field(default_factory=dict)


def locate(text: str, wanted: set[KeyPath]) -> dict[KeyPath, tuple[int, int]]:
    """Map each wanted path to the offsets of its value and key; for a missing path, both are its nearest parent's."""
    root = _Place()
    for path in wanted:
        place = root
        for key in path:
            place = place.entries.setdefault(key, _Place())
    _fill_in(text, root)
    return {path: _offsets(root, path) for path in wanted}


def _fill_in(text: str, root: _Place) -> None:
    """Set the offsets of all places that are in the text; a key that appears twice has its last place."""
    stack: list[tuple[_Place, Iterator[int]]] = []  # the open containers, and the indices of their entries
    position = 0
    while match := _ENTRY.match(text, position):
        position, at, key_at = match.end(), match.start(2), match.start(1)
        if text[at] in "]}":
            stack.pop()
            continue
        place: _Place | None = root
        if stack:
            parent, indices = stack[-1]
            place = parent.entries.get(next(indices) if key_at < 0 else _scan(text, key_at)[0])
        if place is not None:
            place.value_at, place.key_at = at, at if key_at < 0 else key_at
        if text[at] in "[{":
            if place is not None and place.entries:
                stack.append((place, count()))
            elif stack:
                position = _end(text, at)
            else:
                return  # only the place of the document is wanted


def _end(text: str, at: int) -> int:
    """Return the offset after the container that begins at an offset."""
    depth = 0
    for match in _TO_BRACKET.finditer(text, at):
        depth += 1 if match[1] in "[{" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _offsets(root: _Place, path: KeyPath) -> tuple[int, int]:
    place = root
    for key in path:
        inner = place.entries[key]
        if inner.value_at < 0:
            return place.value_at, place.value_at
        place = inner
    return place.value_at, place.key_at


_BLOCK = 2**16


class Lines:
    """The lines of a text: the number and the beginning of the line at every 65,536th character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._places = [(1, 0)]
        for at in range(0, len(text), _BLOCK):
            number, begin = self._places[-1]
            newline = text.rfind("\n", at, at + _BLOCK)
            self._places.append((number + text.count("\n", at, at + _BLOCK), begin if newline < 0 else newline + 1))

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both counted from 1."""
        block = offset // _BLOCK
        number, begin = self._places[block]
        newline = self._text.rfind("\n", block * _BLOCK, offset)
        line = number + self._text.count("\n", block * _BLOCK, offset)
        return line, offset - (begin if newline < 0 else newline + 1) + 1

    def problem(self, offset: int, finding: Finding) -> Problem:
        """Return a finding as a problem with line and column."""
        line, column = self.place(offset)
        return Problem(path_text(finding.path), finding.message, finding.code, line, column)
