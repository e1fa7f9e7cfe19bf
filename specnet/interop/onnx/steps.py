"""What reading an ONNX graph hands on to making layers: its steps in their order, and what it says of its input."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple


class Given:
    """What a graph says of its input: the shape without the batch, the batch if it is fixed, the type of numbers."""

    def __init__(self, shape: ShapeTuple, batch: int, version: int, *, integers: bool, kind: str) -> None:
        self.shape = shape
        self.batch = batch
        self.version = version
        self.integers = integers
        self.kind = kind
        self.seen: set[str] = set()
        """Weights that are used already."""


class NodeRead:
    """One node between two values: its operator, attributes, constant inputs, and the ways that it joins.

    A step "layer" is an activation already recognized: its attributes are the entry.
    """

    def __init__(self, operator: str, name: str, attributes: dict[str, Any]) -> None:
        self.operator = operator
        self.name = name
        self.attributes = attributes
        self.outputs = 1
        self.constants: list[tuple[str, npt.NDArray[Any]]] = []
        self.constant_first = False
        self.ways: list[list[NodeRead]] = []
