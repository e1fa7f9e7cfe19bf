"""ONNX: a model becomes a graph with a dynamic batch dimension, the document in its metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.layers.elu import SELU_ALPHA, SELU_SCALE
from specnet.layerspec import LayerSpec
from specnet.model import Model
from specnet.plan import LayerPlan
from specnet.spec.composite_spec import CompositeSpec

OLDEST = (13, 7)
"""Operator set and file version of ONNX 1.8: what old runtimes read; newer ones only where a layer needs them."""


_FILE_VERSIONS = {13: 7, 14: 7, 17: 8, 18: 8, 20: 9}


def to_onnx(model: Model) -> bytes:
    """Write a model as the bytes of an ONNX file: input "input", output "output", the first axis called "batch".

    Raises SpecnetError for a layer that ONNX has nothing for, by name, and where the onnx package is missing.
    """
    onnx = onnx_package()
    graph = _graph(model, onnx)
    made = onnx.helper.make_model(
        graph.made(),
        opset_imports=[onnx.helper.make_opsetid("", graph.operators)],
        ir_version=_FILE_VERSIONS[graph.operators],
        producer_name="specnet",
    )
    onnx.helper.set_model_props(
        made, {"specnet.model": model.spec.to_json(), "labels": json.dumps(list(model.spec.labels))}
    )
    onnx.checker.check_model(made, full_check=True)
    written: bytes = made.SerializeToString(deterministic=True)
    return written


def onnx_package() -> Any:
    """Import onnx. Raises SpecnetError where it is missing."""
    try:
        import onnx  # noqa: PLC0415 - of an extra
    except ImportError as error:
        msg = "ONNX files are read and written by onnx, which is not installed; pip install 'specnet-nn[onnx]'"
        raise SpecnetError(msg) from error
    return onnx


def graph_of(model: Model) -> Any:
    """Give the graph that `to_onnx` writes."""
    return _graph(model, onnx_package()).made()


def _graph(model: Model, onnx: Any) -> _Graph:
    graph = _Graph(model, onnx)
    last = graph.chain(model.spec.layers, model.plan.layers, "input", "")
    graph.node("Identity", [last], output="output")
    return graph


class _Graph:
    """Nodes and arrays of a graph in the making; `operators` is the operator set that they need."""

    def __init__(self, model: Model, onnx: Any) -> None:
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
            elif spec.type in _LAYERS:
                x = _LAYERS[spec.type](self, _Layer(self.model, name, spec, plan), x)
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


class _Layer:
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


def _affine(graph: _Graph, layer: _Layer, x: str) -> str:
    arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in ("weight", "bias") if name in layer]
    if layer.rank == 2:
        return graph.node("Gemm", [x, *arrays])
    x = graph.node("MatMul", [x, arrays[0]])
    return graph.node("Add", [x, arrays[1]]) if len(arrays) > 1 else x


def _batch_norm(graph: _Graph, layer: _Layer, x: str) -> str:
    names = ("scale", "shift", "running_mean", "running_var")
    graph.need(14)  # before, the operator said nothing of training, and onnx's own evaluator took it for that
    arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in names]
    momentum = 1 - layer.fields["momentum"]
    if layer.rank > 2:  # ONNX normalizes the axis behind the batch's: the last is made to be that
        rows = graph.array(f"{layer.name}.rows", np.array([-1, layer.plan.input_shape[-1]]))
        x = graph.node("Reshape", [x, rows])
    epsilon = layer.fields["epsilon"]
    if _is_double(graph):  # an attribute is a float32: epsilon is added before
        arrays[3] = graph.node("Add", [arrays[3], graph.number(epsilon)])
        epsilon = 0.0
    x = graph.node("BatchNormalization", [x, *arrays], epsilon=epsilon, momentum=momentum)
    if layer.rank > 2:
        shape = graph.array(f"{layer.name}.shape", np.array([-1, *layer.plan.input_shape]))
        x = graph.node("Reshape", [x, shape])
    return x


def _layer_norm(graph: _Graph, layer: _Layer, x: str) -> str:
    if not _is_double(graph):
        graph.need(17)
        arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in ("scale", "shift")]
        return graph.node("LayerNormalization", [x, *arrays], axis=-1, epsilon=layer.fields["epsilon"])
    x = graph.node("Sub", [x, _mean(graph, x)])  # an attribute is a float32, and epsilon is not one
    y = _over_root(graph, layer, x)
    return graph.node("Add", [y, graph.array(f"{layer.name}.shift", layer["shift"])])


def _rms_norm(graph: _Graph, layer: _Layer, x: str) -> str:
    return _over_root(graph, layer, x)


def _mean(graph: _Graph, x: str) -> str:
    graph.need(18)
    return graph.node("ReduceMean", [x, graph.array(f"axis_{len(graph.arrays)}", np.array([-1]))])


def _over_root(graph: _Graph, layer: _Layer, x: str) -> str:
    """Divide by the root of mean(x^2) + epsilon, and scale."""
    mean = _mean(graph, graph.node("Mul", [x, x]))
    root = graph.node("Sqrt", [graph.node("Add", [mean, graph.number(layer.fields["epsilon"])])])
    return graph.node("Mul", [graph.node("Div", [x, root]), graph.array(f"{layer.name}.scale", layer["scale"])])


def _standardize(graph: _Graph, layer: _Layer, x: str) -> str:
    x = graph.node("Sub", [x, graph.array(f"{layer.name}.mean", layer["mean"])])
    return graph.node("Div", [x, graph.array(f"{layer.name}.std", layer["std"])])


# ONNX Runtime has most activations in float32 alone: in float64 they are written with what it has.


def _is_double(graph: _Graph) -> bool:
    return bool(graph.model.dtype == np.float64)


def _positive(graph: _Graph, x: str) -> str:
    return graph.node("Max", [x, graph.number(0)])


def _negative(graph: _Graph, x: str) -> str:
    return graph.node("Min", [x, graph.number(0)])


def _prelu(graph: _Graph, layer: _Layer, x: str) -> str:
    slope = graph.array(f"{layer.name}.slope", layer["slope"])
    if not _is_double(graph):
        return graph.node("PRelu", [x, slope])
    return graph.node("Add", [_positive(graph, x), graph.node("Mul", [_negative(graph, x), slope])])


def _leaky_relu(graph: _Graph, layer: _Layer, x: str) -> str:
    slope = layer.fields["negative_slope"]
    if not _is_double(graph):
        return graph.node("LeakyRelu", [x], alpha=slope)
    return graph.node("Add", [_positive(graph, x), graph.node("Mul", [_negative(graph, x), graph.number(slope)])])


def _exponential(graph: _Graph, x: str, scale: float, alpha: float) -> str:
    """Add scale * max(x, 0) + scale * alpha * (exp(min(x, 0)) - 1)."""
    below = graph.node("Sub", [graph.node("Exp", [_negative(graph, x)]), graph.number(1)])
    parts = [graph.node("Mul", [_positive(graph, x), graph.number(scale)])]
    parts.append(graph.node("Mul", [below, graph.number(scale * alpha)]))
    return graph.node("Add", parts)


def _elu(graph: _Graph, layer: _Layer, x: str) -> str:
    if not _is_double(graph):
        return graph.node("Elu", [x], alpha=layer.fields["alpha"])
    return _exponential(graph, x, 1.0, layer.fields["alpha"])


def _selu(graph: _Graph, _layer: _Layer, x: str) -> str:
    return graph.node("Selu", [x]) if not _is_double(graph) else _exponential(graph, x, SELU_SCALE, SELU_ALPHA)


def _gelu(graph: _Graph, layer: _Layer, x: str) -> str:
    approximate = layer.fields["approximate"]
    if not _is_double(graph):
        graph.need(20)
        return graph.node("Gelu", [x], approximate=approximate)
    if approximate == "none":
        msg = f'{layer.name}: ONNX Runtime has no exact gelu in float64; train in float32, or with approximate "tanh"'
        raise SpecnetError(msg)
    cube = graph.node("Mul", [graph.node("Mul", [x, x]), x])
    inner = graph.node("Add", [x, graph.node("Mul", [cube, graph.number(0.044715)])])
    bent = graph.node("Tanh", [graph.node("Mul", [inner, graph.number(math.sqrt(2 / math.pi))])])
    half = graph.node("Mul", [x, graph.number(0.5)])
    return graph.node("Mul", [half, graph.node("Add", [bent, graph.number(1)])])


def _softplus(graph: _Graph, layer: _Layer, x: str) -> str:
    beta = layer.fields["beta"]
    if beta == 1:
        return _softplus_of(graph, x)
    x = _softplus_of(graph, graph.node("Mul", [x, graph.number(beta)]))
    return graph.node("Div", [x, graph.number(beta)])


def _softplus_of(graph: _Graph, x: str) -> str:
    if not _is_double(graph):
        return graph.node("Softplus", [x])
    small = graph.node("Exp", [graph.node("Neg", [graph.node("Abs", [x])])])
    return graph.node("Add", [_positive(graph, x), graph.node("Log", [graph.node("Add", [small, graph.number(1)])])])


def _silu(graph: _Graph, _layer: _Layer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x])])


def _mish(graph: _Graph, _layer: _Layer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Tanh", [_softplus_of(graph, x)])])


def _reshape(graph: _Graph, layer: _Layer, x: str) -> str:
    shape = np.array([0, *layer.plan.output_shape])  # 0: as it is
    return graph.node("Reshape", [x, graph.array(f"{layer.name}.shape", shape)])


def _embedding(graph: _Graph, layer: _Layer, x: str) -> str:
    return graph.node("Gather", [graph.array(f"{layer.name}.weight", layer["weight"]), x])


def _plain(kind: str, **attributes: Any) -> Callable[[_Graph, _Layer, str], str]:
    """Make the writer of a layer that is one node."""
    return lambda graph, _layer, x: graph.node(kind, [x], **attributes)


_LAYERS: dict[str, Callable[[_Graph, _Layer, str], str]] = {
    "affine": _affine,
    "batch_norm": _batch_norm,
    "dropout": lambda _graph, _layer, x: x,
    "elu": _elu,
    "embedding": _embedding,
    "flatten": _reshape,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "log_softmax": _plain("LogSoftmax", axis=-1),
    "mish": _mish,
    "prelu": _prelu,
    "relu": _plain("Relu"),
    "reshape": _reshape,
    "rms_norm": _rms_norm,
    "selu": _selu,
    "sigmoid": _plain("Sigmoid"),
    "silu": _silu,
    "softmax": _plain("Softmax", axis=-1),
    "softplus": _softplus,
    "standardize": _standardize,
    "tanh": _plain("Tanh"),
}


def run_onnx(data: bytes, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Predict with an ONNX file, by ONNX Runtime where it is installed, else by onnx's own evaluator.

    Raises SpecnetError where the runtime has no operator of this type.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - of an extra
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        results: Any = ReferenceEvaluator(data).run(None, {"input": x})
        return np.asarray(results[0])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"input": x})[0])
    except Exception as error:
        msg = f"ONNX Runtime does not run it: {str(error).splitlines()[0]:.200}"
        raise SpecnetError(msg) from error
