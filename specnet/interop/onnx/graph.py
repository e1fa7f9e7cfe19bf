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


class Graph:
    """The nodes and arrays added to a graph so far; `operators` is the version of the operator set that they need.

    `writers` maps a layer type to the function that adds the nodes of a layer and returns the name of its output.
    """

    def __init__(self, model: Model, onnx: Any, writers: Mapping[str, LayerWriter]) -> None:
        self.writers = writers
        self.model = model
        self.onnx = onnx
        self.operators = OLDEST[0]
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []

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

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, [name], name=f"node_{len(self.nodes)}", **attributes)
        )
        return name

    def array(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant; return its name."""
        self.arrays.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def number(self, value: float) -> str:
        """Add a scalar constant of the model's dtype; return its name."""
        return self.array(f"number_{len(self.arrays)}", np.array(value, self.model.dtype))

    def need(self, operators: int) -> None:
        """Require at least this version of the operator set."""
        self.operators = max(self.operators, operators)

    def chain(self, specs: Any, plans: Any, x: str, prefix: str) -> str:
        """Add layers in sequence; return the name of the last output. Raises SpecnetError for an unsupported type."""
        for spec, plan in zip(specs, plans, strict=True):
            name = f"{prefix}{spec.name}"
            if isinstance(spec, CompositeSpec):
                x = self._composite(spec, plan, x, name)
            elif spec.type in self.writers:
                x = self.writers[spec.type](self, GraphLayer(self.model, name, spec, plan), x)
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
            return self.node("Add", [branch_output(spec.layers), branch_output(spec.shortcut)])
        if spec.type == "concat":
            return self.node("Concat", [branch_output(branch) for branch in spec.branches], axis=-1)
        msg = f"{name}: ONNX has no operator for a layer of type {spec.type!r}"
        raise SpecnetError(msg)


class GraphLayer:
    """A layer as its writer sees it: its fields, its plan, the rank of its inputs, and its arrays by short name."""

    def __init__(self, model: Model, name: str, spec: LayerSpec, plan: LayerPlan) -> None:
        self.name = name
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
