"""Writers of layers over sequences, whose inputs are (batch, time, features).

ONNX's recurrent operators take and return the time on the first axis, with an axis for the directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specnet.errors import SpecnetError
from specnet.interop.onnx.graph import Graph, GraphLayer, LayerWriter
from specnet.interop.onnx.sequence.weights import KINDS, to_onnx
from specnet.layers.sequence.attention import INPUTS
from specnet.layers.sequence.bidirectional import SUFFIX
from specnet.layers.sequence.positional_encoding import sinusoids
from specnet.spec.composite_spec import CompositeSpec

_PARAMETERS = ("weight", "recurrent_weight", "bias", "recurrent_bias")


def _recurrent(graph: Graph, layer: GraphLayer, x: str) -> str:
    direction = "reverse" if layer.fields["reverse"] else "forward"
    return _write_recurrent(graph, layer, x, {**layer.fields, "type": layer.type, "direction": direction}, [""])


def _bidirectional(graph: Graph, layer: GraphLayer, x: str) -> str:
    inner = layer.fields["layers"][0]
    fields = {**inner.fields(), "type": inner.type, "direction": "bidirectional"}
    return _write_recurrent(graph, layer, x, fields, [f"{inner.name}.", f"{inner.name}{SUFFIX}."])


def _write_recurrent(
    graph: Graph, layer: GraphLayer, x: str, fields: Mapping[str, Any], prefixes: Sequence[str]
) -> str:
    """Add a recurrent operator whose directions have the parameters with these prefixes, and what joins them."""
    kind, count = fields["type"], len(prefixes)
    if graph.is_double:
        msg = f"{layer.name}: ONNX Runtime has no {kind} in float64; train in float32"
        raise SpecnetError(msg)
    parts = []
    for prefix in prefixes:
        names = [name for name in _PARAMETERS if f"{prefix}{name}" in layer]
        parts.append(to_onnx(kind, {name: layer[f"{prefix}{name}"] for name in names}))
    arrays = [graph.array(f"{layer.name}.{name}", np.stack([part[name] for part in parts])) for name in parts[0]]
    attributes: dict[str, Any] = {"hidden_size": fields["units"], "direction": fields["direction"]}
    if kind == "gru":
        attributes["linear_before_reset"] = int(fields["reset_after"])
    elif kind == "simple_rnn":
        attributes["activations"] = [fields["activation"].capitalize()] * count
    inputs = [graph.node("Transpose", [x], perm=[1, 0, 2]), *arrays]
    operator, sequences = KINDS[kind].operator, fields["return_sequences"]
    y = graph.node(operator, inputs, place=0 if sequences else 1, **attributes)  # (time, directions, batch, units)
    y = graph.node("Transpose", [y], perm=[2, 0, 1, 3] if sequences else [1, 0, 2])
    shape = np.array([0, *layer.plan.output_shape])  # 0 keeps the batch size
    return graph.node("Reshape", [y, graph.array(f"{layer.name}.shape", shape)])


def _attention(graph: Graph, layer: GraphLayer, x: str) -> str:
    steps, _ = layer.plan.input_shape
    heads, width = layer.fields["heads"], layer["query"].shape[1]
    by_head = graph.array(f"{layer.name}.by_head", np.array([0, steps, heads, width // heads]))
    parts = [graph.node("Reshape", [_product(graph, layer, x, name), by_head]) for name in INPUTS]
    axes = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
    query, key, value = (
        graph.node("Transpose", [part], perm=axes[name]) for name, part in zip(INPUTS, parts, strict=True)
    )
    scores = graph.node("MatMul", [query, key])
    scores = graph.node("Mul", [scores, graph.number(1 / np.sqrt(width // heads))])
    if layer.fields["causal"]:
        graph.check_room(steps * steps)
        later = np.triu(np.full((steps, steps), -np.inf, graph.model.dtype), 1)
        scores = graph.node("Add", [scores, graph.array(f"{layer.name}.later", later)])
    found = graph.node("MatMul", [graph.node("Softmax", [scores], axis=-1), value])
    found = graph.node("Transpose", [found], perm=[0, 2, 1, 3])
    joined = graph.array(f"{layer.name}.joined", np.array([0, steps, width]))
    return _product(graph, layer, graph.node("Reshape", [found, joined]), "output")


def _product(graph: Graph, layer: GraphLayer, x: str, name: str) -> str:
    """Add the product with the weight of this name, and its bias."""
    y = graph.node("MatMul", [x, graph.array(f"{layer.name}.{name}", layer[name])])
    bias = f"{name}_bias"
    return graph.node("Add", [y, graph.array(f"{layer.name}.{bias}", layer[bias])]) if bias in layer else y


def _positional_encoding(graph: Graph, layer: GraphLayer, x: str) -> str:
    steps, features = layer.plan.input_shape
    if "weight" not in layer:
        graph.check_room(steps * features)
        table = graph.array(f"{layer.name}.table", sinusoids(steps, features, graph.model.dtype))
    else:
        table = graph.array(f"{layer.name}.weight", layer["weight"])
        if len(layer["weight"]) > steps:
            names = {"starts": 0, "ends": steps, "axes": 0}
            numbers = [graph.array(f"{layer.name}.{name}", np.array([value])) for name, value in names.items()]
            table = graph.node("Slice", [table, *numbers])
    return graph.node("Add", [x, table])


def _last_step(graph: Graph, layer: GraphLayer, x: str) -> str:
    index = graph.array(f"{layer.name}.index", np.array(layer.plan.input_shape[0] - 1))
    return graph.node("Gather", [x, index], axis=1)


def _time_average(graph: Graph, layer: GraphLayer, x: str) -> str:
    graph.need(18)  # the axes are an input
    return graph.node("ReduceMean", [x, graph.array(f"{layer.name}.axes", np.array([1]))], keepdims=0)


def check_mask(graph: Graph, layer: GraphLayer) -> None:
    """Check that no layer leaves out the padding that this layer marks, because ONNX has no mask. Raises SpecnetError.

    Layers that compute each step alone ignore it, so their outputs do not depend on it.
    """
    layers = ((name, entry) for name, entry, _ in graph.model.spec.walk() if not isinstance(entry, CompositeSpec))
    first = next((name for name, entry in layers if entry.layer.mask_use == "taken"), None)
    if first is not None:
        msg = f"{layer.name}: ONNX has no mask, but {first} leaves out the padding that it marks"
        remedy = "export a document without the mask, for sequences without padding"
        raise SpecnetError(f"{msg}; {remedy}")


def _mask(graph: Graph, layer: GraphLayer, x: str) -> str:
    check_mask(graph, layer)
    return x


SEQUENCE_WRITERS: dict[str, LayerWriter] = {
    "attention": _attention,
    "bidirectional": _bidirectional,
    "last_step": _last_step,
    "mask": _mask,
    "positional_encoding": _positional_encoding,
    "time_average": _time_average,
    **dict.fromkeys(KINDS, _recurrent),
}
