"""Recognition of self-attention in a graph of products: softmax(Q @ K.T * scale) @ V, by heads.

The graph must be the one that `writers` makes. Its products with constants come before and behind the steps that the
heads take, which join three values that are computed from one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import Entry, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.steps import GraphNode, NodeRead
from specnet.layers.sequence.attention import INPUTS

_AXES = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}

_Constants = Mapping[str, npt.NDArray[Any]]


class _NoMatchError(Exception):
    """A graph that is not attention."""


class _Matcher:
    """Goes back from a value through the nodes that must be there. Its methods raise _NoMatchError."""

    def __init__(self, nodes: Mapping[str, GraphNode], constants: _Constants) -> None:
        self._nodes = nodes
        self._constants = constants

    def node(self, value: str, operator: str) -> GraphNode:
        node = self._nodes.get(value)
        if node is None or node.op_type != operator:
            raise _NoMatchError
        return node

    def with_constant(self, value: str, operator: str) -> tuple[str, str]:
        """Return the value and the name of the constant that an operator combines."""
        node = self.node(value, operator)
        if len(node.input) != 2 or node.input[0] in self._constants or node.input[1] not in self._constants:
            raise _NoMatchError
        return node.input[0], node.input[1]

    def has(self, value: str, operator: str) -> bool:
        node = self._nodes.get(value)
        return node is not None and node.op_type == operator

    def part(self, value: str, name: str) -> tuple[str, dict[str, str], list[int]]:
        """Return where queries, keys or values come from, the names of their weight and bias, and their shape."""
        turned = self.node(value, "Transpose")
        if list(turned.attributes.get("perm", ())) != _AXES[name]:
            raise _NoMatchError
        x, shape = self.with_constant(turned.input[0], "Reshape")
        names = {}
        if self.has(x, "Add"):
            x, names[f"{name}_bias"] = self.with_constant(x, "Add")
        x, names[name] = self.with_constant(x, "MatMul")
        return x, names, [int(size) for size in self._constants[shape].reshape(-1)[:5]]

    def heads(self, value: str) -> tuple[str, dict[str, str], list[list[int]], dict[str, str]]:
        """Return the origin of what the heads find, names of arrays by parameter, shapes, and scale and mask."""
        found = self.node(value, "MatMul")
        softmax = self.node(found.input[0], "Softmax")
        if softmax.attributes.get("axis", -1) not in (-1, 3):
            raise _NoMatchError
        scores, others = softmax.input[0], {}
        if self.has(scores, "Add"):
            scores, others["later"] = self.with_constant(scores, "Add")
        scores, others["scale"] = self.with_constant(scores, "Mul")
        product = self.node(scores, "MatMul")
        parts = zip(INPUTS, (*product.input, found.input[1]), strict=True)
        origins, names, shapes = zip(*(self.part(value, name) for name, value in parts), strict=True)
        if len(set(origins)) > 1:
            raise _NoMatchError
        return origins[0], {k: v for part in names for k, v in part.items()}, list(shapes), others


def recognized(nodes: Mapping[str, GraphNode], constants: _Constants, value: str) -> tuple[NodeRead, str] | None:
    """Return the step in which the heads of attention compute a value, and its origin; None if they do not."""
    try:
        origin, names, shapes, others = _Matcher(nodes, constants).heads(value)
    except (_NoMatchError, ValueError, IndexError):
        return None
    step = NodeRead("attention", value, {"shapes": shapes, "names": names, "others": others})
    step.constants = [(name, constants[name]) for name in (*names.values(), *others.values())]
    return step, origin


def _attention(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read what the heads find, and the Transpose, Reshape, MatMul and Add that make the output of it."""
    step, constants = steps[0], dict(steps[0].constants)
    if len(reader.shape) != 2 or reader.first or reader.axes:
        raise UnsupportedNodeError("is attention over other axes than (batch, time, features)")
    arrays: Arrays = {name: constants[array] for name, array in step.attributes["names"].items()}
    time, features = reader.shape
    width = arrays["query"].shape[-1]
    heads = next(iter(step.attributes["shapes"]))[2:3]
    is_even = len(heads) == 1 and heads[0] > 0 and width % heads[0] == 0
    expected = [0, time, heads[0], width // heads[0]] if is_even else []
    if any(shape != expected for shape in step.attributes["shapes"]) or len(steps) < 4:
        raise UnsupportedNodeError(f"is attention whose heads do not divide {width} columns of {time} steps")
    _check_joined(steps[1:3], time, width)
    output, used = steps[3], 4
    if output.operator != "MatMul" or output.position:
        raise UnsupportedNodeError("is attention without a product behind it")
    source, arrays["output"] = output.constants[0]
    if len(steps) > 4 and steps[4].operator == "Add" and not steps[4].ways and steps[4].constants[0][1].ndim == 1:
        arrays["output_bias"], used = steps[4].constants[0][1], 5
    _fill_biases(arrays, features, width)
    others = {name: constants[array] for name, array in step.attributes["others"].items()}
    key_size = width // heads[0]
    entry: Entry = {"type": "attention", "heads": heads[0], "key_size": None if width == features else key_size}
    entry |= {"causal": _is_causal(others, time, key_size), "bias": "output_bias" in arrays}
    reader.note_use(source)
    reader.add(entry, arrays, source)
    return used


def _check_joined(steps: Sequence[NodeRead], time: int, width: int) -> None:
    """Check the Transpose and the Reshape that join the heads. Raises UnsupportedNodeError."""
    turned, joined = steps
    shape = joined.operands[1] if joined.operator == "Reshape" and len(joined.operands) > 1 else None
    is_turned = turned.operator == "Transpose" and list(turned.attributes.get("perm", ())) == [0, 2, 1, 3]
    if not is_turned or shape is None or shape.tolist() != [0, time, width]:
        raise UnsupportedNodeError("is attention whose heads are not joined on the last axis")


def _fill_biases(arrays: Arrays, features: int, width: int) -> None:
    """Add zeros for the biases that are missing, if there is one."""
    if any(name.endswith("_bias") for name in arrays):
        for name in (*INPUTS, "output"):
            size = features if name == "output" else width
            arrays.setdefault(f"{name}_bias", np.zeros(size, arrays["query"].dtype))


def _is_causal(others: Mapping[str, npt.NDArray[Any]], time: int, key_size: int) -> bool:
    """Return whether later steps are left out. Raises UnsupportedNodeError for another scale or mask."""
    scale = others["scale"]
    if scale.size != 1 or abs(scale.item() * np.sqrt(key_size) - 1) > 1e-6:
        raise UnsupportedNodeError("is attention with another scale than 1 / sqrt(key_size)")
    later = others.get("later")
    if later is None:
        return False
    is_later = np.triu(np.ones((time, time), np.bool_), 1)
    if later.shape[-2:] != (time, time) or later.size != time * time or not np.isneginf(later[..., is_later]).all():
        raise UnsupportedNodeError("is attention with another mask than that of later steps")
    if later[..., ~is_later].any():
        raise UnsupportedNodeError("is attention with numbers added to its scores")
    return True


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {"attention": _attention}
