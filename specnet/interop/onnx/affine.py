"""ONNX operators that become affine, embedding and prelu layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError, vector_of
from specnet.interop.onnx.steps import NodeRead


def _affine(reader: LayerBuilder, weight: tuple[str, npt.NDArray[Any]], bias: npt.NDArray[Any] | None) -> None:
    name, array = weight
    if name in reader.given.seen:
        reader.notes.append(f"{name} is used more than once; each use is trained on its own from now on")
    reader.given.seen.add(name)
    if array.ndim != 2:
        raise UnsupportedNodeError(f"a weight of shape {array.shape}")
    arrays: Arrays = {"weight": array}
    if bias is not None:
        arrays["bias"] = vector_of(bias, array.shape[1], len(reader.shape) + 1)
    reader.add({"type": "affine", "units": array.shape[1], "bias": bias is not None}, arrays, name)


def _gemm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    given = step.attributes
    if given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or given.get("transA", 0) or step.constant_first:
        raise UnsupportedNodeError("alpha, beta and transA other than 1, 1 and 0")
    (name, weight), *bias = step.constants
    _affine(reader, (name, weight.T if given.get("transB", 0) else weight), bias[0][1] if bias else None)
    return 1


def _matmul(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step, behind = steps[0], steps[1:2]
    if step.constant_first:
        raise UnsupportedNodeError("a constant from the left")
    with_bias = bool(behind and behind[0].operator == "Add" and not behind[0].ways)
    _affine(reader, step.constants[0], behind[0].constants[0][1] if with_bias else None)
    return 2 if with_bias else 1


def _shift(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read x - c, x + c and x / c, also one behind the other, as standardize: (x - mean) / std."""
    step, behind = steps[0], steps[1:2]
    if step.constant_first and step.operator != "Add":
        raise UnsupportedNodeError("a constant from the left")
    constant = _number(reader, step.constants[0][1])
    divides = bool(step.operator != "Div" and behind and behind[0].operator == "Div" and not behind[0].constant_first)
    divides = divides and not behind[0].ways
    divisor = constant if step.operator == "Div" else _number(reader, behind[0].constants[0][1]) if divides else 1.0
    mean = {"Add": _negated(constant), "Sub": constant}.get(step.operator, 0.0)
    reader.add({"type": "standardize", "mean": mean, "std": divisor})
    return 2 if divides else 1


def _number(reader: LayerBuilder, array: npt.NDArray[Any]) -> Any:
    """Give a constant as a number for all features, or a list of one each."""
    rank = len(reader.shape) + 1
    return array.item() if array.size == 1 and array.ndim <= rank else vector_of(array, reader.features, rank).tolist()


def _negated(value: Any) -> Any:
    return [-number for number in value] if isinstance(value, list) else -value


def _prelu(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    name, slope = steps[0].constants[0]
    if slope.size == 1 < reader.features:
        reader.notes.append(f"{steps[0].name}: one slope for all features; each is trained on its own from now on")
    reader.add({"type": "prelu"}, {"slope": vector_of(slope, reader.features, len(reader.shape) + 1)}, name)
    return 1


def _embedding(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.attributes.get("axis", 0) != 0 or not step.constant_first or step.constants[0][1].ndim != 2:
        raise UnsupportedNodeError("picks other than rows of a matrix")
    name, weight = step.constants[0]
    sizes = {"vocabulary": weight.shape[0], "dimension": weight.shape[1]}
    reader.add({"type": "embedding", **sizes}, {"weight": weight}, name)
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Add": _shift,
    "Div": _shift,
    "Gather": _embedding,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Sub": _shift,
}
