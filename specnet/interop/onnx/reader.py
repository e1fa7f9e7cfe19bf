"""Import of an ONNX graph whose operators correspond to layers.

The graph is read from its output back to its input. If an Add or a Concat combines branches, they start at the nearest
common dominator. The nodes in between form a residual, a concat, or an activation in elementary operators, which is
recognized by its values. Nothing outside the file is read: external tensors are refused.
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
"""The largest number of nodes and layers; a document has at most 32,768 layers."""


_FOLDED = ("Add", "Cast", "Identity", "Transpose")
"""The operators that are computed at once if all their inputs are constants."""


_REMEDY = "export the model without it, or describe the model in a document and import only its weights: --model FILE"


def from_onnx(path: str | os.PathLike[str]) -> Imported:
    """Read an ONNX file with a chain of layers, residual Adds and Concats. Raises CheckpointError.

    If the file contains a specnet document and exactly the graph that it generates, that document is used.
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
    model = _from_document(name, loaded.graph, graph.constants, properties.get(MODEL_KEY))
    if model is not None:
        return Imported(model)
    note = "its specnet document describes another graph than the file contains; the graph was used"
    return graph.imported([note] if MODEL_KEY in properties else [])


def _from_document(name: str, graph: Any, constants: Mapping[str, npt.NDArray[Any]], text: str | None) -> Model | None:
    """Return the model of the file's document, None if there is none or its graph differs from the file's."""
    if text is None:
        return None
    try:
        spec = document_of(name, text)
        expected = arrays_of(assemble(spec.plan(), lambda: spec))
        model = fill_model(name, spec, {full: constants[full] for full in expected if full in constants})
        generated = graph_of(model).SerializeToString(deterministic=True)
    except SpecnetError:
        return None
    return model if generated == graph.SerializeToString(deterministic=True) else None


class OnnxGraph:
    """A graph: its nodes by the name of their output, its constants, and the nearest dominator of each value."""

    def __init__(self, name: str, model: Any, onnx: Any) -> None:
        self.name = name
        self.onnx = onnx
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        graph = model.graph
        if len(graph.node) > LARGEST_GRAPH or model.functions or len(graph.sparse_initializer):
            raise unsupported(name, f"has functions, sparse tensors, or more than {LARGEST_GRAPH:,} nodes")
        for tensor in graph.initializer:
            self.constants[tensor.name] = self._read_tensor(tensor)
        self.nodes: dict[str, Any] = {}
        for node in graph.node:
            self._add_node(node)
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise unsupported(
                name, f"has {len(inputs)} inputs and {len(graph.output)} outputs; specnet's models have one each"
            )
        self.input, self.output = inputs[0], graph.output[0].name
        self.parents: dict[str, str] = {}
        self._count = 0

    def _add_node(self, node: Any) -> None:
        """Add a node, or a constant if its output depends only on constants."""
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" and len(node.attribute) == 1:
            self.constants[node.output[0]] = self._read_constant(node.attribute[0])
        elif node.op_type in _FOLDED and inputs and all(name in self.constants for name in inputs):
            self.constants[node.output[0]] = self._fold_constants(node, [self.constants[name] for name in inputs])
        elif node.output:
            if node.output[0] in self.nodes or node.output[0] in self.constants:
                raise unsupported(self.name, f"the value {node.output[0]!r:.80} is produced twice")
            self.nodes[node.output[0]] = node

    def _fold_constants(self, node: Any, values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        try:
            if node.op_type == "Transpose":
                return values[0].transpose(self.attributes(node).get("perm"))
            if node.op_type == "Cast":
                to = self.onnx.helper.tensor_dtype_to_np_dtype(self.attributes(node)["to"])
                return values[0].astype(to)
            if node.op_type == "Identity":
                return values[0]
            if math.prod(np.broadcast_shapes(*(value.shape for value in values))) > max(v.size for v in values):
                raise ValueError("the result is larger than its constants")  # noqa: TRY301 - raised like the others
            return values[0] + values[1]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise unsupported(self.name, f"{node.name or node.output[0]} ({node.op_type}): {error}"[:300]) from None

    def _read_constant(self, attribute: Any) -> npt.NDArray[Any]:
        if attribute.name == "value":
            return self._read_tensor(attribute.t)
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in attribute.name else np.int64
            return np.asarray(self.onnx.helper.get_attribute_value(attribute), kind)
        raise unsupported(self.name, f"a Constant has the unsupported attribute {attribute.name!r:.40}")

    def _read_tensor(self, tensor: Any) -> npt.NDArray[Any]:
        """Read a tensor; its values must be in this file, and their number must match the shape."""
        types = self.onnx.TensorProto
        if tensor.data_location != types.DEFAULT or len(tensor.external_data):
            raise unsupported(self.name, f"{tensor.name!r:.80} is stored in another file; save the model as one file")
        kinds = {types.FLOAT: 4, types.DOUBLE: 8, types.INT64: 8, types.INT32: 4, types.FLOAT16: 2, types.BOOL: 1}
        if tensor.data_type not in kinds:
            raise unsupported(
                self.name, f"{tensor.name!r:.80}: expected floats or integers, got data type {tensor.data_type}"
            )
        size = math.prod(tensor.dims)
        stored = (
            len(tensor.raw_data) // kinds[tensor.data_type] if tensor.HasField("raw_data") else len(tensor.float_data)
        )
        stored = stored or len(tensor.double_data) or len(tensor.int64_data) or len(tensor.int32_data)
        if stored != size or any(dim < 0 for dim in tensor.dims):
            detail = f"{stored:,} values for the shape {tuple(tensor.dims)}"
            raise unsupported(self.name, f"{tensor.name!r:.80} has {detail}"[:300])
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def attributes(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes by name."""
        return {attribute.name: self.onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def variables(self, node: Any) -> list[str]:
        """Return the names of a node's inputs that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def _check_operators(self) -> None:
        """Raise CheckpointUnsupportedError with the names of all nodes that no layer can represent."""
        unknown = [
            f"{node.name or node.output[0]} ({node.domain}{'.' if node.domain else ''}{node.op_type})"
            for node in self.nodes.values()
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx")
        ]
        if unknown:
            raise unsupported(self.name, f"contains unsupported operators: {', '.join(unknown[:20])}; {_REMEDY}")

    def _dominators(self) -> dict[str, str]:
        """Return the immediate dominators: the nearest value on all paths from the input (Cooper and others, 2001)."""
        parents: dict[str, str] = {}
        depth = {self.input.name: 0}
        for name, node in self.nodes.items():  # ONNX requires topological order
            dominator: str | None = None
            for value in self.variables(node):
                if value not in depth:
                    raise unsupported(
                        self.name, f"{node.name or name}: its input {value!r:.80} does not depend on the graph's input"
                    )
                other = value
                while dominator is not None and dominator != other:
                    if depth[dominator] >= depth[other]:
                        dominator = parents[dominator]
                    else:
                        other = parents[other]
                dominator = other
            if dominator is not None:
                parents[name], depth[name] = dominator, depth[dominator] + 1
        if self.output not in depth:
            raise unsupported(self.name, f"its output {self.output!r:.80} does not depend on its input")
        return parents

    def imported(self, notes: list[str]) -> Imported:
        """Build the model from the operators, and add to the notes. Raises CheckpointUnsupportedError."""
        self._check_operators()
        self.parents = self._dominators()
        shape, dtype = self._input_type()
        steps = self.steps(self.input.name, self.output)
        integers = self.input.type.tensor_type.elem_type in (self.onnx.TensorProto.INT64, self.onnx.TensorProto.INT32)
        batch = self.input.type.tensor_type.shape.dim[0].dim_value
        kind = {"float32": "FLOAT", "float64": "DOUBLE"}[dtype]
        given = Given(checked_inputs(self.name, shape), batch, self.versions.get("", 1), integers=integers, kind=kind)
        layers, arrays, layer_notes = layers_of(self.name, steps, given)
        if not layers:
            raise unsupported(self.name, "contains no operator that becomes a layer")
        spec = spec_of_layers(self.name, shape, layers, dtype=dtype)
        notes += layer_notes
        return Imported(fill_model(self.name, spec, arrays, notes), tuple(notes))

    def _input_type(self) -> tuple[tuple[int, ...], str]:
        types = self.onnx.TensorProto
        tensor = self.input.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if len(shape) < 2 or any(size < 1 for size in shape[1:]):
            raise unsupported(
                self.name, f"its input has shape {shape}; specnet needs every size except the first, the batch size"
            )
        floats = {value.dtype for value in self.constants.values() if value.dtype.kind == "f"}
        kinds = {types.FLOAT: "float32", types.DOUBLE: "float64"}
        integers = tensor.elem_type in (types.INT64, types.INT32)
        dtype = ("float64" if np.dtype("f8") in floats else "float32") if integers else kinds.get(tensor.elem_type)
        if dtype is None:
            raise unsupported(self.name, f"its input: expected float or double, got data type {tensor.elem_type}")
        return shape[1:], dtype

    def steps(self, start: str, end: str, depth: int = 0) -> list[NodeRead]:
        """Return the steps that compute `end` from `start`, which must dominate it."""
        if depth > 64:
            raise unsupported(self.name, "its residuals are nested more than 64 levels deep")
        reversed_steps: list[NodeRead] = []
        value = end
        while value != start:
            step, value = self._read_step(start, value, depth)
            reversed_steps.append(step)
            self._count += 1
            if self._count > LARGEST_GRAPH:
                raise unsupported(self.name, f"its branches expand to more than {LARGEST_GRAPH:,} layers")
        return reversed_steps[::-1]

    def _read_step(self, start: str, value: str, depth: int) -> tuple[NodeRead, str]:
        """Return the step that computes a value, and the value that it starts from."""
        node, parent = self.nodes[value], self.parents[value]
        variables = self.variables(node)
        step = NodeRead(node.op_type, node.name or value, self.attributes(node))
        step.outputs = sum(bool(name) for name in node.output)
        if node.op_type == "Cast":
            step.attributes["to_name"] = self.onnx.TensorProto.DataType.Name(step.attributes.get("to", 0))
        if node.op_type not in IGNORED:
            activation = self._find_activation(start, value)
            if activation is not None:
                return activation
        if len(variables) == 1:
            step.constants = [(name, self.constants[name]) for name in node.input if name and name in self.constants]
            step.constant_first = node.input[0] in self.constants
            return step, parent
        if node.op_type not in ("Add", "Concat") or (node.op_type == "Add" and len(variables) != 2):
            raise unsupported(
                self.name, f"{step.name} ({node.op_type}) combines values in a way that no layer does; {_REMEDY}"
            )
        if any(name in self.constants for name in node.input):
            raise unsupported(self.name, f"{step.name} ({node.op_type}) has a constant among its inputs; {_REMEDY}")
        step.ways = [self.steps(parent, variable, depth + 1) for variable in variables]
        return step, parent

    def _find_activation(self, start: str, value: str) -> tuple[NodeRead, str] | None:
        """Return the activation in elementary operators that computes this value, and its input; None without one."""
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
