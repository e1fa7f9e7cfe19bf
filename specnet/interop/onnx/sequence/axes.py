"""Values whose axes are in another order than specnet's: ONNX's recurrent operators have the time on the first axis.

`LayerBuilder.axes` names the axes of such a value: batch, time, directions, features. It is empty for specnet's own
order, "btf" or "bf". Both outputs of a recurrent operator have an axis for its directions, "tdbf" and "dbf"; the
features of all directions together are those of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.steps import NodeRead

TIME_FIRST = "tbf"
"""The axes of what a recurrent operator takes."""


_ON_FEATURES = (
    *("Add", "Cast", "Div", "Dropout", "Elu", "Gelu", "LayerNormalization", "LeakyRelu", "LogSoftmax", "MatMul"),
    *("Mish", "PRelu", "RMSNormalization", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Sub", "Tanh", "layer"),
    *("GRU", "LSTM", "RNN"),
)
"""The operators that take values with the time on the first axis, or compute the same whichever axis has it."""


def check_axes(reader: LayerBuilder, operator: str) -> None:
    """Raise UnsupportedNodeError if an operator would mix up the axes of the current value."""
    known = (*OPERATORS, *(_ON_FEATURES if reader.axes == TIME_FIRST else ()))
    if reader.axes and operator not in known:
        names = {"b": "batch", "t": "time", "d": "directions", "f": "features"}
        order = ", ".join(names[axis] for axis in reader.axes)
        raise UnsupportedNodeError(f"works on the axes ({order}); expected (batch, time, features): transpose them")


def move_axes(reader: LayerBuilder, permutation: Sequence[int]) -> bool:
    """Reorder the axes of the current value; return False if it has no axis of time that a permutation can move."""
    names = reader.axes or ("bft" if reader.first else "btf")
    if sorted(permutation) != list(range(len(names))) or (not reader.axes and len(reader.shape) != 2):
        return False
    _set_axes(reader, "".join(names[axis] for axis in permutation))
    return True


def _set_axes(reader: LayerBuilder, names: str) -> None:
    reader.first = names == "bft"
    reader.axes = "" if names in ("btf", "bft", "bf") else names


def _transpose(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    axes = list(steps[0].attributes.get("perm", range(len(reader.axes))[::-1]))
    if not move_axes(reader, axes):
        raise UnsupportedNodeError(f"reorders the axes as {axes!r:.80}, but there are {len(reader.axes)}")
    return 1


def _names(reader: LayerBuilder) -> str:
    """Return the names of the axes of the current value; those of images and of convolutions have none."""
    return reader.axes or ("" if reader.first else {1: "bf", 2: "btf"}.get(len(reader.shape), ""))


def _size(reader: LayerBuilder, axis: str) -> int:
    """Return the size of an axis of the current value; 0 for that of the batch, if it is not known."""
    sizes = {"b": reader.given.batch, "t": reader.shape[0], "d": reader.directions}
    return sizes[axis] if axis != "f" else reader.features // (reader.directions if "d" in reader.axes else 1)


def _squeeze(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read the removal of the axis of a single direction, or of a single step of time."""
    step, names = steps[0], _names(reader)
    given = step.operands[1] if len(step.operands) > 1 else None
    axes = [int(axis) for axis in (step.attributes.get("axes", ()) if given is None else given.reshape(-1))]
    if len(axes) != 1 or not -len(names) <= axes[0] < len(names):
        raise UnsupportedNodeError(f"removes the axes {axes!r:.80}, expected one of {len(names)}")
    _remove(reader, names, axes[0] % len(names), 0)
    return 1


def _gather(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read the choice of the last step of time, or of the only direction."""
    step, names = steps[0], _names(reader)
    axis = step.attributes.get("axis", 0)
    index = step.constants[0][1]
    if step.position or index.ndim or index.dtype.kind != "i" or not -len(names) <= axis < len(names):
        raise UnsupportedNodeError("expected one index of an axis, or rows of a matrix")
    _remove(reader, names, axis % len(names), index.item())
    return 1


def _remove(reader: LayerBuilder, names: str, axis: int, index: int) -> None:
    """Remove an axis by choosing an index of it. Raises UnsupportedNodeError if no layer does that."""
    name, size = names[axis], _size(reader, names[axis])
    is_last = index in (-1, size - 1)
    if name == "t" and is_last and "d" not in names:
        _set_axes(reader, names.replace("t", ""))
        reader.add({"type": "last_step"})
    elif name == "d" and is_last and size == 1:
        _set_axes(reader, names.replace("d", ""))
    else:
        what = {"b": "the batch", "t": "time", "d": f"{size} directions", "f": "the features"}[name]
        raise UnsupportedNodeError(f"takes index {index} of {what}; specnet takes the last step of time alone")


def _reshape(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read the removal of the axis of the directions, which must be before that of the features, or the only one."""
    step, names = steps[0], reader.axes
    shape = [int(size) for size in step.constants[0][1].reshape(-1)]
    joined = names.replace("d", "")
    is_joined = "df" in names or reader.directions == 1
    wanted = [reader.features if axis == "f" else _size(reader, axis) for axis in joined]
    zero = not step.attributes.get("allowzero")
    fits = len(shape) == len(wanted) and shape.count(-1) <= 1 and step.constants[0][1].dtype.kind == "i"
    for place, (size, axis) in enumerate(zip(shape, joined, strict=False)):
        kept = zero and size == 0 and names[place] == axis and (axis != "f" or reader.directions == 1)
        fits = fits and (size == -1 or kept or size == wanted[place] > 0)
    if "d" not in names or not is_joined or not fits:
        raise UnsupportedNodeError(f"reshapes to {shape!r:.80}, expected the directions joined with the features")
    _set_axes(reader, joined)
    return 1


def joins_directions(reader: LayerBuilder, step: NodeRead) -> bool:
    """Return whether a Concat joins the last states of both directions, each taken by a Gather; if so, read it."""
    ways = [way[0] for way in step.ways if len(way) == 1 and way[0].operator == "Gather" and way[0].constants]
    if reader.axes != "dbf" or reader.directions != 2 or len(ways) != len(step.ways) or step.operator != "Concat":
        return False
    chosen = [way.constants[0][1].reshape(-1).tolist() for way in ways if way.attributes.get("axis", 0) in (0, -3)]
    is_joined = chosen in ([[0], [1]], [[-2], [-1]], [[0], [-1]], [[-2], [1]])
    if not is_joined or step.attributes.get("axis") not in (1, -1) or any(way.constants[0][1].ndim for way in ways):
        return False
    reader.axes = ""
    return True


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Gather": _gather,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
}
"""The readers for values whose axes are in another order."""
