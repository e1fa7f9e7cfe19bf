"""Explain a trace: the formula of each layer, with the numbers of this input substituted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.inspection.explanations import EXPLANATIONS
from specnet.inspection.explanations.grids import SMALL, compact
from specnet.inspection.explanations.windows import images
from specnet.inspection.trace import LayerTrace, Trace

IMAGES = 4
"""The number of axes of images, (batch, height, width, channels): they are shown as grids, not on one line."""


def explain(traced: Trace, *, markdown: bool = False) -> str:
    """Return a trace as text for learners: formula, numbers and result of each layer, forward and then backward.

    Convolutions and pools show single elements as sums over windows. A layer without formulas shows its arrays. The
    text ends with a newline.
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
    yield from _formula_lines("y", layer.formulas.get("y"), arrays, layer.y)


def _backward(layer: LayerTrace) -> Iterator[str]:
    if layer.dy is None:
        return
    if layer.type in EXPLANATIONS:
        yield from EXPLANATIONS[layer.type][1](layer)
        return
    arrays = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
    formulas = layer.formulas
    for name, gradient in layer.gradients.items():
        yield from _formula_lines(f"d{name}", formulas.get(f"d{name}"), arrays, gradient)
    if layer.dx is not None:
        yield from _formula_lines("dx", formulas.get("dx"), arrays, layer.dx)


def _formula_lines(
    name: str, formula: str | None, arrays: Mapping[str, npt.NDArray[Any]], result: Any
) -> Iterator[str]:
    """Yield the lines `y = x @ weight`, the formula with numbers, and the result."""
    margin = " " * len(name)
    if formula is None:
        if name == "y":
            yield from _array_lines("x", arrays["x"])
        yield from _array_lines(name, np.asarray(result))
        return
    yield f"{name} = {formula}"
    names = "|".join(sorted(arrays, key=len, reverse=True))
    numbers = re.sub(
        rf"(?<![\w.])({names})\b",
        lambda match: compact(arrays[match[1]]) if _fits_a_line(arrays[match[1]]) else match[1],
        formula,
    )
    if numbers != formula:
        yield f"{margin} = {numbers}"
    if np.ndim(result) == IMAGES:
        yield from images(name, result).lines()
    else:
        yield f"{margin} = {compact(np.asarray(result))}"


def _fits_a_line(array: npt.NDArray[Any]) -> bool:
    return array.size <= SMALL and array.ndim != IMAGES


def _array_lines(name: str, array: npt.NDArray[Any]) -> Iterator[str]:
    """Yield images as grids, and other arrays on one line."""
    if array.ndim == IMAGES:
        yield from images(name, array).lines()
    else:
        yield f"{name} = {compact(array)}"
