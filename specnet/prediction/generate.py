"""Write text with a model that predicts the next token: one token after the other, exact by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from specnet.arrays.parameters import Array
from specnet.arrays.randomness import philox
from specnet.arrays.tokens import END, PADDING, UNKNOWN, split_text
from specnet.data.sequences.text import TokenTable, predicts_tokens
from specnet.errors import DataError, SpecnetError
from specnet.model import Model


def generate(
    model: Model,
    prompt: str = "",
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    lines: int = 1,
) -> Iterator[str]:
    """Yield lines of text that begin with the prompt, as a model trained on the lines of a text file goes on.

    Each token is drawn from softmax(outputs / temperature), of the `top_k` most likely tokens if it is given; with
    temperature 0 it is the most likely one. A line ends with the token for the end, or at the model's time axis. The
    draws of a line depend on the seed and the line's number alone.

    Raises SpecnetError for a model that does not predict tokens and for settings, DataError for the prompt.
    """
    table = _table_of(model)
    _check_settings(temperature, top_k, lines)
    begun = [END, *_encode_prompt(table, prompt, model.input_shape[0])]
    return (_line(model, table, begun, philox(seed, f"generate/{line}"), temperature, top_k) for line in range(lines))


def _line(
    model: Model, table: TokenTable, begun: list[int], draws: np.random.Philox, temperature: float, top_k: int | None
) -> str:
    """Return a line whose first indices are `begun`, END and the prompt."""
    generator = np.random.Generator(draws)
    row = np.full((1, *model.input_shape), PADDING, np.int64)
    row[0, : len(begun)] = begun
    for step in range(len(begun), model.input_shape[0]):
        outputs = model.predict(row)[0, step - 1, : table.size].astype(np.float64)
        if np.isnan(outputs).any():
            msg = "generate: the model's outputs are not numbers (NaN); its weights are damaged or were not trained"
            raise SpecnetError(msg)
        token = _draw(_logits(model, outputs), generator.random(), temperature, top_k)
        if token == END:
            break
        row[0, step] = token
    return table.decode(row[0].tolist())


def _logits(model: Model, outputs: Array) -> Array:
    if model.spec.layers[-1].type != "softmax":
        return outputs
    with np.errstate(divide="ignore"):
        return np.log(outputs)


def _draw(logits: Array, uniform: float, temperature: float, top_k: int | None) -> int:
    """Return a token: the most likely one, or the one on which a uniform number falls; never padding or unknown."""
    logits = logits.copy()
    logits[[PADDING, UNKNOWN]] = -np.inf
    order = np.argsort(-logits, kind="stable")[: top_k or len(logits)]
    if not temperature:
        return int(order[0])
    with np.errstate(over="ignore"):
        weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    sums = np.cumsum(weights)
    return int(order[min(np.searchsorted(sums, uniform * sums[-1], side="right"), np.count_nonzero(weights) - 1)])


def _table_of(model: Model) -> TokenTable:
    tokenizer = model.spec.tokenizer
    if tokenizer is None or not tokenizer.vocabulary:
        what = "no tokenizer" if tokenizer is None else "a tokenizer without a vocabulary"
        msg = f"generate: the model has {what}; train one with the key tokenizer on the lines of a .txt file"
        raise SpecnetError(msg)
    table = TokenTable(tokenizer)
    if not predicts_tokens(model.spec):
        expected = f"(time, {table.size})"
        msg = f"generate: expected a model whose outputs are tokens, of shape {expected}, got {model.output_shape}"
        raise SpecnetError(msg)
    return table


def _encode_prompt(table: TokenTable, prompt: str, time: int) -> list[int]:
    indices = table.encode(prompt)
    if UNKNOWN in indices:
        place = indices.index(UNKNOWN)
        token = split_text(table.kind, prompt)[place]
        known = "".join(table.tokens[:100]) if table.kind == "characters" else " ".join(table.tokens[:20])
        msg = f'prompt: token {place + 1}, "{token}", is not in the vocabulary; the most frequent are {known}'
        raise DataError(msg)
    if len(indices) > max(time - 2, 0):
        msg = f"prompt: expected at most {time - 2} tokens, as the model's time axis is {time}, got {len(indices)}"
        raise DataError(msg)
    return indices


def _check_settings(temperature: float, top_k: int | None, lines: int) -> None:
    if not (isinstance(temperature, (int, float)) and math.isfinite(temperature) and temperature >= 0):
        msg = f"temperature: expected a number of at least 0, got {temperature}"
        raise SpecnetError(msg)
    for name, value in (("top_k", top_k), ("lines", lines)):
        if value is not None and (not isinstance(value, int) or value < 1):
            msg = f"{name}: expected a positive integer, got {value}"
            raise SpecnetError(msg)
