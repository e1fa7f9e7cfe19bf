"""The initial and the last states of recurrent operators in a graph.

Torch computes the size of the initial zeros from the size of the batch, and joins the last states of several layers.
What is computed from sizes alone is not read, except that such zeros stand for no initial state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specnet.interop.onnx.builder import UnsupportedNodeError
from specnet.interop.onnx.constants import Constants
from specnet.interop.onnx.steps import GraphNode

RECURRENT = ("GRU", "LSTM", "RNN")


_SIZES = ("Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze")
"""The operators that take sizes apart and put them together."""


class States:
    """The values of a graph that are sizes, and those that are zeros of such a size."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._sizes: set[str] = set()
        self._zeros: set[str] = set()

    def take(self, node: GraphNode, attributes: Any) -> bool:
        """Record a node that computes sizes, or zeros of a size; return False for any other node.

        Raises UnsupportedNodeError if its value cannot be read.
        """
        variable = {name for name in node.input if name and name not in self._constants}
        of_sizes = bool(variable) and variable <= self._sizes
        if node.op_type == "Shape" or (of_sizes and node.op_type in _SIZES):
            self._sizes.add(node.output[0])
        elif self._makes_zeros(node, attributes):
            self._zeros.add(node.output[0])
        else:
            return False
        return True

    def _makes_zeros(self, node: GraphNode, attributes: Any) -> bool:
        if node.op_type == "ConstantOfShape":
            return not any(self._constants.read_tensor(entry.t).any() for entry in attributes if entry.name == "value")
        is_zero = bool(node.input) and self._is_zero(node.input[0])
        return is_zero and (node.op_type == "Expand" or (node.op_type == "Slice" and node.input[0] in self._zeros))

    def _is_zero(self, name: str) -> bool:
        return name in self._zeros or (name in self._constants and not self._constants[name].any())

    def without_zeros(self, node: GraphNode) -> GraphNode:
        """Return a node without initial states of zeros. Raises UnsupportedNodeError for other uses of sizes."""
        if node.op_type in RECURRENT:
            names = (*node.input[:5], *("" if name in self._zeros else name for name in node.input[5:]))
            node = node._replace(input=names)
        if any(name in self._sizes or name in self._zeros for name in node.input):
            raise UnsupportedNodeError("computes with the size of a value; export it with numbers: reshape(-1, 12)")
        return node


def last_of_layers(node: GraphNode, nodes: Mapping[str, GraphNode], constants: Mapping[str, Any]) -> GraphNode:
    """Return a Gather from the joined last states of several layers as one from those of the last layer."""
    joined = nodes.get(node.input[0]) if node.op_type == "Gather" else None
    index = constants.get(node.input[1]) if joined is not None else None
    if joined is None or joined.op_type != "Concat" or index is None or index.ndim or node.attributes.get("axis", 0):
        return node
    last = nodes.get(joined.input[-1])
    is_state = last is not None and last.op_type in RECURRENT and last.output[1:2] == joined.input[-1:]
    if last is None or not is_state or joined.attributes.get("axis", 0):
        return node
    directions = 2 if last.attributes.get("direction") == b"bidirectional" else 1
    return node._replace(input=(joined.input[-1], *node.input[1:])) if -directions <= index.item() < 0 else node
