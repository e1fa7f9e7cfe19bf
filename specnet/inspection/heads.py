"""What the heads of an attention layer compute, by its definition: queries, keys, values and the attention itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from specnet.inspection.trace import AnyArray


class Heads(NamedTuple):
    """Arrays of (batch, heads, …) in float64.

    query, key, value: (…, time, key_size). scores: (…, time, time), -inf where a step does not see another one.
    attention: (…, time, time), how much each step, the first of the two axes, takes of every other one. found: (…,
    time, key_size), the sums of values that a head returns.
    """

    query: AnyArray
    key: AnyArray
    value: AnyArray
    scores: AnyArray
    attention: AnyArray
    found: AnyArray


def heads_of(
    parameters: Mapping[str, AnyArray], x: AnyArray, heads: int, *, causal: bool, mask: AnyArray | None = None
) -> Heads:
    """Return what the heads of an attention layer with these parameters make of x, (batch, time, features)."""

    def divided(name: str) -> AnyArray:
        rows = x.astype(np.float64) @ parameters[name].astype(np.float64) + parameters.get(f"{name}_bias", 0)
        return rows.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    query, key, value = map(divided, ("query", "key", "value"))
    scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3])
    if mask is not None:
        scores = np.where(mask[:, np.newaxis, np.newaxis], scores, -np.inf)
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[2:], np.bool_)), scores, -np.inf)
    largest = scores.max(axis=3, keepdims=True, initial=np.finfo(np.float64).min)
    powers = np.exp(scores - largest)
    sums = powers.sum(axis=3, keepdims=True)
    attention = np.divide(powers, sums, out=np.zeros_like(powers), where=sums > 0)  # a step that sees none has 0
    return Heads(query, key, value, scores, attention, attention @ value)
