"""ONNX operators that become affine, embedding, prelu and standardize layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError, vector_of
from specnet.interop.onnx.operator_sets import OLD_BROADCAST, align
from specnet.interop.onnx.sequence import axes
from specnet.interop.onnx.sequence.positions import add_positions, are_positions
from specnet.interop.onnx.steps import NodeRead

MOST_LISTED = 2**20
"""The most numbers that become part of the document, where each takes some ten times the memory that it has here."""


def _add_affine(reader: LayerBuilder, weight: tuple[str, npt.NDArray[Any]], bias: npt.NDArray[Any] | None) -> None:
    name, array = weight
    reader.note_use(name)
    if array.ndim != 2:
        raise UnsupportedNodeError(f"expected a weight of rank 2, got the shape {array.shape}")
    if reader.first:
        raise UnsupportedNodeError("multiplies along the last axis, but the channels are on the second")
    arrays: Arrays = {"weight": reader.in_order(array)}
    reader.flattened = ()
    if bias is not None:
        arrays["bias"] = vector_of(bias, array.shape[1], len(reader.shape) + 1)
    reader.add({"type": "affine", "units": array.shape[1], "bias": bias is not None}, arrays, name)


def _gemm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    options = step.attributes
    is_plain = options.get("alpha", 1.0) == 1 and options.get("beta", 1.0) == 1 and not options.get("transA", 0)
    if not is_plain or step.position:
        raise UnsupportedNodeError("alpha, beta and transA must be 1, 1 and 0, and the first input not a constant")
    if len(reader.shape) > 1:
        raise UnsupportedNodeError(f"expected rows of numbers, got rows of the shape {reader.shape}")
    (name, weight), *bias = step.constants
    _add_affine(reader, (name, weight.T if options.get("transB", 0) else weight), bias[0][1] if bias else None)
    return 1


def _matmul(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].position:
        raise UnsupportedNodeError("the left operand is a constant")
    _add_affine(reader, steps[0].constants[0], None)
    return 1


def _add(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read a constant that is added right after a product with weights, but for dropout in between, as its bias."""
    if are_positions(reader, _aligned(reader, steps[0])):
        return add_positions(reader, steps[0])
    layer = reader.layer_without_bias()
    if layer is None:
        return _standardize(reader, steps)
    full = f"{reader.prefix}{layer['name']}"
    reader.arrays[f"{full}.bias"] = reader.vector(_aligned(reader, steps[0]))
    layer["bias"] = True
    if reader.entries[-1] is not layer:
        reader.notes.append(f"{full}: its bias is now added before the dropout that follows, not after it")
    return 1


def _standardize(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read x - c, x + c or x / c, or a shift followed by a division, as standardize: (x - mean) / std."""
    step, following = steps[0], steps[1:2]
    if step.position and step.operator != "Add":
        raise UnsupportedNodeError("the left operand is a constant")
    constant = _number_or_list(reader, step)
    divides = step.operator != "Div" and bool(following) and following[0].operator == "Div"
    divides = divides and not following[0].position and not following[0].ways
    second = _number_or_list(reader, following[0]) if divides else 1.0
    divisor = constant if step.operator == "Div" else second
    mean = {"Add": _negate(constant), "Sub": constant}.get(step.operator, 0.0)
    reader.add({"type": "standardize", "mean": mean, "std": divisor})
    return 2 if divides else 1


def _aligned(reader: LayerBuilder, step: NodeRead) -> npt.NDArray[Any]:
    """Return the constant of a node as an operand that numpy broadcasts to the current shape."""
    array = step.constants[0][1]
    is_old = reader.version < OLD_BROADCAST
    return align(array, step.attributes, len(reader.shape) + 1) if is_old else array


def _number_or_list(reader: LayerBuilder, step: NodeRead) -> Any:
    """Return a constant as one number for all features, or as a list of one number per feature."""
    array, rank = _aligned(reader, step), len(reader.shape) + 1
    if array.size == 1 and array.ndim <= rank:
        return array.item()
    reader.given.listed += array.size
    if reader.given.listed > MOST_LISTED:
        raise UnsupportedNodeError(f"the document would list more than {MOST_LISTED:,} numbers")
    return reader.vector(array).tolist()


def _negate(value: Any) -> Any:
    return [-number for number in value] if isinstance(value, list) else -value


def _prelu(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    name, slope = steps[0].constants[0]
    if reader.version < OLD_BROADCAST and slope.size > 1 and len(reader.shape) > 1:
        raise UnsupportedNodeError(
            "has a slope for each index of the second axis; specnet has one for each of the last"
        )
    if slope.size == 1 < reader.features:
        reader.notes.append(
            f"{steps[0].name}: has one slope for all features; each feature now trains a separate slope"
        )
    reader.add({"type": "prelu"}, {"slope": reader.vector(slope)}, name)
    return 1


def _embedding(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if not step.position and not reader.integers:
        return axes.OPERATORS["Gather"](reader, steps)
    if step.attributes.get("axis", 0) != 0 or step.position != 1 or step.constants[0][1].ndim != 2:
        raise UnsupportedNodeError("does not select rows of a matrix")
    name, weight = step.constants[0]
    sizes = {"vocabulary": weight.shape[0], "dimension": weight.shape[1]}
    reader.add({"type": "embedding", **sizes}, {"weight": weight}, name)
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Add": _add,
    "Div": _standardize,
    "Gather": _embedding,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Sub": _standardize,
}
