"""ONNX operators that become affine, embedding, prelu and standardize layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError, vector_of
from specnet.interop.onnx.steps import NodeRead


def _add_affine(reader: LayerBuilder, weight: tuple[str, npt.NDArray[Any]], bias: npt.NDArray[Any] | None) -> None:
    name, array = weight
    if name in reader.given.seen:
        reader.notes.append(f"{name} is used more than once; each use is now trained separately")
    reader.given.seen.add(name)
    if array.ndim != 2:
        raise UnsupportedNodeError(f"expected a weight of rank 2, got the shape {array.shape}")
    arrays: Arrays = {"weight": array}
    if bias is not None:
        arrays["bias"] = vector_of(bias, array.shape[1], len(reader.shape) + 1)
    reader.add({"type": "affine", "units": array.shape[1], "bias": bias is not None}, arrays, name)


def _gemm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    options = step.attributes
    is_plain = options.get("alpha", 1.0) == 1 and options.get("beta", 1.0) == 1 and not options.get("transA", 0)
    if not is_plain or step.constant_first:
        raise UnsupportedNodeError("alpha, beta and transA must be 1, 1 and 0, and the first input not a constant")
    (name, weight), *bias = step.constants
    _add_affine(reader, (name, weight.T if options.get("transB", 0) else weight), bias[0][1] if bias else None)
    return 1


def _matmul(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step, following = steps[0], steps[1:2]
    if step.constant_first:
        raise UnsupportedNodeError("the left operand is a constant")
    with_bias = bool(following and following[0].operator == "Add" and not following[0].ways)
    _add_affine(reader, step.constants[0], following[0].constants[0][1] if with_bias else None)
    return 2 if with_bias else 1


def _standardize(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read x - c, x + c or x / c, or a shift followed by a division, as standardize: (x - mean) / std."""
    step, following = steps[0], steps[1:2]
    if step.constant_first and step.operator != "Add":
        raise UnsupportedNodeError("the left operand is a constant")
    constant = _number_or_list(reader, step.constants[0][1])
    divides = step.operator != "Div" and bool(following) and following[0].operator == "Div"
    divides = divides and not following[0].constant_first and not following[0].ways
    second = _number_or_list(reader, following[0].constants[0][1]) if divides else 1.0
    divisor = constant if step.operator == "Div" else second
    mean = {"Add": _negate(constant), "Sub": constant}.get(step.operator, 0.0)
    reader.add({"type": "standardize", "mean": mean, "std": divisor})
    return 2 if divides else 1


def _number_or_list(reader: LayerBuilder, array: npt.NDArray[Any]) -> Any:
    """Return a constant as one number for all features, or as a list of one number per feature."""
    rank = len(reader.shape) + 1
    return array.item() if array.size == 1 and array.ndim <= rank else vector_of(array, reader.features, rank).tolist()


def _negate(value: Any) -> Any:
    return [-number for number in value] if isinstance(value, list) else -value


def _prelu(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    name, slope = steps[0].constants[0]
    if slope.size == 1 < reader.features:
        reader.notes.append(
            f"{steps[0].name}: has one slope for all features; each feature now trains a separate slope"
        )
    reader.add({"type": "prelu"}, {"slope": vector_of(slope, reader.features, len(reader.shape) + 1)}, name)
    return 1


def _embedding(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.attributes.get("axis", 0) != 0 or not step.constant_first or step.constants[0][1].ndim != 2:
        raise UnsupportedNodeError("does not select rows of a matrix")
    name, weight = step.constants[0]
    sizes = {"vocabulary": weight.shape[0], "dimension": weight.shape[1]}
    reader.add({"type": "embedding", **sizes}, {"weight": weight}, name)
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Add": _standardize,
    "Div": _standardize,
    "Gather": _embedding,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Sub": _standardize,
}
