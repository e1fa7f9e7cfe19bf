"""Conversion of the steps of an ONNX graph to layers and their arrays, in order; each needs its input shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specnet.errors import CheckpointError
from specnet.interop.imported_model import Arrays, LayerNames, undo_float32_rounding, unsupported
from specnet.interop.onnx import activations as elementwise
from specnet.interop.onnx import affine, norm
from specnet.interop.onnx.builder import Entry, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.operator_sets import OLD_BROADCAST
from specnet.interop.onnx.sequence import attention, axes, recurrent
from specnet.interop.onnx.spatial import conv, layout, pool, resize
from specnet.interop.onnx.steps import Given, NodeRead

_ANY_POSITION = ("Add", "Div", "Gather", "Gemm", "MatMul", "Sub")
"""The operators whose readers check which of the inputs is constant; all others take their value as the first one."""


def layers_of(file: str, steps: Sequence[NodeRead], given: Given) -> tuple[list[Entry], Arrays, list[str]]:
    """Return layer entries, arrays and notes. Raises CheckpointUnsupportedError with the name of the node."""
    reader = _read_steps(LayerBuilder(file, given, given.shape, "", LayerNames()), steps)
    if reader.flattened:
        raise unsupported(file, "its output is a flattened (channels, ...), which specnet has in another order")
    if reader.axes:
        raise unsupported(
            file, "its output does not have the batch on the first axis; export the model with the batch first"
        )
    if reader.first and len(reader.shape) > 1:
        reader.notes.append(f"an output has the shape {reader.graph_shape} in the file, {reader.shape} here")
    return reader.entries, reader.arrays, reader.notes


def _read_steps(reader: LayerBuilder, steps: Sequence[NodeRead]) -> LayerBuilder:
    file, index = reader.file, 0
    while index < len(steps):
        step = steps[index]
        try:
            if step.ways:
                if not axes.joins_directions(reader, step):
                    _read_branches(reader, step)
                used = 1
            elif step.position and step.operator not in _ANY_POSITION:
                raise UnsupportedNodeError("its first input is a constant")  # noqa: TRY301 - named like the others
            else:
                axes.check_axes(reader, step.operator)
                readers = {**OPERATORS, **axes.OPERATORS} if reader.axes else OPERATORS
                used = readers[step.operator](reader, steps[index : index + 5])
        except CheckpointError as error:
            detail = str(error).removeprefix(f"{file}: ")
            raise unsupported(file, f"{step.name} ({step.operator}): {detail}") from None
        except (UnsupportedNodeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            reason = str(error) if isinstance(error, UnsupportedNodeError) else "is used in an unsupported way"
            raise unsupported(file, f"{step.name} ({step.operator}): {reason}") from None
        index += used
    return reader


def _read_branches(reader: LayerBuilder, step: NodeRead) -> None:
    """Add a residual for an Add, a concat for a Concat. Layer names are unique across the branches."""
    kind = "residual" if step.operator == "Add" else "concat"
    reader.counts[kind] = reader.counts.get(kind, 0) + 1
    name, inner = reader.names(f"{kind}_{reader.counts[kind]}"), LayerNames()
    prefix = f"{reader.prefix}{name}."
    if reader.integers:
        raise UnsupportedNodeError("combines integer values")
    branches = [_read_steps(reader.branch(prefix, inner), branch) for branch in step.ways]
    lists, shapes = [branch.entries for branch in branches], [branch.shape for branch in branches]
    if len({(branch.first, branch.flattened, branch.axes) for branch in branches}) > 1:
        raise UnsupportedNodeError("combines values with their channels on different axes")
    reader.first, reader.flattened, reader.axes = branches[0].first, branches[0].flattened, branches[0].axes
    reader.directions = branches[0].directions
    if kind == "residual":
        if not lists[0]:  # x + f(x): `layers` is the branch that is not empty
            lists.reverse()
        if not lists[0]:
            raise UnsupportedNodeError("adds a value to itself")
        if shapes[0] != shapes[1]:
            raise UnsupportedNodeError(f"adds values of the shapes {shapes[0]} and {shapes[1]}")
        entry: Entry = {"type": kind, "layers": lists[0], "shortcut": lists[1]}
        reader.shape = shapes[0]
    else:
        rank = len(shapes[0]) + 1
        axis = step.attributes.get("axis", 1) % rank
        if axis != (1 if reader.first else rank - 1) or len({shape[:-1] for shape in shapes}) > 1 or reader.flattened:
            raise UnsupportedNodeError("concatenates along another axis than that of the channels")
        entry = {"type": kind, "branches": lists}
        reader.shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    reader.entries.append({"name": name, **entry})
    for branch in branches:
        reader.arrays |= branch.arrays
        reader.notes += branch.notes


def _dropout(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    flags = [array for _, array in step.constants if array.dtype.kind == "b"]
    is_old = reader.version < OLD_BROADCAST and not step.attributes.get("is_test")
    if is_old or any(flag.any() for flag in flags):
        raise UnsupportedNodeError("was exported for training; export the model for inference")
    ratios = [array.item() for _, array in step.constants if array.dtype.kind == "f"]
    ratio = ratios[0] if ratios else step.attributes.get("ratio", 0.5)
    reader.add({"type": "dropout", "rate": undo_float32_rounding(ratio)})
    return 1


def _last_axis_reader(kind: str) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    """Return the reader of a layer on the channels; before operator set 13, only inputs of rank 2 are accepted."""

    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        default = -1 if reader.version >= 13 else 1
        axis = steps[0].attributes.get("axis", default)
        channels = (1, -len(reader.shape)) if reader.first else (-1, len(reader.shape))
        if axis not in channels or (reader.version < 13 and len(reader.shape) > 1):
            raise UnsupportedNodeError("works on another axis than that of the channels")
        reader.add({"type": kind})
        return 1

    return read


def _activation_reader(kind: str, **settings: tuple[str, Any]) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    """Return the reader of an activation; `settings` maps its fields to ONNX attributes and their defaults."""

    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        entry: Entry = {"type": kind}
        for field, (attribute, default) in settings.items():
            value = steps[0].attributes.get(attribute, default)
            entry[field] = (
                value.decode()
                if isinstance(value, bytes)
                else undo_float32_rounding(value)
                if value != default
                else default
            )
        reader.add(entry)
        return 1

    return read


def _cast(_reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Refuse a cast to another type, because it changes the values; others are not among the steps."""
    raise UnsupportedNodeError(f"casting to {steps[0].attributes['to_name']} changes the values")


def _add_recognized(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].rank > len(reader.shape) + 1:
        raise UnsupportedNodeError(f"a constant of rank {steps[0].rank} adds axes to the values")
    reader.add(steps[0].attributes)
    return 1


def _selu(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes or reader.version < 6:  # before, the defaults had fewer digits
        raise UnsupportedNodeError("alpha and gamma must be the defaults of selu")
    reader.add({"type": "selu"})
    return 1


def _concat(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].constants:
        raise UnsupportedNodeError("has a constant among its inputs")
    if not -len(reader.shape) - 1 <= steps[0].attributes.get("axis", 1) <= len(reader.shape):
        raise UnsupportedNodeError("concatenates along an axis that its input does not have")
    return 1  # a concatenation of a single value changes nothing


def _refuse_operator(_reader: LayerBuilder, _steps: Sequence[NodeRead]) -> int:
    raise UnsupportedNodeError("is not part of an activation that specnet recognizes")


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    **dict.fromkeys(elementwise.OPERATORS, _refuse_operator),
    **affine.OPERATORS,
    **attention.OPERATORS,
    **norm.OPERATORS,
    **conv.OPERATORS,
    **layout.OPERATORS,
    **recurrent.OPERATORS,
    "Squeeze": axes.OPERATORS["Squeeze"],
    **pool.OPERATORS,
    **resize.OPERATORS,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Elu": _activation_reader("elu", alpha=("alpha", 1.0)),
    "Gelu": _activation_reader("gelu", approximate=("approximate", "none")),
    "LeakyRelu": _activation_reader("leaky_relu", negative_slope=("alpha", 0.01)),
    "LogSoftmax": _last_axis_reader("log_softmax"),
    "Mish": _activation_reader("mish"),
    "Relu": _activation_reader("relu"),
    "Selu": _selu,
    "Sigmoid": _activation_reader("sigmoid"),
    "Softmax": _last_axis_reader("softmax"),
    "Softplus": _activation_reader("softplus"),
    "Tanh": _activation_reader("tanh"),
    "layer": _add_recognized,
}
