"""The other layers over sequences: what each of them does, in a line or two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specnet.inspection.explanations.formulas import array_lines
from specnet.inspection.trace import LayerTrace

MOST_SEQUENCES = 8
"""Steps are listed for at most this many sequences."""


def bidirectional_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield which columns of y are those of which direction."""
    first, second = dict.fromkeys(name.partition(".")[0] for name in layer.parameters)
    units = layer.y.shape[-1] // 2
    yield f"y[..., :{units}] is {first}, which takes the steps from the first to the last;"
    yield f"y[..., {units}:] is {second}, which takes them from the last to the first."
    yield from array_lines("x", layer.x)
    yield from array_lines("y", layer.y)


def bidirectional_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield that dx is a sum."""
    first, second = dict.fromkeys(name.partition(".")[0] for name in layer.parameters)
    yield f"{first} and {second} take their columns of dy; dx is the sum of what both return."
    yield from _gradients(layer)


def positions_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield what is added to x."""
    if "weight" in layer.parameters:
        yield f"y[n, t] = x[n, t] + weight[t], a trained vector for each of {len(layer.parameters['weight'])} steps"
    else:
        features = layer.x.shape[2]
        yield f"y[n, t, i] = x[n, t, i] + sin(t / 10000 ** (i / {features})) for even i, and"
        yield f"             x[n, t, i] + cos(t / 10000 ** ((i - 1) / {features})) for odd i"
    yield from array_lines("x", layer.x)
    if len(layer.x):
        yield from array_lines("y[0] - x[0]", layer.y[0].astype(np.float64) - layer.x[0])
    yield from array_lines("y", layer.y)


def positions_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield that the gradient passes."""
    also = "; dweight[t] = dy[:, t].sum(axis=0)" if layer.gradients else ""
    yield f"dx = dy{also}"
    yield from _gradients(layer)


def last_step_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield which step is taken of each sequence."""
    if layer.mask is None:
        yield "y = x[:, -1], the last step of each sequence"
    else:
        last = [row.size - 1 - int(row[::-1].argmax()) if row.any() else None for row in layer.mask]
        steps = ["none" if step is None else str(step) for step in last]
        yield f"y[n] = x[n, the last step that counts]: {_listed(steps)}; 0 if none does"
    yield from array_lines("x", layer.x)
    yield from array_lines("y", layer.y)


def last_step_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield where dy goes."""
    yield "dx is dy at the step that was taken, and 0 at all others."
    yield from _gradients(layer)


def average_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield over which steps the mean is taken."""
    if layer.mask is None:
        yield "y = x.mean(axis=1), the mean over all steps"
    else:
        counts = [str(count) for count in layer.mask.sum(axis=1).tolist()]
        yield f"y[n] = the mean of x[n] over the steps that count, so many: {_listed(counts)}; 0 if none does"
    yield from array_lines("x", layer.x)
    yield from array_lines("y", layer.y)


def average_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield the share of each step."""
    if layer.mask is None:
        yield f"dx[n, t] = dy[n] / {layer.x.shape[1]}"
    else:
        yield "dx[n, t] = dy[n] / the number of steps that count in sequence n; 0 at padding"
    yield from _gradients(layer)


def mask_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield which steps are padding."""
    value = layer.fields["value"]
    counts = (layer.x != layer.x.dtype.type(value)).any(axis=2).sum(axis=1).tolist()
    yield f"y = x; a step whose features all equal {value:g} is padding, which the following layers leave out."
    yield f"Of {layer.x.shape[1]} steps, so many of each sequence count: {_listed(list(map(str, counts)))}"
    yield from array_lines("x", layer.x)


def mask_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield that the gradient passes."""
    yield "dx = dy"
    yield from _gradients(layer)


def _gradients(layer: LayerTrace) -> Iterator[str]:
    assert layer.dy is not None
    yield from array_lines("dy", layer.dy)
    for name, gradient in layer.gradients.items():
        yield from array_lines(f"d{name}", gradient)
    if layer.dx is not None:
        yield from array_lines("dx", layer.dx)


def _listed(texts: list[str]) -> str:
    more = f", … ({len(texts) - MOST_SEQUENCES} more)" if len(texts) > MOST_SEQUENCES else ""
    return ", ".join(texts[:MOST_SEQUENCES]) + more
