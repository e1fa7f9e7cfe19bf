"""Text as rows of integers: the lines of a text file, or a column of a table, divided by the model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from specnet.arrays.tokens import END, FIRST, PADDING, UNKNOWN, join_tokens, most_frequent, split_text
from specnet.data.raw import Note, RawRows, guarded
from specnet.data.sequences.ragged import outputs_have_time, padding_of
from specnet.errors import DataError
from specnet.files.regular import open_regular
from specnet.spec.model_spec import ModelSpec
from specnet.spec.tokenizer_spec import TokenizerSpec


class TokenTable:
    """The tokens of a tokenizer with its vocabulary, and their indices."""

    def __init__(self, tokenizer: TokenizerSpec) -> None:
        self.kind: str = tokenizer.type
        self.tokens = tokenizer.vocabulary
        self.size = FIRST + len(self.tokens)
        self._index_of = {token: FIRST + index for index, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Return the index of each token of a text; UNKNOWN for one that is not in the vocabulary."""
        return [self._index_of.get(token, UNKNOWN) for token in split_text(self.kind, text)]

    def decode(self, indices: Sequence[int]) -> str:
        """Return the text of indices; reserved ones have none."""
        return join_tokens(self.kind, [self.tokens[index - FIRST] for index in indices if index >= FIRST])


def read_lines(path: Path, note: Note) -> RawRows:
    """Read a text file, whose lines are rows; blank lines are left out, with a note. Raises DataError."""

    def read() -> bytes:
        with open_regular(path) as file:
            return file.read()

    try:
        text = str(guarded(path, read), "utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        msg = f"{path}: line {line}: is not UTF-8 text; save it as UTF-8"
        raise DataError(msg) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    if not numbers:
        msg = f"{path}: there are no lines of text"
        raise DataError(msg)
    blank = len(lines) - len(numbers)
    if blank:
        note(f"{path}: {'a blank line' if blank == 1 else f'{blank} blank lines'} left out")
    return RawRows(np.empty(0), text=[lines[number - 1] for number in numbers], lines=numbers)


def fill_vocabulary(rows: RawRows, spec: ModelSpec, source: str, note: Note) -> TokenizerSpec | None:
    """Return the model's tokenizer; without a vocabulary, with the tokens of the rows, as many as the model takes."""
    tokenizer, limit = spec.tokenizer, spec.plan().layers[0].input_limit
    if tokenizer is None or rows.text is None or tokenizer.vocabulary or limit is None:
        return tokenizer
    vocabulary, found = most_frequent(tokenizer.type, rows.text, limit - FIRST)
    if found > len(vocabulary):
        remedy = f"a vocabulary of {FIRST + found} in the embedding keeps all"
        note(f"{source}: the {len(vocabulary)} most frequent of {found} tokens are known to the model; {remedy}")
    return tokenizer.with_vocabulary(vocabulary)


def predicts_tokens(spec: ModelSpec) -> bool:
    """Return whether the outputs say for each time step which token is next."""
    assert spec.tokenizer is not None
    return len(spec.output_shape) == 2 and outputs_have_time(spec) and (
        spec.output_shape[1] >= FIRST + len(spec.tokenizer.vocabulary)
    )  # fmt: skip


def tokenized(rows: RawRows, spec: ModelSpec, source: str) -> RawRows:
    """Convert the text of rows to integers, with `lengths`; return rows without text unchanged.

    Lines of a text file, for a model that predicts tokens, begin with the index END, and their targets are the tokens
    that follow, END for the last. Raises DataError.
    """
    if rows.text is None:
        return rows
    if spec.tokenizer is None:
        msg = f'{source}: is text, and the model takes numbers; add "tokenizer": "characters" to the model document'
        raise DataError(msg)
    if not spec.tokenizer.vocabulary:
        msg = f"{source}: the model's tokenizer has no vocabulary; training from text makes one"
        raise DataError(msg)
    if padding_of(spec) != PADDING:
        msg = f'{source}: rows of text are padded with {PADDING}; set "mask_index": {PADDING} in the embedding'
        raise DataError(msg)
    table = TokenTable(spec.tokenizer)
    rows_of_lines = rows.lines is not None and outputs_have_time(spec)
    if rows_of_lines and not predicts_tokens(spec):
        msg = (
            f"{source}: the tokenizer has {table.size} indices, and the model's outputs have shape "
            f"{spec.output_shape}; to predict the next token, set the units of its last layer to {table.size}"
        )
        raise DataError(msg)
    start = [END] if rows_of_lines else []
    dtype = np.uint8 if table.size <= 256 else np.int64
    parts, lengths = [], np.empty(len(rows.text), np.int64)
    for index, text in enumerate(rows.text):
        tokens = np.array([*start, *table.encode(text), *start], dtype)
        lengths[index] = len(tokens) - len(start)
        if not 1 <= lengths[index] <= spec.input_shape[0]:
            raise DataError(_wrong_length(rows, index, len(tokens) - 2 * len(start), spec, len(start), source))
        parts.append(tokens)
    if not rows_of_lines:
        return rows._replace(inputs=np.concatenate(parts), lengths=lengths)
    inputs, targets = (np.concatenate([part[span] for part in parts]) for span in (slice(-1), slice(1, None)))
    return rows._replace(inputs=inputs, targets=targets.astype(np.int64), lengths=lengths)


def _wrong_length(rows: RawRows, index: int, tokens: int, spec: ModelSpec, start: int, source: str) -> str:
    place = f"line {rows.lines[index]}" if rows.lines is not None else f"row {index + 1}"
    if not tokens:
        return f"{source}: {place}: has no tokens; leave it out"
    most = spec.input_shape[0] - start
    of = f"input_shape is [{spec.input_shape[0]}]" + (", one step of which is for the start" if start else "")
    return (
        f"{source}: {place}: expected at most {most} tokens, as {of}, got {tokens}; "
        "shorten it, or make input_shape longer"
    )
