"""What the readers of a graph pass on: its nodes, then the steps to its output, and the properties of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple


class GraphNode(NamedTuple):
    """A node of a graph, under the names that onnx gives to its parts; `input` skips nodes that change nothing."""

    op_type: str
    domain: str
    name: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name or self.output[0]} ({self.domain}{'.' if self.domain else ''}{self.op_type})"


class Given:
    """Properties of a graph and its input; `shape` is without the batch axis, `batch` is 0 if the size is not fixed.

    `version` is that of the operator set. If `channels_first`, the graph has the last axis of the shape in front of the
    others. `copies` is called with the bytes that a reader copies; it raises UnsupportedNodeError for too many.
    """

    def __init__(
        self,
        shape: ShapeTuple,
        batch: int,
        version: int,
        *,
        integers: bool,
        channels_first: bool,
        copies: Callable[[int], None],
    ) -> None:
        self.shape = shape
        self.channels_first = channels_first
        self.copies = copies
        self.batch = batch
        self.version = version
        self.integers = integers
        self.seen: set[str] = set()
        """The names of the weights that a layer already uses."""
        self.listed = 0
        """How many numbers the document lists so far."""


class NodeRead:
    """One node between two values: its operator, attributes, constant inputs, and the branches (`ways`) it combines.

    The operator "layer" stands for a recognized activation; its attributes are the layer entry. `operands` has the
    constant at each input, or None; `constants` has them alone, with their names. `position` is the index of the input
    that is not constant, `output` that of the output used, `rank` the largest rank of the constants of an activation.
    """

    def __init__(self, operator: str, name: str, attributes: dict[str, Any]) -> None:
        self.operator = operator
        self.name = name
        self.attributes = attributes
        self.outputs = 1
        self.output = 0
        self.constants: list[tuple[str, npt.NDArray[Any]]] = []
        self.operands: list[npt.NDArray[Any] | None] = []
        self.position = 0
        self.rank = 0
        self.ways: list[list[NodeRead]] = []
