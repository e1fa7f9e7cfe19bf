"""Attention maps: how much each step of some sequences takes of every other one, in each head of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.composite import Composite
from specnet.errors import printable
from specnet.inspection.heads import heads_of
from specnet.inspection.trace import AnyArray
from specnet.layer import Layer, TimeMask
from specnet.layers.sequence.attention import Attention
from specnet.model import Model
from specnet.spec.model_spec import ModelSpec

MOST_SEQUENCES = 3
MOST_HEADS = 8
"""The number of heads that are shown of each sequence: the first of the model."""
LONGEST_TOKEN = 10
SPECIAL_TOKENS = ("padding", "⏎", "�")
"""The indices 0, 1 and 2 of every vocabulary: padding, the end of a line, an unknown token."""
VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


@dataclass(frozen=True)
class LayerMaps:
    """The maps of an attention layer: (heads, steps, steps), the shares that a step, a row, takes of all steps.

    `labels` are texts for the steps, tokens or numbers from 1; padding is left out.
    """

    layer: str
    attention: AnyArray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class SequenceMaps:
    """The maps of one row of the file, counted from 1, in the order of the model's layers."""

    row: int
    layers: tuple[LayerMaps, ...]


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of some sequences: the first of `heads` in the whole model. `has_tokens`: labels are a tokenizer's."""

    sequences: tuple[SequenceMaps, ...]
    heads: int
    has_tokens: bool

    @property
    def shown(self) -> int:
        """The number of heads that are shown."""
        return min(self.heads, MOST_HEADS)


def count_heads(spec: ModelSpec) -> int:
    """Return the number of heads of all attention layers of a model."""
    return sum(layer.fields()["heads"] for _, layer, _ in spec.walk() if layer.type == "attention")


def attention_maps(model: Model, x: npt.NDArray[Any], rows: Sequence[int]) -> AttentionMaps | None:
    """Return the maps of inputs x, whose rows in the file are `rows`; None if there are none.

    Changes nothing on the model.
    """
    heads, names = count_heads(model.spec), token_names(model.spec)
    if not heads or not len(x):
        return None
    sequences = tuple(SequenceMaps(row, _maps_of(model, inputs, names)) for row, inputs in zip(rows, x, strict=True))
    return AttentionMaps(sequences, heads, bool(names))


def token_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return a short text for each integer of a model's tokenizer; nothing without a tokenizer or its vocabulary."""
    vocabulary = () if spec.tokenizer is None else spec.tokenizer.vocabulary
    return (*SPECIAL_TOKENS, *map(_visible, vocabulary)) if vocabulary else ()


def _visible(token: str) -> str:
    shown = "".join(VISIBLE.get(character, character) for character in token)
    return printable(shown if len(shown) <= LONGEST_TOKEN else f"{shown[: LONGEST_TOKEN - 1]}…")


def _maps_of(model: Model, inputs: AnyArray, names: tuple[str, ...]) -> tuple[LayerMaps, ...]:
    """Return the first maps of one sequence, of the steps that count."""
    x = inputs[np.newaxis].astype(model.input_dtype)
    mask = model.mask_of(x)
    found: dict[str, AnyArray] = {}
    with np.errstate(all="ignore"):  # values that are not finite are shown as such, without a warning
        _collect(model.layers, x, mask, found)
    maps = []
    for layer, attention in found.items():
        steps = attention.shape[1]
        kept = np.arange(steps) if mask is None else np.flatnonzero(mask[0])
        labels = [str(step + 1) for step in range(steps)]
        if x.dtype.kind in "iu" and x.shape == (1, steps):
            labels = [names[token] if token < len(names) else str(token) for token in x[0].tolist()]
        shown = attention[:, kept][:, :, kept]
        if shown.size:
            maps.append(LayerMaps(layer, shown, tuple(labels[step] for step in kept)))
    return tuple(maps)


def _collect(layers: Sequence[Layer], x: AnyArray, mask: TimeMask | None, found: dict[str, AnyArray]) -> None:
    """Put the attention of the first heads, (heads, steps, steps) of each layer, into `found`, by full name."""
    for layer in layers:
        left = MOST_HEADS - sum(map(len, found.values()))
        if isinstance(layer, Attention) and left:
            heads = heads_of(layer.parameters, x, layer.heads, causal=layer.causal, mask=mask)
            found[layer.name] = heads.attention[0, :left].copy()
        for chain in layer.chains if isinstance(layer, Composite) else ():
            _collect(chain.layers, x, mask, found)
        masks = {"mask": mask} if mask is not None and layer.mask_use == "taken" else {}
        x = layer.predict(x, **masks)
        mask = mask if x.ndim > 2 else None
