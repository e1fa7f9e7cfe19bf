"""Attention: the scores of one step with all others in the first head, their softmax, and the sum of the values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from specnet.inspection.explanations.formulas import Equations, array_lines, text_of
from specnet.inspection.explanations.grids import SMALL, grid, number, side_by_side
from specnet.inspection.heads import Heads, heads_of
from specnet.inspection.trace import AnyArray, LayerTrace

MOST_NUMBERS = 64
"""Larger matrices of keys and values are not shown."""
MOST_STEPS = 5
"""Of a long sequence, the attention to these steps is shown."""


class _Query(NamedTuple):
    """The query of step `t` of sequence `n` in head 0; `seen` are the steps that it sees; `heads` are of `n`."""

    n: int
    t: int
    seen: AnyArray
    heads: Heads

    def of(self, name: str) -> AnyArray:
        """Return an array of the head: keys, values, or a matrix over time."""
        array: AnyArray = getattr(self.heads, name)
        return array[0, 0]


def attention_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield the definition, the numbers of the last step in the first head, and y."""
    bias = " + its bias" if "query_bias" in layer.parameters else ""
    heads, size = layer.fields["heads"], _key_size(layer)
    yield f"Q, K, V = x @ query, key and value{bias}; each of the {heads} heads has {size} of the columns"
    yield f"head = softmax(Q @ K.T / sqrt({size})) @ V, over {_seen_text(layer)}"
    yield f"y = (the heads side by side) @ output{bias}"
    yield from array_lines("x", layer.x)
    query = _query(layer)
    if query is not None:
        yield ""
        yield f"Sequence {query.n}, head 0, the query of step {query.t}:"
        yield from _head_lines(query, size)
        yield from _output_lines(layer, query)
        yield ""
    yield from array_lines("y", layer.y)


def attention_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield how the gradient of this step goes back to its scores and its query, and the gradients of the layer."""
    assert layer.dy is not None
    assert layer.dx is not None
    yield from array_lines("dy", layer.dy)
    query, size = _query(layer), _key_size(layer)
    if query is not None and not _has_dropped(layer, query):
        weight = layer.parameters["output"][:size].astype(np.float64)
        d_found = weight @ layer.dy[query.n, query.t].astype(np.float64)
        values, attention = query.of("value"), query.of("attention")[query.t]
        d_attention = values @ d_found
        d_scores = attention * (d_attention - attention @ d_attention)
        place = f"{query.n}, {query.t}"
        yield ""
        yield f"Sequence {query.n}, head 0, the query of step {query.t}, backward:"
        equations = Equations({"attention": attention, f"dy[{place}]": layer.dy[query.n, query.t]})
        yield from equations.write("d_found", f"output[:{size}] @ dy[{place}]", d_found)
        yield from equations.write("d_attention", "V @ d_found", d_attention)
        yield from equations.write("d_scores", "attention * (d_attention - attention @ d_attention)", d_scores)
        d_query = d_scores @ query.of("key") / np.sqrt(size)
        yield from equations.write("dq", f"d_scores @ K / sqrt({size})", d_query)
        yield ""
    for name, gradient in layer.gradients.items():
        yield from array_lines(f"d{name}", gradient)
    yield from array_lines("dx", layer.dx)


def _head_lines(query: _Query, size: int) -> Iterator[str]:
    """Yield the scores of the query, the attention, and what the head finds."""
    keys, values, q = query.of("key"), query.of("value"), query.of("query")[query.t]
    if keys.size <= MOST_NUMBERS:
        yield from side_by_side([grid(keys, "K"), grid(values, "V")])
    yield f"q = {text_of(q)}"
    equations = Equations({"q": q})
    attention = query.of("attention")[query.t]
    yield from equations.write("scores", f"K @ q / sqrt({size})", query.of("scores")[query.t])
    if not query.seen.all():
        yield f"The score is -inf at steps that it does not see: {_steps(np.flatnonzero(~query.seen))}"
    yield from equations.write("attention", "exp(scores) / exp(scores).sum()", attention)
    if attention.size > SMALL:
        largest = np.argsort(-attention, kind="stable")[:MOST_STEPS].tolist()
        yield f"Most goes to {', '.join(f'step {step} ({number(float(attention[step]))})' for step in largest)}"
    yield from equations.write("found", "attention @ V", query.of("found")[query.t])


def _output_lines(layer: LayerTrace, query: _Query) -> Iterator[str]:
    """Yield an element of y, from what all heads found."""
    if _has_dropped(layer, query):
        yield "Dropout has changed the attention before its product with V, so y has other numbers."
        return
    joined = query.heads.found[0, :, query.t].reshape(-1)
    yield f"joined = {text_of(joined)}, what all heads found"
    equations = Equations({"joined": joined, "output[:, 0]": layer.parameters["output"][:, 0]})
    plus = ""
    if "output_bias" in layer.parameters:
        plus = " + output_bias[0]"
        equations.know("output_bias[0]", layer.parameters["output_bias"][0])
    target = f"y[{query.n}, {query.t}, 0]"
    yield from equations.write(target, f"joined @ output[:, 0]{plus}", layer.y[query.n, query.t, 0])


def _has_dropped(layer: LayerTrace, query: _Query) -> bool:
    """Return whether y is that of a pass in training with dropout."""
    if not layer.fields["dropout"]:
        return False
    joined = query.heads.found[0, :, query.t].reshape(-1)
    expected = joined @ layer.parameters["output"].astype(np.float64) + layer.parameters.get("output_bias", 0)
    return not np.allclose(expected, layer.y[query.n, query.t], rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def _query(layer: LayerTrace) -> _Query | None:
    """Return the last step that counts of the first sequence with one; None if no step counts."""
    mask = np.ones(layer.x.shape[:2], np.bool_) if layer.mask is None else layer.mask
    if not mask.any():
        return None
    n = int(mask.any(axis=1).argmax())
    t = int(np.flatnonzero(mask[n])[-1])
    causal = layer.fields["causal"]
    heads = heads_of(layer.parameters, layer.x[n : n + 1], layer.fields["heads"], causal=causal, mask=mask[n : n + 1])
    return _Query(n, t, mask[n] & (np.arange(mask.shape[1]) <= t) if causal else mask[n], heads)


def _key_size(layer: LayerTrace) -> int:
    return layer.parameters["query"].shape[1] // layer.fields["heads"]


def _seen_text(layer: LayerTrace) -> str:
    """Return which steps a step sees."""
    counting = "" if layer.mask is None else " that count"
    return f"the steps{counting}" + (", up to its own" if layer.fields["causal"] else "")


def _steps(steps: AnyArray) -> str:
    return ", ".join(map(str, steps.tolist()))
