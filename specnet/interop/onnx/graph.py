"""A builder for ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.layerspec import LayerSpec
from specnet.model import Model
from specnet.plan import LayerPlan
from specnet.spec.composite_spec import CompositeSpec

OLDEST = (13, 7)
"""Operator set and file version of ONNX 1.8, which old runtimes read. A layer can require newer ones."""


LARGEST = (2**20, 2**31)
"""The most nodes of a graph, and the most bytes of its arrays; protobuf limits a file to 2 GiB."""


class Graph:
    """The nodes and arrays added to a graph so far; `operators` is the version of the operator set that they need.

    `writers` maps a layer type to the function that adds the nodes of a layer and returns the name of its output.
    ONNX's spatial operators have the channels on the second axis, specnet on the last. A value is turned only where a
    layer needs it, so a run of spatial layers and activations has one Transpose before it and one behind it.
    `most` limits the numbers of nodes and of bytes in arrays.
    """

    def __init__(
        self, model: Model, onnx: Any, writers: Mapping[str, LayerWriter], most: tuple[int, int] = LARGEST
    ) -> None:
        self.writers = writers
        self._left = list(most)
        self.model = model
        self.onnx = onnx
        self.operators = OLDEST[0]
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self._first: set[str] = set()
        """The values with their channels on the second axis."""
        self._turned: dict[str, str] = {}
        """The name of each value that a Transpose takes or returns -> the name of the other one."""

    @property
    def is_double(self) -> bool:
        """Whether the model computes in float64, in which ONNX Runtime lacks many operators."""
        return bool(self.model.dtype == np.float64)

    def made(self) -> Any:
        """Return the graph as an ONNX GraphProto."""
        types, model = self.onnx.TensorProto, self.model
        kinds = {"float32": types.FLOAT, "float64": types.DOUBLE, "int64": types.INT64}
        value = self.onnx.helper.make_tensor_value_info
        return self.onnx.helper.make_graph(
            self.nodes,
            model.plan.name or "model",
            [value("input", kinds[model.input_dtype.name], ["batch", *model.input_shape])],
            [value("output", kinds[model.dtype.name], ["batch", *model.output_shape])],
            self.arrays,
        )

    def node(self, kind: str, inputs: list[str], output: str = "", place: int = 0, **attributes: Any) -> str:
        """Add a node; return the name of its output, which has this place among those of the operator."""
        self._use(nodes=1)
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(
                kind, inputs, [*[""] * place, name], name=f"node_{len(self.nodes)}", **attributes
            )
        )
        return name

    def array(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant; return its name."""
        self._use(size=value.nbytes)
        self.arrays.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def number(self, value: float) -> str:
        """Add a scalar constant of the model's dtype; return its name."""
        return self.array(f"number_{len(self.arrays)}", np.array(value, self.model.dtype))

    def check_room(self, numbers: int) -> None:
        """Check, before it is made, that an array of this many numbers may be added. Raises SpecnetError."""
        self._use(size=numbers * self.model.dtype.itemsize)
        self._left[1] += numbers * self.model.dtype.itemsize

    def _use(self, nodes: int = 0, size: int = 0) -> None:
        self._left = [self._left[0] - nodes, self._left[1] - size]
        if min(self._left) < 0:
            msg = f"{self.model.plan.name or 'model'}: its ONNX graph has too many nodes or too large arrays"
            raise SpecnetError(msg)

    def need(self, operators: int) -> None:
        """Require at least this version of the operator set."""
        self.operators = max(self.operators, operators)

    def is_channels_first(self, x: str) -> bool:
        """Return whether a value has its channels on the second axis."""
        return x in self._first

    def mark_channels_first(self, x: str) -> str:
        """Record that a value has its channels on the second axis; return its name."""
        self._first.add(x)
        return x

    def channels_first(self, x: str, rank: int) -> str:
        """Return a value of this rank with its channels on the second axis."""
        return x if x in self._first else self.mark_channels_first(self._turn(x, [0, rank - 1, *range(1, rank - 1)]))

    def channels_last(self, x: str, rank: int) -> str:
        """Return a value of this rank with its channels on the last axis."""
        return self._turn(x, [0, *range(2, rank), 1]) if x in self._first else x

    def _turn(self, x: str, axes: list[int]) -> str:
        if x not in self._turned:
            turned = self.node("Transpose", [x], perm=axes)
            self._turned |= {x: turned, turned: x}
        return self._turned[x]

    def chain(self, specs: Any, plans: Any, x: str, prefix: str) -> str:
        """Add layers in sequence; return the name of the last output. Raises SpecnetError for an unsupported type."""
        for spec, plan in zip(specs, plans, strict=True):
            name = f"{prefix}{spec.name}"
            if spec.type in self.writers:
                x = self.writers[spec.type](self, GraphLayer(self.model, name, spec, plan), x)
            elif isinstance(spec, CompositeSpec):
                x = self._composite(spec, plan, x, name)
            else:
                msg = f"{name}: ONNX has no operator for a layer of type {spec.type!r}"
                raise SpecnetError(msg)
        return x

    def _composite(self, spec: Any, plan: LayerPlan, x: str, name: str) -> str:
        inner_plans = iter(plan.layers)

        def branch_output(specs: Any) -> str:
            return self.chain(specs, [next(inner_plans) for _ in specs], x, f"{name}.")

        if spec.type == "sequential":
            return branch_output(spec.layers)
        if spec.type == "residual":
            return self._joined("Add", plan, [branch_output(spec.layers), branch_output(spec.shortcut)])
        if spec.type == "concat":
            return self._joined("Concat", plan, [branch_output(branch) for branch in spec.branches])
        msg = f"{name}: ONNX has no operator for a layer of type {spec.type!r}"
        raise SpecnetError(msg)

    def _joined(self, kind: str, plan: LayerPlan, outputs: list[str]) -> str:
        """Add the node that joins branches; if one output is channels first, so are the others and the result."""
        first = any(output in self._first for output in outputs)
        if first:
            outputs = [self.channels_first(output, len(plan.output_shape) + 1) for output in outputs]
        attributes: dict[str, Any] = {"axis": 1 if first else -1} if kind == "Concat" else {}
        joined = self.node(kind, outputs, **attributes)
        return self.mark_channels_first(joined) if first else joined


class GraphLayer:
    """A layer as its writer sees it: type, fields, plan, the rank of its inputs, and its arrays by short name."""

    def __init__(self, model: Model, name: str, spec: LayerSpec, plan: LayerPlan) -> None:
        self.name = name
        self.type = spec.type
        self.fields: Mapping[str, Any] = spec.fields()
        self.plan = plan
        self.rank = len(plan.input_shape) + 1
        self._model = model

    def __contains__(self, name: str) -> bool:
        return f"{self.name}.{name}" in self._model.parameters

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        full = f"{self.name}.{name}"
        return self._model.parameters[full] if full in self._model.parameters else self._model.buffers[full]


LayerWriter = Callable[[Graph, GraphLayer, str], str]
