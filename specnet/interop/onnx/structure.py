"""The nodes and constants of an ONNX graph, each under one name; nodes that change nothing are left out."""

from __future__ import annotations

from typing import Any

from specnet.errors import CheckpointUnsupportedError
from specnet.interop.foreign_file import unpacked_limit
from specnet.interop.imported_model import unsupported
from specnet.interop.onnx.builder import UnsupportedNodeError
from specnet.interop.onnx.constants import FOLDED, Constants, cast_type
from specnet.interop.onnx.layers import OPERATORS
from specnet.interop.onnx.operator_sets import check_constants, check_node, operator_set, plain_domain
from specnet.interop.onnx.sequence.states import RECURRENT, States, last_of_layers
from specnet.interop.onnx.steps import GraphNode

LARGEST_GRAPH = 20_000
"""The largest number of nodes and layers; a document has at most 32,768 layers."""


_REMEDY = "export the model without it, or describe the model in a document and import only its weights: --model FILE"


class Structure:
    """The nodes of a graph by the names of their outputs, its constants, its input and the name of its output.

    Recurrent operators have two outputs, of all others only the first one is read.
    Identity, and Cast to the type that the values already have, are left out: `GraphNode.input` names what they get.
    """

    def __init__(self, name: str, model: Any, onnx: Any, size: int) -> None:
        graph = model.graph
        if len(graph.node) > LARGEST_GRAPH or model.functions or len(graph.sparse_initializer):
            raise unsupported(name, f"has functions, sparse tensors, or more than {LARGEST_GRAPH:,} nodes")
        self.name = name
        self.onnx = onnx
        self.version = operator_set(name, model, onnx)
        self.constants = Constants(onnx, self.version, unpacked_limit(size))
        self.nodes: dict[str, GraphNode] = {}
        self._states = States(self.constants)
        self._same: dict[str, str] = {}
        self._types: dict[str, int] = {}
        self._defined: set[str] = set()
        self._read_initializers(graph.initializer)
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len({value.name for value in graph.input}) != len(graph.input):
            raise unsupported(name, "two of its inputs have the same name")
        if len(inputs) != 1 or len(graph.output) != 1:
            raise unsupported(
                name, f"has {len(inputs)} inputs and {len(graph.output)} outputs; specnet's models have one each"
            )
        self.input = inputs[0]
        self._define(self.input.name)
        self._types[self.input.name] = self.input.type.tensor_type.elem_type
        for node in graph.node:
            self._add_node(node)
        self.output = self._same.get(graph.output[0].name, graph.output[0].name)

    def _define(self, value: str) -> None:
        if value in self._defined:
            raise unsupported(self.name, f"the value {value!r:.80} is produced twice")
        self._defined.add(value)

    def _read_initializers(self, tensors: Any) -> None:
        for tensor in tensors:
            self._define(tensor.name)
            try:
                self.constants[tensor.name] = self.constants.read_tensor(tensor)
            except UnsupportedNodeError as error:
                raise unsupported(self.name, str(error)) from None

    def _add_node(self, node: Any) -> None:
        """Add a node, a constant if it depends on constants alone, or another name if it changes nothing."""
        if not node.output or not (node.output[0] or node.op_type in RECURRENT):
            return
        for value in node.output:
            if value:
                self._define(value)
        inputs = tuple(self._same.get(value, value) for value in node.input)
        domain = plain_domain(node.domain)
        read = GraphNode(node.op_type, domain, node.name, inputs, tuple(node.output), {})
        try:
            if not domain and self._states.take(read, node.attribute):
                return
            if domain or node.op_type not in (*OPERATORS, *FOLDED, "Constant"):
                self.nodes[node.output[0]] = read  # to be refused together with the others
                return
            check_node(node, self.version, self.onnx)
            self._add_known(read, node)
        except UnsupportedNodeError as error:
            reason = str(error) if node.op_type == "Constant" else f"{read}: {error}"
            raise unsupported(self.name, reason) from None

    def _add_known(self, read: GraphNode, node: Any) -> None:
        output, constants = node.output[0], [value in self.constants for value in read.input if value]
        if node.op_type == "Constant":
            self.constants[output] = self.constants.read_attribute(node.attribute[0])
            return
        read.attributes.update((a.name, self.onnx.helper.get_attribute_value(a)) for a in node.attribute)
        if node.op_type in FOLDED and constants and all(constants):
            values = [self.constants[value] for value in read.input if value]
            self.constants[output] = self.constants.fold(read, read.attributes, values)
            return
        read = last_of_layers(self._states.without_zeros(read), self.nodes, self.constants)
        check_constants(read, constants, self.version, read.attributes)
        self._types[output] = self.output_type(read)
        if self._changes_nothing(read):
            self._same[output] = read.input[0]
        else:
            read_outputs = read.output if read.op_type in RECURRENT else read.output[:1]
            self.nodes |= {name: read for name in read_outputs if name}

    def output_type(self, node: GraphNode) -> int:
        """Return the data type of a node's output, 0 if it is unknown."""
        if node.op_type == "Cast":
            return cast_type(node.attributes, self.onnx)
        if node.op_type == "Greater":
            return int(self.onnx.TensorProto.BOOL)
        return self._type_of(node.input[1 if node.op_type == "Where" else 0])

    def _type_of(self, value: str) -> int:
        """Return the data type of a value, 0 if it is unknown."""
        if value in self.constants:
            return int(self.onnx.helper.np_dtype_to_tensor_dtype(self.constants[value].dtype))
        return self._types.get(value, 0)

    def _changes_nothing(self, node: GraphNode) -> bool:
        if node.op_type != "Cast":
            return node.op_type == "Identity"
        source, to = self._type_of(node.input[0]), self._types[node.output[0]]
        indices = (self.onnx.TensorProto.INT64, self.onnx.TensorProto.INT32)
        return (source == to != 0) or (source in indices and to in indices)

    def check_operators(self) -> None:
        """Raise CheckpointUnsupportedError with the names of all nodes that no layer can represent."""
        unknown = [str(node) for node in self.nodes.values() if node.op_type not in OPERATORS or node.domain]
        if unknown:
            raise unsupported(self.name, f"contains unsupported operators: {', '.join(unknown[:20])}; {_REMEDY}")

    def refuse(self, node: str, why: str) -> CheckpointUnsupportedError:
        """Return the error for a node that is used in a way that no layer computes."""
        return unsupported(self.name, f"{node} {why}; {_REMEDY}")
