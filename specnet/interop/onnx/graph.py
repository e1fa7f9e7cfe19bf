"""An ONNX graph in the making."""

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
"""Operator set and file version of ONNX 1.8: what old runtimes read; newer ones only where a layer needs them."""


class Graph:
    """Nodes and arrays of a graph in the making; `operators` is the operator set that they need.

    `writers` add the nodes of one layer, by its type, and return the name of the output.
    """

    def __init__(self, model: Model, onnx: Any, writers: Mapping[str, LayerWriter]) -> None:
        self.writers = writers
        self.model = model
        self.onnx = onnx
        self.operators = OLDEST[0]
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []

    def made(self) -> Any:
        """Give the graph as ONNX has it."""
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
        """Add a node; give the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, [name], name=f"node_{len(self.nodes)}", **attributes)
        )
        return name

    def array(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant; give its name."""
        self.arrays.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def number(self, value: float) -> str:
        """Add a constant of the model's dtype."""
        return self.array(f"number_{len(self.arrays)}", np.array(value, self.model.dtype))

    def need(self, operators: int) -> None:
        """Ask for an operator set at least as new."""
        self.operators = max(self.operators, operators)

    def chain(self, specs: Any, plans: Any, x: str, prefix: str) -> str:
        """Add layers one behind the other."""
        for spec, plan in zip(specs, plans, strict=True):
            name = f"{prefix}{spec.name}"
            if isinstance(spec, CompositeSpec):
                x = self._composite(spec, plan, x, name)
            elif spec.type in self.writers:
                x = self.writers[spec.type](self, GraphLayer(self.model, name, spec, plan), x)
            else:
                msg = f"{name}: ONNX has nothing for a layer of type {spec.type!r}"
                raise SpecnetError(msg)
        return x

    def _composite(self, spec: Any, plan: LayerPlan, x: str, name: str) -> str:
        inside = iter(plan.layers)

        def way(specs: Any) -> str:
            return self.chain(specs, [next(inside) for _ in specs], x, f"{name}.")

        if spec.type == "sequential":
            return way(spec.layers)
        if spec.type == "residual":
            return self.node("Add", [way(spec.layers), way(spec.shortcut)])
        if spec.type == "concat":
            return self.node("Concat", [way(branch) for branch in spec.branches], axis=-1)
        msg = f"{name}: ONNX has nothing for a layer of type {spec.type!r}"
        raise SpecnetError(msg)


class GraphLayer:
    """What the writers below ask of a layer: its fields, its arrays by their short names, its shapes."""

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
