"""ONNX operators that move axes, and the axis of the channels in the input of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from specnet.interop.onnx import norm
from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.sequence.axes import move_axes
from specnet.interop.onnx.steps import NodeRead

_CHANNELS_FIRST = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose"),
    *("GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
)
"""The operators that have the channels on the second axis."""


_EITHER = (
    *("Add", "Cast", "Div", "Dropout", "Elu", "Gelu", "LeakyRelu", "Mish", "PRelu", "Pad", "Relu", "Resize"),
    *("Selu", "Sigmoid", "Slice", "Softplus", "Sub", "Tanh", "layer"),
)
"""The operators that compute the same whichever axis has the channels."""


def takes_channels_first(steps: Sequence[NodeRead]) -> bool:
    """Return whether the first step that needs the channels on a certain axis needs them on the second."""
    for step in steps:
        if step.ways:
            return any(takes_channels_first(way) for way in step.ways)
        if step.operator not in _EITHER:
            return step.operator in _CHANNELS_FIRST
    return False


def _transpose(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read a transpose that moves the channels; it becomes no layer, because specnet has them on the last axis."""
    rank = len(reader.shape) + 1
    axes = list(steps[0].attributes.get("perm", range(rank)[::-1]))
    to_first, to_last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    if axes == list(range(rank)):
        return 1
    if rank == 3 and axes != (to_last if reader.first else to_first) and 0 in axes[1:2] and move_axes(reader, axes):
        return 1
    if rank < 3 or axes != (to_last if reader.first else to_first):
        raise UnsupportedNodeError(f"reorders the axes as {axes}, which does more than move the channels")
    reader.first = not reader.first
    return 1


def _flatten(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes.get("axis", 1) not in (1, -len(reader.shape)):
        raise UnsupportedNodeError("merges the batch axis with others")
    if len(reader.shape) > 1:
        add_flatten(reader)
    return 1


def add_flatten(reader: LayerBuilder) -> None:
    """Add a flatten; remember the order of the graph's features if it is another than specnet's."""
    *sizes, channels = reader.shape
    if reader.first and math.prod(sizes) > 1 and channels > 1:
        reader.flattened = reader.shape
    reader.first = False
    reader.add({"type": "flatten"})


def is_flatten(reader: LayerBuilder, steps: Sequence[NodeRead]) -> bool:
    """Return whether the next step makes (batch, features) of (batch, features, 1, ...)."""
    if not steps or steps[0].operator not in ("Flatten", "Reshape"):
        return False
    if steps[0].operator == "Flatten":
        return bool(steps[0].attributes.get("axis", 1) == 1)
    shape = steps[0].operands[1]
    sizes = [] if shape is None or shape.dtype != np.int64 else shape.reshape(-1).tolist()
    keeps_batch = sizes[:1] == [-1] or (sizes[:1] == [0] and not steps[0].attributes.get("allowzero"))
    return keeps_batch and sizes[1:] in ([reader.features], [-1]) and sizes != [-1, -1]


def _reshape(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step, following = steps[0], steps[1:3]
    shape = step.constants[0][1]
    if shape.dtype != np.int64 or (step.attributes.get("allowzero") and 0 in shape):
        raise UnsupportedNodeError("expected a shape of positive integers")
    first, *sizes = (int(size) for size in shape.reshape(-1))
    merges_rows = (first, sizes) == (-1, [reader.features]) and len(reader.shape) > 1 and not reader.first
    if merges_rows and [other.operator for other in following] == ["BatchNormalization", "Reshape"]:
        if list(following[1].constants[0][1][1:]) != list(reader.shape):
            raise UnsupportedNodeError("the reshape after the batch norm does not restore the shape")
        norm.take_batch_norm(reader, following[0])
        return 3
    given = reader.graph_shape
    sizes = [given[i] if size == 0 and i < len(given) else size for i, size in enumerate(sizes)]
    total = math.prod(given)
    if sizes.count(-1) == 1 and first != -1:
        sizes[sizes.index(-1)] = total // -math.prod(sizes) if math.prod(sizes) else 0
    if math.prod(sizes) != total or first not in (-1, 0, reader.given.batch or -1):
        raise UnsupportedNodeError("changes the batch axis")
    if tuple(sizes) == given:
        return 1
    if len(sizes) == 1:
        add_flatten(reader)
    elif reader.first or reader.flattened:
        raise UnsupportedNodeError(f"reshapes {given}, whose channels come first; specnet has them last")
    else:
        reader.add({"type": "reshape", "shape": sizes})
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
