"""Text as tokens: characters, or words and marks. Indices 0 to 2 are reserved; the tokens of a vocabulary follow."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, END, UNKNOWN, FIRST = 0, 1, 2, 3
"""Indices of padding, of the end (and the start) of a line, of an unknown token, and of the first token."""

_WORD = re.compile(r"\w")

_WORDS = re.compile(r"\w+|[^\w\s]")


def split_text(kind: str, text: str) -> list[str]:
    """Return the tokens of a text in Unicode's composed form, so that text that looks equal has equal tokens.

    `kind` is "characters" or "words": runs of letters, digits and underscores, and each other character that is not
    white space.
    """
    composed = unicodedata.normalize("NFC", text)
    return list(composed) if kind == "characters" else _WORDS.findall(composed)


def join_tokens(kind: str, tokens: Sequence[str]) -> str:
    """Return the text of tokens. Words are joined by blanks; there is none before a mark, such as a comma."""
    if kind == "characters":
        return "".join(tokens)
    return "".join(f" {token}" if at and _WORD.match(token) else token for at, token in enumerate(tokens))


def most_frequent(kind: str, texts: Iterable[str], most: int) -> tuple[tuple[str, ...], int]:
    """Return at most `most` tokens of texts, the most frequent first, and the number of different tokens.

    Equally frequent tokens are in the order of their code points.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_text(kind, text))
    ordered = sorted(counts, key=lambda token: (-counts[token], token))
    return tuple(ordered[:most]), len(ordered)


def vocabulary_fault(kind: str, vocabulary: Sequence[str]) -> tuple[int, str] | None:
    """Return the index of the first entry that is no token or appears a second time, and the message; or None."""
    seen: set[str] = set()
    for index, token in enumerate(vocabulary):
        if split_text(kind, token) != [token]:
            what = "one character" if kind == "characters" else "a word, or one character that is no white space"
            return index, f"expected {what}"
        if token in seen:
            return index, "appears a second time; tokens must be unique"
        seen.add(token)
    return None


def size_fault(vocabulary: Sequence[str], limit: int | None, axes: int) -> str:
    """Return why a model cannot take tokens, otherwise "".

    `limit` is the number of different integers that its inputs may be, None for real numbers; `axes` is the number of
    axes of an input.
    """
    if limit is None or axes != 1:
        what = "an input_shape of [time] and a first layer that takes integers"
        return f'expected {what}, as text becomes a row of integers; begin with an "embedding"'
    needed = FIRST + max(len(vocabulary), 1)
    if limit < needed:
        room = f"a first layer that takes at least {needed} integers: {FIRST} are reserved, the tokens follow"
        return f"expected {room}; got one that takes {limit}; set the vocabulary of the embedding to {needed}"
    return ""
