"""The data that the graph reader passes to the layer builder: the steps of a graph and the properties of its input."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple


class Given:
    """Properties of a graph and its input; `shape` is without the batch axis, `batch` is 0 if the size is not fixed."""

    def __init__(self, shape: ShapeTuple, batch: int, version: int, *, integers: bool, kind: str) -> None:
        self.shape = shape
        self.batch = batch
        self.version = version
        self.integers = integers
        self.kind = kind
        self.seen: set[str] = set()
        """The names of the weights that a layer already uses."""


class NodeRead:
    """One node between two values: its operator, attributes, constant inputs, and the branches (`ways`) it combines.

    The operator "layer" stands for a recognized activation; its attributes are the layer entry.
    """

    def __init__(self, operator: str, name: str, attributes: dict[str, Any]) -> None:
        self.operator = operator
        self.name = name
        self.attributes = attributes
        self.outputs = 1
        self.constants: list[tuple[str, npt.NDArray[Any]]] = []
        self.constant_first = False
        self.ways: list[list[NodeRead]] = []
