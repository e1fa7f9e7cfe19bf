"""Import of an ONNX graph whose operators correspond to layers.

The graph is read from its output back to its input. If an Add or a Concat combines branches, they start at the nearest
common dominator. The nodes in between form a residual, a concat, or an activation in elementary operators, which is
recognized by its values. Nothing outside the file is read: external tensors are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.interop.channels_first import CONVOLUTIONS, TRANSPOSED, from_channels_first
from specnet.interop.foreign_file import open_foreign
from specnet.interop.imported_model import (
    MODEL_KEY,
    Arrays,
    Imported,
    array_names,
    checked_inputs,
    document_of,
    fill_model,
    spec_of_layers,
    unsupported,
)
from specnet.interop.onnx import activations as elementwise
from specnet.interop.onnx.layers import layers_of
from specnet.interop.onnx.sequence import attention
from specnet.interop.onnx.sequence.weights import recurrent_arrays
from specnet.interop.onnx.spatial.layout import takes_channels_first
from specnet.interop.onnx.steps import Given, GraphNode, NodeRead
from specnet.interop.onnx.structure import LARGEST_GRAPH, Structure
from specnet.interop.onnx.wire import LARGEST_FILE, check_fields
from specnet.interop.onnx.writer import graph_of, onnx_package
from specnet.model import Model
from specnet.spec.model_spec import ModelSpec


def from_onnx(path: str | os.PathLike[str]) -> Imported:
    """Read an ONNX file with a chain of layers, residual Adds and Concats. Raises CheckpointError.

    If the file contains a specnet document and exactly the graph that it generates, that document is used.
    """
    onnx = onnx_package()
    name = os.fspath(path)
    with open_foreign(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise unsupported(name, f"has {size:,} bytes, expected at most {LARGEST_FILE:,}, the limit of ONNX")
        data = file.read()
    check_fields(name, data, onnx.ModelProto.DESCRIPTOR)
    try:
        loaded = onnx.load_model_from_string(data)
    except Exception as error:
        raise unsupported(name, "cannot be read as ONNX") from error
    properties = {entry.key: entry.value for entry in loaded.metadata_props}
    if len(properties) != len(loaded.metadata_props):
        raise unsupported(name, "its metadata_props have a key twice")
    graph = OnnxGraph(Structure(name, loaded, onnx, size))
    model = _from_document(name, loaded.graph, graph.constants, properties.get(MODEL_KEY), size)
    if model is not None:
        return Imported(model)
    note = "its specnet document describes another graph than the file contains; the graph was used"
    return graph.imported([note] if MODEL_KEY in properties else [])


def _from_document(
    name: str, graph: Any, constants: Mapping[str, npt.NDArray[Any]], text: str | None, size: int
) -> Model | None:
    """Return the model of the file's document, None if there is none or its graph differs from the file's."""
    if text is None:
        return None
    try:
        spec = document_of(name, text)
        arrays = _arrays_from(spec, constants)
        model = fill_model(name, spec, arrays)
        generated = graph_of(model, (len(graph.node), size)).SerializeToString(deterministic=True)
    except (SpecnetError, ValueError):  # a weight of another rank, or of a number that its groups do not divide
        return None
    return model if generated == graph.SerializeToString(deterministic=True) else None


def _arrays_from(spec: ModelSpec, constants: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the arrays of a document's model that are among the constants, in specnet's layout."""
    arrays = {full: constants[full] for full in array_names(spec) if full in constants}
    arrays |= recurrent_arrays(spec, constants)
    for layer, entry, _ in spec.walk():
        weight, slope = f"{layer}.weight", f"{layer}.slope"
        if entry.type in (*CONVOLUTIONS, *TRANSPOSED) and weight in arrays:
            arrays[weight] = from_channels_first(entry.type, arrays[weight], entry.fields()["groups"])
        elif slope in arrays:  # behind a convolution it has an axis for each of the kernel's
            arrays[slope] = arrays[slope].reshape(-1)
    return arrays


class OnnxGraph:
    """A graph and the nearest dominator of each of its values."""

    def __init__(self, structure: Structure) -> None:
        self.name = structure.name
        self.constants = structure.constants
        self.nodes = structure.nodes
        self.parents: dict[str, str] = {}
        self._structure = structure
        self._types = structure.onnx.TensorProto
        self._input = structure.input
        self._count = 0

    def _variables(self, node: GraphNode) -> list[str]:
        """Return the names of a node's inputs that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def _dominators(self) -> dict[str, str]:
        """Return the immediate dominators: the nearest value on all paths from the input (Cooper and others, 2001)."""
        parents: dict[str, str] = {}
        depth = {self._input.name: 0}
        for name, node in self.nodes.items():  # ONNX requires topological order
            dominator: str | None = None
            for value in self._variables(node):
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
        if self._structure.output not in depth:
            raise unsupported(self.name, f"its output {self._structure.output!r:.80} does not depend on its input")
        return parents

    def imported(self, notes: list[str]) -> Imported:
        """Build the model from the operators, and add to the notes. Raises CheckpointUnsupportedError."""
        self._structure.check_operators()
        self.parents = self._dominators()
        shape, dtype = self._input_type()
        steps = self.steps(self._input.name, self._structure.output)
        integers = self._input.type.tensor_type.elem_type in (self._types.INT64, self._types.INT32)
        batch = self._input.type.tensor_type.shape.dim[0].dim_value
        channels_first = not integers and len(shape) in (2, 3) and takes_channels_first(steps)
        if channels_first:
            last = (*shape[1:], shape[0])
            notes.append(f"an input has the shape {shape} in the file, {last} here: the channels are on the last axis")
            shape = last
        given = Given(
            checked_inputs(self.name, shape),
            batch,
            self._structure.version,
            integers=integers,
            channels_first=channels_first,
            copies=self._structure.constants.use,
        )
        layers, arrays, layer_notes = layers_of(self.name, steps, given)
        if not layers:
            raise unsupported(self.name, "contains no operator that becomes a layer")
        spec = spec_of_layers(self.name, shape, layers, dtype=dtype)
        notes += layer_notes
        return Imported(fill_model(self.name, spec, arrays, notes), tuple(notes))

    def _input_type(self) -> tuple[tuple[int, ...], str]:
        types = self._types
        tensor = self._input.type.tensor_type
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
        variables = self._variables(node)
        step = NodeRead(node.op_type, node.name or value, dict(node.attributes))
        step.outputs, step.output = sum(bool(name) for name in node.output), node.output.index(value)
        if node.op_type == "Cast":
            to = self._structure.output_type(node)
            step.attributes["to_name"] = self._types.DataType.Name(to) if to in self._types.DataType.values() else to
        activation = self._find_activation(start, value)
        if activation is not None:
            return activation
        if node.op_type == "MatMul" and len(variables) == 2:
            found = attention.recognized(self.nodes, self.constants, value)
            if found is not None and found[1] == parent:
                return found
        if len(variables) == 1:
            step.operands = [self.constants.get(name) for name in node.input]
            step.constants = [(name, self.constants[name]) for name in node.input if name and name in self.constants]
            step.position = node.input.index(variables[0])
            return step, parent
        if node.op_type not in ("Add", "Concat") or (node.op_type == "Add" and len(variables) != 2):
            raise self._structure.refuse(str(node), "combines values in a way that no layer does")
        if any(name in self.constants for name in node.input):
            raise self._structure.refuse(str(node), "has a constant among its inputs")
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
            found = elementwise.recognized(self, origin, value)
            if found is not None:
                step = NodeRead("layer", value, found[0])
                step.rank = found[1]
                return step, origin
        return None
