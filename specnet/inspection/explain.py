"""Explain a trace: the formula of each layer, with the numbers of this input substituted."""

from __future__ import annotations

from collections.abc import Iterator

from specnet.inspection.explanations import EXPLANATIONS
from specnet.inspection.explanations.formulas import formula_lines
from specnet.inspection.trace import LayerTrace, Trace


def explain(traced: Trace, *, markdown: bool = False) -> str:
    """Return a trace as text for learners: formula, numbers and result of each layer, forward and then backward.

    Convolutions and pools show single elements as sums over windows, recurrent layers and attention one step. A layer
    without formulas shows its arrays. The text ends with a newline.
    """
    parts = [_title("Forward", markdown)]
    parts += [_step(index, layer, _forward(layer), markdown) for index, layer in enumerate(traced.layers, 1)]
    if traced.loss is not None:
        parts.append(f"The loss is {traced.loss:.6g}.")
    if traced.layers[0].dy is not None:
        parts.append(_title("Backward", markdown))
        numbered = list(enumerate(traced.layers, 1))
        parts += [_step(index, layer, _backward(layer), markdown) for index, layer in reversed(numbered)]
    return "\n\n".join(parts) + "\n"


def _title(text: str, markdown: bool) -> str:
    return f"### {text}" if markdown else text.upper()


def _step(index: int, layer: LayerTrace, lines: Iterator[str], markdown: bool) -> str:
    shapes = f"{layer.x.shape} -> {layer.y.shape}"
    body = "\n".join(lines)
    if markdown:
        return f"{index}. `{layer.name}` ({layer.type}), {shapes}\n\n```text\n{body}\n```"
    indented = "\n".join(f"   {line}".rstrip() for line in body.splitlines())
    return f"{index}. {layer.name} ({layer.type})  {shapes}\n{indented}"


def _forward(layer: LayerTrace) -> Iterator[str]:
    if layer.type in EXPLANATIONS:
        yield from EXPLANATIONS[layer.type][0](layer)
        return
    arrays = {"x": layer.x, **layer.parameters, **layer.buffers}
    yield from formula_lines("y", layer.formulas.get("y"), arrays, layer.y)


def _backward(layer: LayerTrace) -> Iterator[str]:
    if layer.dy is None:
        return
    if layer.type in EXPLANATIONS:
        yield from EXPLANATIONS[layer.type][1](layer)
        return
    arrays = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
    formulas = layer.formulas
    for name, gradient in layer.gradients.items():
        yield from formula_lines(f"d{name}", formulas.get(f"d{name}"), arrays, gradient)
    if layer.dx is not None:
        yield from formula_lines("dx", formulas.get("dx"), arrays, layer.dx)
