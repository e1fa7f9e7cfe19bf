"""The constants of an ONNX graph: its tensors, and what operators compute from constants alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.onnx.builder import UnsupportedNodeError
from specnet.interop.onnx.operator_sets import OLD_BROADCAST, align

FOLDED = ("Add", "Cast", "Identity", "Slice", "Transpose")
"""The operators that are computed at once if all their inputs are constants."""


_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class Constants(dict[str, npt.NDArray[Any]]):
    """The constants by name. What is computed from others takes memory, of which `left` bytes may still be used."""

    def __init__(self, onnx: Any, version: int, left: int) -> None:
        super().__init__()
        self.onnx = onnx
        self._version = version
        self._left = left

    def read_tensor(self, tensor: Any) -> npt.NDArray[Any]:
        """Read a tensor whose values must be in this file, in one field. Raises UnsupportedNodeError."""
        types, what = self.onnx.TensorProto, f"{tensor.name!r:.80}"
        if tensor.data_location != types.DEFAULT or len(tensor.external_data):
            raise UnsupportedNodeError(f"{what} is stored in another file; save the model as one file")
        kinds = {
            types.FLOAT: ("float_data", 4),
            types.DOUBLE: ("double_data", 8),
            types.INT64: ("int64_data", 8),
            types.INT32: ("int32_data", 4),
            types.FLOAT16: ("int32_data", 2),
            types.BOOL: ("int32_data", 1),
        }
        if tensor.data_type not in kinds:
            raise UnsupportedNodeError(f"{what}: expected floats or integers, got data type {tensor.data_type}")
        own_field, itemsize = kinds[tensor.data_type]
        fields = [field for field in _FIELDS if len(getattr(tensor, field))]
        fields += ["raw_data"] if tensor.HasField("raw_data") else []
        if len(fields) > 1 or tensor.HasField("segment"):
            raise UnsupportedNodeError(f"{what} has values in several fields: {', '.join(fields) or 'segments'}")
        if fields and fields[0] not in (own_field, "raw_data"):
            raise UnsupportedNodeError(f"{what}: expected its values in {own_field} or raw_data, got {fields[0]}")
        size = math.prod(tensor.dims)
        unit = itemsize if fields == ["raw_data"] else 1
        stored = len(getattr(tensor, fields[0])) if fields else 0
        if stored != size * unit or any(dim < 0 for dim in tensor.dims):
            found = f"{stored // unit:,} values" if stored % unit == 0 else f"{stored:,} bytes"
            raise UnsupportedNodeError(f"{what} has {found} for the shape {tuple(tensor.dims)}"[:300])
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def read_attribute(self, attribute: Any) -> npt.NDArray[Any]:
        """Read the value of a Constant. Raises UnsupportedNodeError."""
        if attribute.name == "value":
            return self.read_tensor(attribute.t)
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in attribute.name else np.int64
            return np.asarray(self.onnx.helper.get_attribute_value(attribute), kind)
        raise UnsupportedNodeError(f"a Constant has the unsupported attribute {attribute.name!r:.40}")

    def fold(self, node: Any, attributes: dict[str, Any], values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Compute an operator in FOLDED from constants. Raises UnsupportedNodeError."""
        first = values[0]
        try:
            if node.op_type == "Identity":
                return first
            if node.op_type == "Transpose":
                return first.transpose(attributes.get("perm"))
            if node.op_type == "Slice":
                return self._part_of(first, values[1:] if all(node.input) else [])
            if node.op_type == "Cast":
                dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(cast_type(attributes, self.onnx)))
                self.use(first.size * dtype.itemsize)
                return first.astype(dtype)
            second = self._second_operand(attributes, values)
            if math.prod(np.broadcast_shapes(first.shape, second.shape)) > max(first.size, second.size):
                raise UnsupportedNodeError("the result is larger than its constants")
            self.use(max(first.nbytes, second.nbytes))
            return first + second
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UnsupportedNodeError(str(error)[:200]) from None

    def _second_operand(self, attributes: dict[str, Any], values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        first, second = values
        if self._version >= OLD_BROADCAST or first.shape == second.shape:
            return second
        aligned = align(second, attributes, first.ndim)
        if not attributes.get("broadcast") or np.broadcast_shapes(first.shape, aligned.shape) != first.shape:
            raise UnsupportedNodeError(f"adds constants of the shapes {first.shape} and {second.shape}")
        return aligned

    def _part_of(self, array: npt.NDArray[Any], numbers: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the part of an array that a Slice takes, a view. Raises UnsupportedNodeError."""
        if len(numbers) not in (3, 4) or any(number.ndim != 1 or number.dtype.kind != "i" for number in numbers):
            raise UnsupportedNodeError("takes a part of a constant, expected starts, ends and axes")
        part = [slice(None)] * array.ndim
        starts, ends, axes, *steps = (number.tolist() for number in numbers)
        if any(step != 1 for step in (steps[0] if steps else ())):
            raise UnsupportedNodeError("takes every second number of a constant, or backwards")
        for start, end, axis in zip(starts, ends, axes, strict=True):
            part[axis] = slice(start, end)
        return array[tuple(part)]

    def use(self, size: int) -> None:
        """Take this many bytes of those that are left. Raises UnsupportedNodeError."""
        self._left -= size
        if self._left < 0:
            raise UnsupportedNodeError("the constants computed from others are far larger than the file")


def cast_type(attributes: dict[str, Any], onnx: Any) -> int:
    """Return the data type that a Cast produces, which operator sets before 6 give by name; 0 if it is unknown."""
    to = attributes.get("to", 0)
    if isinstance(to, int):
        return to
    names: dict[bytes, int] = {name.encode(): number for name, number in onnx.TensorProto.DataType.items()}
    return names.get(to, 0)
