"""From the steps of an ONNX graph to layers and their arrays, first to last, shapes in hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import CheckpointError
from specnet.interop.imported_model import Arrays, LayerNames, undo_float32_rounding, unsupported
from specnet.interop.onnx import activations as elementwise
from specnet.interop.onnx import affine, norm
from specnet.interop.onnx.builder import Entry, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.steps import Given, NodeRead

IGNORED = ("Identity", "Cast")


def layers_of(file: str, steps: Sequence[NodeRead], given: Given) -> tuple[list[Entry], Arrays, list[str]]:
    """Give entries, arrays and notes. Raises CheckpointUnsupportedError, which names the node."""
    reader = _read(file, steps, given, given.shape, "", LayerNames())
    return reader.entries, reader.arrays, reader.notes


def _read(
    file: str, steps: Sequence[NodeRead], given: Given, shape: ShapeTuple, prefix: str, names: LayerNames
) -> LayerBuilder:
    reader = LayerBuilder(file, given, shape, prefix, names)
    index = 0
    while index < len(steps):
        step = steps[index]
        try:
            if step.ways:
                _join(reader, step)
                used = 1
            else:
                used = OPERATORS[step.operator](reader, steps[index : index + 3])
        except CheckpointError as error:
            told = str(error).removeprefix(f"{file}: ")
            raise unsupported(file, f"{step.name} ({step.operator}): {told}") from None
        except (UnsupportedNodeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            why = str(error) if isinstance(error, UnsupportedNodeError) else "is used in a way that is not known"
            raise unsupported(file, f"{step.name} ({step.operator}): {why}") from None
        index += used
    return reader


def _join(reader: LayerBuilder, step: NodeRead) -> None:
    """Make a residual of an Add, a concat of a Concat; the ways' layers are siblings of one block."""
    kind = "residual" if step.operator == "Add" else "concat"
    reader.counts[kind] = reader.counts.get(kind, 0) + 1
    name, inner = reader.names(f"{kind}_{reader.counts[kind]}"), LayerNames()
    prefix = f"{reader.prefix}{name}."
    if reader.integers:
        raise UnsupportedNodeError("joins integers")
    ways = [_read(reader.file, way, reader.given, reader.shape, prefix, inner) for way in step.ways]
    lists, shapes = [way.entries for way in ways], [way.shape for way in ways]
    if kind == "residual":
        if not lists[0]:  # x + f(x): the layers come first
            lists.reverse()
        if not lists[0]:
            raise UnsupportedNodeError("adds a value to itself")
        if shapes[0] != shapes[1]:
            raise UnsupportedNodeError(f"adds {shapes[0]} and {shapes[1]}")
        entry: Entry = {"type": kind, "layers": lists[0], "shortcut": lists[1]}
        reader.shape = shapes[0]
    else:
        if step.attributes.get("axis") not in (-1, len(reader.shape)) or len({shape[:-1] for shape in shapes}) > 1:
            raise UnsupportedNodeError("joins on another axis than the last")
        entry = {"type": kind, "branches": lists}
        reader.shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    reader.entries.append({"name": name, **entry})
    for way in ways:
        reader.arrays |= way.arrays
        reader.notes += way.notes


def _flatten(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes.get("axis", 1) not in (1, -len(reader.shape)):
        raise UnsupportedNodeError("joins the batch's axis with others")
    if len(reader.shape) > 1:
        reader.add({"type": "flatten"})
    return 1


def _reshape(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step, behind = steps[0], steps[1:3]
    first, *sizes = (int(size) for size in step.constants[0][1].reshape(-1))
    merged = (first, sizes) == (-1, [reader.features]) and len(reader.shape) > 1
    if merged and [other.operator for other in behind] == ["BatchNormalization", "Reshape"]:
        if list(behind[1].constants[0][1][1:]) != list(reader.shape):
            raise UnsupportedNodeError("is not turned back behind the batch norm")
        norm.take_batch_norm(reader, behind[0])
        return 3
    sizes = [reader.shape[i] if size == 0 and i < len(reader.shape) else size for i, size in enumerate(sizes)]
    total = math.prod(reader.shape)
    if sizes.count(-1) == 1 and first != -1:
        sizes[sizes.index(-1)] = total // -math.prod(sizes) if math.prod(sizes) else 0
    if math.prod(sizes) != total or first not in (-1, 0, reader.given.batch or -1):
        raise UnsupportedNodeError("changes the batch's axis")
    if tuple(sizes) != reader.shape:
        reader.add({"type": "flatten"} if len(sizes) == 1 else {"type": "reshape", "shape": sizes})
    return 1


def _dropout(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    flags = [array for _, array in step.constants if array.dtype.kind == "b"]
    if any(flag.any() for flag in flags):
        raise UnsupportedNodeError("was exported for training; export the model for inference")
    ratios = [array.item() for _, array in step.constants if array.dtype.kind == "f"]
    ratio = ratios[0] if ratios else step.attributes.get("ratio", 0.5)
    reader.add({"type": "dropout", "rate": undo_float32_rounding(ratio)})
    return 1


def _over_last(kind: str) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        default = -1 if reader.version >= 13 else 1
        axis = steps[0].attributes.get("axis", default)
        if axis not in (-1, len(reader.shape)) or (reader.version < 13 and len(reader.shape) > 1):
            raise UnsupportedNodeError("works on another axis than the last")
        reader.add({"type": kind})
        return 1

    return read


def _activation(kind: str, **settings: tuple[str, Any]) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    """Make the reader of an activation whose settings are attributes, with these defaults."""

    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        entry: Entry = {"type": kind}
        for ours, (theirs, default) in settings.items():
            value = steps[0].attributes.get(theirs, default)
            entry[ours] = (
                value.decode()
                if isinstance(value, bytes)
                else undo_float32_rounding(value)
                if value != default
                else default
            )
        reader.add(entry)
        return 1

    return read


def _as_it_is(_reader: LayerBuilder, _steps: Sequence[NodeRead]) -> int:
    return 1


def _cast(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Pass over a cast to the type that there is already; others change numbers."""
    kinds = ("INT64", "INT32") if reader.integers else (reader.given.kind,)
    if steps[0].attributes.get("to_name") not in kinds:
        raise UnsupportedNodeError(f"to {steps[0].attributes.get('to_name')} changes what is computed")
    return 1


def _recognized(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    reader.add(steps[0].attributes)
    return 1


def _selu(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes:
        raise UnsupportedNodeError("alpha and gamma other than selu's")
    reader.add({"type": "selu"})
    return 1


def _concat(_reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].constants:
        raise UnsupportedNodeError("joins a constant")
    return 1  # of one value


def _no_layer(_reader: LayerBuilder, _steps: Sequence[NodeRead]) -> int:
    raise UnsupportedNodeError("is no part of an activation that specnet knows")


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    **dict.fromkeys(elementwise.OPERATORS, _no_layer),
    **affine.OPERATORS,
    **norm.OPERATORS,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Elu": _activation("elu", alpha=("alpha", 1.0)),
    "Flatten": _flatten,
    "Gelu": _activation("gelu", approximate=("approximate", "none")),
    "Identity": _as_it_is,
    "LeakyRelu": _activation("leaky_relu", negative_slope=("alpha", 0.01)),
    "LogSoftmax": _over_last("log_softmax"),
    "Mish": _activation("mish"),
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Selu": _selu,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _over_last("softmax"),
    "Softplus": _activation("softplus"),
    "Tanh": _activation("tanh"),
    "layer": _recognized,
}
