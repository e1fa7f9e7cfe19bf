"""ONNX: a graph of the operators that layers are made of becomes a model.

The graph is walked back from its output. Where two ways meet (an Add, a Concat), the value where they parted is the
nearest dominator of both; what lies between is a residual or a concat, or an activation spelled out in elementary
operators, which is told by its values. Nothing outside the file is read: tensors that lie elsewhere are refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import CheckpointError, SpecnetError
from specnet.files.paths import user_path
from specnet.interop.imported_model import (
    MODEL_KEY,
    Imported,
    arrays_of,
    checked_inputs,
    document_of,
    fill_model,
    spec_of_layers,
    unsupported,
)
from specnet.interop.onnx import activations as elementwise
from specnet.interop.onnx.layers import IGNORED, OPERATORS, layers_of
from specnet.interop.onnx.steps import Given, NodeRead
from specnet.interop.onnx.writer import graph_of, onnx_package
from specnet.model import Model, assemble

LARGEST_GRAPH = 20_000
"""Nodes; a document has at most 32,768 layers."""


_FOLDED = ("Add", "Cast", "Identity", "Transpose")
"""What may be done to constants."""


_REMEDY = "export the layers around it, or write the model as a document and take its weights: --model FILE"


def from_onnx(path: str | os.PathLike[str]) -> Imported:
    """Read an ONNX file: a chain of layers, with residual Adds and Concats. Raises CheckpointError.

    In a file of ours, the document comes back whole, if the graph is the one that it makes.
    """
    onnx = onnx_package()
    name = os.fspath(path)
    try:
        data = user_path(path).read_bytes()
        loaded = onnx.load_model_from_string(data)
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error
    except Exception as error:
        raise unsupported(name, "cannot be read as ONNX") from error
    properties = {entry.key: entry.value for entry in loaded.metadata_props}
    graph = OnnxGraph(name, loaded, onnx)
    ours = _by_document(name, loaded.graph, graph.constants, properties.get(MODEL_KEY))
    if ours is not None:
        return Imported(ours)
    notes = ["its specnet document is of another graph than this, which was taken"] if MODEL_KEY in properties else []
    return graph.imported(notes)


def _by_document(name: str, graph: Any, constants: Mapping[str, npt.NDArray[Any]], text: str | None) -> Model | None:
    """Fill the model of the file's own document; None where the graph is not the one that the model makes."""
    if text is None:
        return None
    try:
        spec = document_of(name, text)
        wanted = arrays_of(assemble(spec.plan(), lambda: spec))
        model = fill_model(name, spec, {full: constants[full] for full in wanted if full in constants})
        made = graph_of(model)
    except SpecnetError:
        return None
    return model if made.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True) else None


class OnnxGraph:
    """The nodes of a graph by what they give, its constants, and the nearest dominator of each value."""

    def __init__(self, name: str, model: Any, onnx: Any) -> None:
        self.name = name
        self.onnx = onnx
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        graph = model.graph
        if len(graph.node) > LARGEST_GRAPH or model.functions or len(graph.sparse_initializer):
            raise unsupported(name, f"has functions, sparse tensors, or more than {LARGEST_GRAPH:,} nodes")
        for tensor in graph.initializer:
            self.constants[tensor.name] = self._tensor(tensor)
        self.nodes: dict[str, Any] = {}
        for node in graph.node:
            self._add(node)
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise unsupported(
                name, f"has {len(inputs)} inputs and {len(graph.output)} outputs; specnet's models have one each"
            )
        self.input, self.output = inputs[0], graph.output[0].name
        self.parents: dict[str, str] = {}
        self._count = 0

    def _add(self, node: Any) -> None:
        """Take a node; what it makes of constants alone is a constant."""
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" and len(node.attribute) == 1:
            self.constants[node.output[0]] = self._constant(node.attribute[0])
        elif node.op_type in _FOLDED and inputs and all(name in self.constants for name in inputs):
            self.constants[node.output[0]] = self._folded(node, [self.constants[name] for name in inputs])
        elif node.output:
            if node.output[0] in self.nodes or node.output[0] in self.constants:
                raise unsupported(self.name, f"the value {node.output[0]!r:.80} has two origins")
            self.nodes[node.output[0]] = node

    def _folded(self, node: Any, values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        try:
            if node.op_type == "Transpose":
                return values[0].transpose(self.attributes(node).get("perm"))
            if node.op_type == "Cast":
                to = self.onnx.helper.tensor_dtype_to_np_dtype(self.attributes(node)["to"])
                return values[0].astype(to)
            if node.op_type == "Identity":
                return values[0]
            if math.prod(np.broadcast_shapes(*(value.shape for value in values))) > max(v.size for v in values):
                raise ValueError("makes a larger array of its constants")  # noqa: TRY301 - told as the others are
            return values[0] + values[1]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise unsupported(self.name, f"{node.name or node.output[0]} ({node.op_type}): {error}"[:300]) from None

    def _constant(self, attribute: Any) -> npt.NDArray[Any]:
        if attribute.name == "value":
            return self._tensor(attribute.t)
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in attribute.name else np.int64
            return np.asarray(self.onnx.helper.get_attribute_value(attribute), kind)
        raise unsupported(self.name, f"a Constant with {attribute.name!r:.40}")

    def _tensor(self, tensor: Any) -> npt.NDArray[Any]:
        """Read a tensor whose bytes are in the file, and as many as its shape says."""
        types = self.onnx.TensorProto
        if tensor.data_location != types.DEFAULT or len(tensor.external_data):
            raise unsupported(self.name, f"{tensor.name!r:.80} lies in another file; save the model as one file")
        kinds = {types.FLOAT: 4, types.DOUBLE: 8, types.INT64: 8, types.INT32: 4, types.FLOAT16: 2, types.BOOL: 1}
        if tensor.data_type not in kinds:
            raise unsupported(
                self.name, f"{tensor.name!r:.80} is of data type {tensor.data_type}; expected floats or integers"
            )
        size = math.prod(tensor.dims)
        stored = (
            len(tensor.raw_data) // kinds[tensor.data_type] if tensor.HasField("raw_data") else len(tensor.float_data)
        )
        stored = stored or len(tensor.double_data) or len(tensor.int64_data) or len(tensor.int32_data)
        if stored != size or any(dim < 0 for dim in tensor.dims):
            told = f"{stored:,} values for the shape {tuple(tensor.dims)}"
            raise unsupported(self.name, f"{tensor.name!r:.80} holds {told}"[:300])
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def attributes(self, node: Any) -> dict[str, Any]:
        """Give a node's attributes by name."""
        return {attribute.name: self.onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def variables(self, node: Any) -> list[str]:
        """Name the inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def _check_operators(self) -> None:
        """Name every node, at once, that no layer is made of. Raises CheckpointUnsupportedError."""
        odd = [
            f"{node.name or node.output[0]} ({node.domain}{'.' if node.domain else ''}{node.op_type})"
            for node in self.nodes.values()
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx")
        ]
        if odd:
            raise unsupported(self.name, f"holds what specnet has nothing for: {', '.join(odd[:20])}; {_REMEDY}")

    def _dominators(self) -> dict[str, str]:
        """Give each value the nearest one that every way from the input to it passes (Cooper and others, 2001)."""
        parents: dict[str, str] = {}
        depth = {self.input.name: 0}
        for name, node in self.nodes.items():  # ONNX lists them in an order in which they can run
            suggestion: str | None = None
            for value in self.variables(node):
                if value not in depth:
                    raise unsupported(
                        self.name, f"{node.name or name}: its input {value!r:.80} does not come from the input"
                    )
                other = value
                while suggestion is not None and suggestion != other:
                    if depth[suggestion] >= depth[other]:
                        suggestion = parents[suggestion]
                    else:
                        other = parents[other]
                suggestion = other
            if suggestion is not None:
                parents[name], depth[name] = suggestion, depth[suggestion] + 1
        if self.output not in depth:
            raise unsupported(self.name, f"its output {self.output!r:.80} does not depend on its input")
        return parents

    def imported(self, notes: list[str]) -> Imported:
        """Make the model of what the operators say. Raises CheckpointUnsupportedError."""
        self._check_operators()
        self.parents = self._dominators()
        shape, dtype = self._input_type()
        steps = self.steps(self.input.name, self.output)
        integers = self.input.type.tensor_type.elem_type in (self.onnx.TensorProto.INT64, self.onnx.TensorProto.INT32)
        batch = self.input.type.tensor_type.shape.dim[0].dim_value
        kind = {"float32": "FLOAT", "float64": "DOUBLE"}[dtype]
        given = Given(checked_inputs(self.name, shape), batch, self.versions.get("", 1), integers=integers, kind=kind)
        layers, arrays, told = layers_of(self.name, steps, given)
        if not layers:
            raise unsupported(self.name, "computes nothing that is a layer")
        spec = spec_of_layers(self.name, shape, layers, dtype=dtype)
        notes += told
        return Imported(fill_model(self.name, spec, arrays, notes), tuple(notes))

    def _input_type(self) -> tuple[tuple[int, ...], str]:
        types = self.onnx.TensorProto
        tensor = self.input.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if len(shape) < 2 or any(size < 1 for size in shape[1:]):
            raise unsupported(
                self.name, f"its input has shape {shape}; specnet needs all sizes but the first, the batch's"
            )
        floats = {value.dtype for value in self.constants.values() if value.dtype.kind == "f"}
        kinds = {types.FLOAT: "float32", types.DOUBLE: "float64"}
        integers = tensor.elem_type in (types.INT64, types.INT32)
        dtype = ("float64" if np.dtype("f8") in floats else "float32") if integers else kinds.get(tensor.elem_type)
        if dtype is None:
            raise unsupported(self.name, f"its input is of data type {tensor.elem_type}, expected float or double")
        return shape[1:], dtype

    def steps(self, start: str, end: str, depth: int = 0) -> list[NodeRead]:
        """List what happens between two values, of which the first dominates the second."""
        if depth > 64:
            raise unsupported(self.name, "its residuals are nested more than 64 deep")
        found: list[NodeRead] = []
        value = end
        while value != start:
            step, value = self._step(start, value, depth)
            found.append(step)
            self._count += 1
            if self._count > LARGEST_GRAPH:
                raise unsupported(self.name, f"joins values so often that it makes more than {LARGEST_GRAPH:,} layers")
        return found[::-1]

    def _step(self, start: str, value: str, depth: int) -> tuple[NodeRead, str]:
        """Give what makes a value, and the value that it is made of."""
        node, parent = self.nodes[value], self.parents[value]
        ways = [name for name in node.input if name and name not in self.constants]
        step = NodeRead(node.op_type, node.name or value, self.attributes(node))
        step.outputs = sum(bool(name) for name in node.output)
        if node.op_type == "Cast":
            step.attributes["to_name"] = self.onnx.TensorProto.DataType.Name(step.attributes.get("to", 0))
        if node.op_type not in IGNORED:
            spelled = self._spelled_out(start, value)
            if spelled is not None:
                return spelled
        if len(ways) == 1:
            step.constants = [(name, self.constants[name]) for name in node.input if name and name in self.constants]
            step.constant_first = node.input[0] in self.constants
            return step, parent
        if node.op_type not in ("Add", "Concat") or (node.op_type == "Add" and len(ways) != 2):
            raise unsupported(
                self.name, f"{step.name} ({node.op_type}) joins values in a way that no layer does; {_REMEDY}"
            )
        if any(name in self.constants for name in node.input):
            raise unsupported(self.name, f"{step.name} ({node.op_type}) joins a constant; {_REMEDY}")
        step.ways = [self.steps(parent, way, depth + 1) for way in ways]
        return step, parent

    def _spelled_out(self, start: str, value: str) -> tuple[NodeRead, str] | None:
        """Recognize an activation that ends in this value and is written in elementary operators."""
        if self.nodes[value].op_type not in elementwise.JOINING:
            return None
        origin = value
        for _ in range(8):
            if origin == start:
                return None
            origin = self.parents[origin]
            entry = elementwise.recognized(self, origin, value)
            if entry is not None:
                return NodeRead("layer", value, entry), origin
        return None
