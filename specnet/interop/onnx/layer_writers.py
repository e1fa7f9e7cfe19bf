"""Writers that add the ONNX nodes of each layer type; those over positions and time are in `spatial` and `sequence`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specnet.errors import SpecnetError
from specnet.interop.onnx.graph import Graph, GraphLayer, LayerWriter
from specnet.interop.onnx.sequence.writers import SEQUENCE_WRITERS, check_mask
from specnet.interop.onnx.spatial.writers import SPATIAL_WRITERS
from specnet.layers.elu import SELU_ALPHA, SELU_SCALE


def _affine(graph: Graph, layer: GraphLayer, x: str) -> str:
    arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in ("weight", "bias") if name in layer]
    if layer.rank == 2:
        return graph.node("Gemm", [x, *arrays])
    x = graph.node("MatMul", [x, arrays[0]])
    return graph.node("Add", [x, arrays[1]]) if len(arrays) > 1 else x


def _batch_norm(graph: Graph, layer: GraphLayer, x: str) -> str:
    names = ("scale", "shift", "running_mean", "running_var")
    graph.need(14)  # older versions lack training_mode; onnx's evaluator then uses training mode
    arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in names]
    momentum = 1 - layer.fields["momentum"]
    merges_rows = layer.rank > 2 and not graph.is_channels_first(x)
    if merges_rows:  # ONNX normalizes the second axis, so the others are merged
        rows = graph.array(f"{layer.name}.rows", np.array([-1, layer.plan.input_shape[-1]]))
        x = graph.node("Reshape", [x, rows])
    epsilon = layer.fields["epsilon"]
    if graph.is_double:  # an attribute is a float32, too coarse for epsilon: add it to the variance
        arrays[3] = graph.node("Add", [arrays[3], graph.number(epsilon)])
        epsilon = 0.0
    x = graph.node("BatchNormalization", [x, *arrays], epsilon=epsilon, momentum=momentum)
    if merges_rows:
        shape = graph.array(f"{layer.name}.shape", np.array([-1, *layer.plan.input_shape]))
        x = graph.node("Reshape", [x, shape])
    return x


def _layer_norm(graph: Graph, layer: GraphLayer, x: str) -> str:
    if not graph.is_double:
        graph.need(17)
        arrays = [graph.array(f"{layer.name}.{name}", layer[name]) for name in ("scale", "shift")]
        return graph.node("LayerNormalization", [x, *arrays], axis=-1, epsilon=layer.fields["epsilon"])
    x = graph.node("Sub", [x, _mean(graph, x)])  # an attribute is a float32, too coarse for epsilon
    y = _scaled_rms(graph, layer, x)
    return graph.node("Add", [y, graph.array(f"{layer.name}.shift", layer["shift"])])


def _rms_norm(graph: Graph, layer: GraphLayer, x: str) -> str:
    return _scaled_rms(graph, layer, x)


def _mean(graph: Graph, x: str) -> str:
    graph.need(18)
    return graph.node("ReduceMean", [x, graph.array(f"axis_{len(graph.arrays)}", np.array([-1]))])


def _scaled_rms(graph: Graph, layer: GraphLayer, x: str) -> str:
    """Add the nodes of x / sqrt(mean(x^2) + epsilon) * scale."""
    mean = _mean(graph, graph.node("Mul", [x, x]))
    root = graph.node("Sqrt", [graph.node("Add", [mean, graph.number(layer.fields["epsilon"])])])
    return graph.node("Mul", [graph.node("Div", [x, root]), graph.array(f"{layer.name}.scale", layer["scale"])])


def _standardize(graph: Graph, layer: GraphLayer, x: str) -> str:
    x = graph.node("Sub", [x, graph.array(f"{layer.name}.mean", layer["mean"])])
    return graph.node("Div", [x, graph.array(f"{layer.name}.std", layer["std"])])


# ONNX Runtime has most activations only in float32; in float64 they are composed of elementary operators.


def _positive(graph: Graph, x: str) -> str:
    return graph.node("Max", [x, graph.number(0)])


def _negative(graph: Graph, x: str) -> str:
    return graph.node("Min", [x, graph.number(0)])


def _prelu(graph: Graph, layer: GraphLayer, x: str) -> str:
    behind = (1,) * (layer.rank - 2 if graph.is_channels_first(x) else 0)
    slope = graph.array(f"{layer.name}.slope", layer["slope"].reshape(-1, *behind))
    if not graph.is_double:
        return graph.node("PRelu", [x, slope])
    return graph.node("Add", [_positive(graph, x), graph.node("Mul", [_negative(graph, x), slope])])


def _leaky_relu(graph: Graph, layer: GraphLayer, x: str) -> str:
    slope = layer.fields["negative_slope"]
    if not graph.is_double:
        return graph.node("LeakyRelu", [x], alpha=slope)
    return graph.node("Add", [_positive(graph, x), graph.node("Mul", [_negative(graph, x), graph.number(slope)])])


def _scaled_elu(graph: Graph, x: str, scale: float, alpha: float) -> str:
    """Add the nodes of scale * max(x, 0) + scale * alpha * (exp(min(x, 0)) - 1)."""
    below = graph.node("Sub", [graph.node("Exp", [_negative(graph, x)]), graph.number(1)])
    parts = [graph.node("Mul", [_positive(graph, x), graph.number(scale)])]
    parts.append(graph.node("Mul", [below, graph.number(scale * alpha)]))
    return graph.node("Add", parts)


def _elu(graph: Graph, layer: GraphLayer, x: str) -> str:
    if not graph.is_double:
        return graph.node("Elu", [x], alpha=layer.fields["alpha"])
    return _scaled_elu(graph, x, 1.0, layer.fields["alpha"])


def _selu(graph: Graph, _layer: GraphLayer, x: str) -> str:
    return graph.node("Selu", [x]) if not graph.is_double else _scaled_elu(graph, x, SELU_SCALE, SELU_ALPHA)


def _gelu(graph: Graph, layer: GraphLayer, x: str) -> str:
    approximate = layer.fields["approximate"]
    if not graph.is_double:
        graph.need(20)
        return graph.node("Gelu", [x], approximate=approximate)
    if approximate == "none":
        msg = f'{layer.name}: ONNX Runtime has no exact gelu in float64; train in float32, or with approximate "tanh"'
        raise SpecnetError(msg)
    cube = graph.node("Mul", [graph.node("Mul", [x, x]), x])
    inner = graph.node("Add", [x, graph.node("Mul", [cube, graph.number(0.044715)])])
    tanh = graph.node("Tanh", [graph.node("Mul", [inner, graph.number(math.sqrt(2 / math.pi))])])
    half = graph.node("Mul", [x, graph.number(0.5)])
    return graph.node("Mul", [half, graph.node("Add", [tanh, graph.number(1)])])


def _softplus(graph: Graph, layer: GraphLayer, x: str) -> str:
    beta = layer.fields["beta"]
    if beta == 1:
        return _softplus_of(graph, x)
    x = _softplus_of(graph, graph.node("Mul", [x, graph.number(beta)]))
    return graph.node("Div", [x, graph.number(beta)])


def _softplus_of(graph: Graph, x: str) -> str:
    if not graph.is_double:
        return graph.node("Softplus", [x])
    small = graph.node("Exp", [graph.node("Neg", [graph.node("Abs", [x])])])
    return graph.node("Add", [_positive(graph, x), graph.node("Log", [graph.node("Add", [small, graph.number(1)])])])


def _silu(graph: Graph, _layer: GraphLayer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x])])


def _mish(graph: Graph, _layer: GraphLayer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Tanh", [_softplus_of(graph, x)])])


def _reshape(graph: Graph, layer: GraphLayer, x: str) -> str:
    shape = np.array([0, *layer.plan.output_shape])  # 0 keeps the batch size
    return graph.node("Reshape", [x, graph.array(f"{layer.name}.shape", shape)])


def _embedding(graph: Graph, layer: GraphLayer, x: str) -> str:
    if layer.fields["mask_index"] is not None:
        check_mask(graph, layer)
    return graph.node("Gather", [graph.array(f"{layer.name}.weight", layer["weight"]), x])


def _single_node_writer(kind: str, **attributes: Any) -> LayerWriter:
    """Return the writer of a layer type that is a single node."""
    return lambda graph, _layer, x: graph.node(kind, [x], **attributes)


def _skip(_graph: Graph, _layer: GraphLayer, x: str) -> str:
    return x


def _channels_last(write: LayerWriter) -> LayerWriter:
    """Return a writer for inputs with the channels on any axis, from one for inputs that have them on the last."""
    return lambda graph, layer, x: write(graph, layer, graph.channels_last(x, layer.rank))


def _channels_first(write: LayerWriter) -> LayerWriter:
    """Return a writer for inputs with the channels on any axis, from one that needs and leaves them on the second."""

    def write_turned(graph: Graph, layer: GraphLayer, x: str) -> str:
        y = write(graph, layer, graph.channels_first(x, layer.rank))
        return graph.mark_channels_first(y) if len(layer.plan.output_shape) > 1 else y

    return write_turned


def _either(write: LayerWriter) -> LayerWriter:
    """Return a writer that also records where the channels are, from one that leaves them where they are."""

    def write_marked(graph: Graph, layer: GraphLayer, x: str) -> str:
        y = write(graph, layer, x)
        return graph.mark_channels_first(y) if graph.is_channels_first(x) else y

    return write_marked


_CHANNELS_LAST: dict[str, LayerWriter] = {
    **SEQUENCE_WRITERS,
    "affine": _affine,
    "embedding": _embedding,
    "flatten": _reshape,
    "layer_norm": _layer_norm,
    "log_softmax": _single_node_writer("LogSoftmax", axis=-1),
    "reshape": _reshape,
    "rms_norm": _rms_norm,
    "softmax": _single_node_writer("Softmax", axis=-1),
    "standardize": _standardize,
}


_EITHER: dict[str, LayerWriter] = {
    "batch_norm": _batch_norm,
    "channel_dropout": _skip,
    "dropout": _skip,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "mish": _mish,
    "prelu": _prelu,
    "relu": _single_node_writer("Relu"),
    "selu": _selu,
    "sigmoid": _single_node_writer("Sigmoid"),
    "silu": _silu,
    "softplus": _softplus,
    "tanh": _single_node_writer("Tanh"),
}


LAYER_WRITERS: dict[str, LayerWriter] = {
    **{kind: _channels_last(write) for kind, write in _CHANNELS_LAST.items()},
    **{kind: _either(write) for kind, write in _EITHER.items()},
    **{kind: _channels_first(write) for kind, write in SPATIAL_WRITERS.items()},
}
