"""ONNX operators that become recurrent layers; the order of their gates is in `weights`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import Entry, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.sequence.axes import TIME_FIRST
from specnet.interop.onnx.sequence.weights import KINDS, from_onnx
from specnet.interop.onnx.steps import NodeRead
from specnet.layers.sequence.bidirectional import SUFFIX

OLDEST = 7
"""The first operator set whose definitions of these operators are read."""


_DIRECTIONS = {b"forward": 1, b"reverse": 1, b"bidirectional": 2}


_FUNCTIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def _reader(kind: str) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        step = steps[0]
        direction = step.attributes.get("direction", b"forward")
        if reader.version < OLDEST or direction not in _DIRECTIONS:
            what = f"in operator set {reader.version}, with direction {direction!r:.40}"
            raise UnsupportedNodeError(f"{what}; expected operator set {OLDEST} or newer and a known direction")
        count = _DIRECTIONS[direction]
        _check_operands(step)
        batch_first = _check_axes(reader, step)
        entry: Entry = {"type": kind, **_settings(step, count)}
        arrays = _arrays(reader, step, entry, count)
        entry |= {"return_sequences": step.output == 0, "reverse": direction == b"reverse"}
        source = step.constants[0][0]
        reader.note_use(source)
        if count == 2:
            inner = f"{kind}_1"
            entry = {"type": "bidirectional", "layers": [{**entry, "name": inner}]}
            named = zip((inner, f"{inner}{SUFFIX}"), arrays, strict=True)
            reader.add(entry, {f"{n}.{key}": array for n, part in named for key, array in part.items()}, source)
        else:
            reader.add(entry, arrays[0], source)
        reader.directions = count
        reader.axes = ("btdf" if batch_first else "tdbf") if step.output == 0 else "bdf" if batch_first else "dbf"
        return 1

    return read


def _check_operands(step: NodeRead) -> None:
    """Check the inputs that specnet's layers do not have. Raises UnsupportedNodeError."""
    if step.output > 1:
        raise UnsupportedNodeError("its last cell state is used; specnet's layers return the state h alone")
    for name, array in list(zip(_INPUTS, step.operands, strict=False))[4:]:
        if array is not None and (name == "sequence_lens" or array.any()):
            raise UnsupportedNodeError(f"has {name}; specnet's layers begin with zeros and take every step")
    for name in ("clip", "input_forget", "activation_alpha", "activation_beta"):
        if step.attributes.get(name):
            raise UnsupportedNodeError(f"has {name}, which specnet's layers do not have")


def _check_axes(reader: LayerBuilder, step: NodeRead) -> bool:
    """Return whether the batch is on the first axis. Raises UnsupportedNodeError if the input has another order."""
    batch_first = bool(step.attributes.get("layout", 0))
    if len(reader.shape) != 2 or reader.first or reader.axes != ("" if batch_first else TIME_FIRST):
        order = "(batch, time, features)" if batch_first else "(time, batch, features)"
        raise UnsupportedNodeError(f"takes {order}, but its input has other axes; export it with the batch first")
    return batch_first


def _settings(step: NodeRead, count: int) -> Entry:
    """Return the activation of a simple_rnn and the form of a gru. Raises UnsupportedNodeError for other functions."""
    given = [str(name, "utf-8", "replace").lower() for name in step.attributes.get("activations", ())]
    known = [["tanh"], ["relu"]] if step.operator == "RNN" else [_FUNCTIONS[step.operator]]
    given = given or known[0] * count
    found = next((functions for functions in known if functions * count == given), None)
    if found is None:
        expected = " or ".join(", ".join(functions) for functions in known)
        raise UnsupportedNodeError(f"has the activations {', '.join(given)[:80]}, expected {expected}")
    if step.operator == "RNN":
        return {"activation": found[0]}
    return {"reset_after": bool(step.attributes.get("linear_before_reset", 0))} if step.operator == "GRU" else {}


def _arrays(reader: LayerBuilder, step: NodeRead, entry: Entry, count: int) -> list[Arrays]:
    """Return the arrays of each direction; the entry gets the size of the state and whether there is a bias."""
    weight, recurrent, *more = (*step.operands[1:4], None)[:3]
    bias = more[0]
    if weight is None or recurrent is None or step.position:
        raise UnsupportedNodeError("expected constant weights")
    gates, features = len(KINDS[entry["type"]].order), reader.shape[1]
    units = recurrent.shape[-1] if recurrent.ndim else 0
    width = gates * units
    shapes = {"W": (count, width, features), "R": (count, width, units), "B": (count, 2 * width)}
    for (name, shape), array in zip(shapes.items(), (weight, recurrent, bias), strict=True):
        if array is not None and (array.shape != shape or not units):
            raise UnsupportedNodeError(f"expected {name} of shape {shape}, got {array.shape}")
    if step.attributes.get("hidden_size", units) != units:
        raise UnsupportedNodeError(f"its hidden_size is {step.attributes['hidden_size']}, but R has {units} units")
    entry |= {"units": units, "bias": bias is not None}
    reader.given.copies(sum(array.nbytes for array in (weight, recurrent, bias) if array is not None))
    reset_after = entry.get("reset_after", False)
    parts: list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]] = [
        (weight[index], recurrent[index], None if bias is None else bias[index]) for index in range(count)
    ]
    return [from_onnx(entry["type"], *part, reset_after=reset_after) for part in parts]


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    kind.operator: _reader(name) for name, kind in KINDS.items()
}
