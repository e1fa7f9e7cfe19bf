"""The weights of recurrent layers as ONNX stores them, with one index for each direction on the first axis.

weight            here (features, gates * units), there (directions, gates * units, features)
recurrent_weight  here (units, gates * units), there (directions, gates * units, units)
bias              here (gates * units,), there (directions, 2 * gates * units): those of the inputs and of the state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.recurrent_biases import join_biases, split_biases
from specnet.layers.sequence.bidirectional import SUFFIX
from specnet.spec.model_spec import ModelSpec

_Array = npt.NDArray[Any]


class Kind(NamedTuple):
    """The operator of a recurrent layer, and for each of its gates here the index of the gate in ONNX."""

    operator: str
    order: tuple[int, ...]


KINDS = {"simple_rnn": Kind("RNN", (0,)), "lstm": Kind("LSTM", (0, 2, 3, 1)), "gru": Kind("GRU", (1, 0, 2))}
"""The gates are i, f, g, o here and i, o, f, c there; r, z, n here and z, r, h there."""


def to_onnx(kind: str, arrays: Mapping[str, _Array]) -> dict[str, _Array]:
    """Return the arrays of one direction as ONNX stores them, under the names of specnet."""
    order = np.argsort(KINDS[kind].order)
    made = {name: _by_gate(arrays[name], order).T for name in ("weight", "recurrent_weight")}
    if "bias" in arrays:
        biases = split_biases(arrays["bias"], arrays.get("recurrent_bias"))
        made["bias"] = np.concatenate([_by_gate(bias, order) for bias in biases])
    return made


def from_onnx(
    kind: str, weight: _Array, recurrent: _Array, bias: _Array | None, *, reset_after: bool = False
) -> Arrays:
    """Return the arrays of one direction as specnet has them. Raises ValueError for shapes that do not fit.

    Both biases of a sum become one, except in the gate n of a gru with `reset_after`.
    """
    order = KINDS[kind].order
    arrays = {"weight": _by_gate(weight.T, order), "recurrent_weight": _by_gate(recurrent.T, order)}
    if bias is not None:
        inputs, state = (_by_gate(part, order) for part in bias.reshape(2, -1))
        arrays |= join_biases(inputs, state, len(state) // 3 if reset_after else 0)
    return arrays


def _by_gate(array: _Array, order: Sequence[int] | _Array) -> _Array:
    """Return an array with the gates of its last axis in another order."""
    separate = array.reshape(*array.shape[:-1], len(order), -1)
    return separate[..., list(order), :].reshape(array.shape)


def recurrent_arrays(spec: ModelSpec, constants: Mapping[str, _Array]) -> Arrays:
    """Return the arrays of a document's recurrent layers that are among the constants of a graph.

    Raises ValueError for shapes that do not fit.
    """
    arrays: Arrays = {}
    for layer, entry, _ in spec.walk():
        inner, prefixes = entry, [f"{layer}."]
        if entry.type == "bidirectional":
            inner = entry.fields()["layers"][0]
            prefixes = [f"{layer}.{inner.name}.", f"{layer}.{inner.name}{SUFFIX}."]
        if inner.type not in KINDS or f"{layer}.weight" not in constants:
            continue
        names = ("weight", "recurrent_weight", "bias")
        found = [constants.get(f"{layer}.{name}") for name in names]
        if any(array is not None and len(array) != len(prefixes) for array in found):
            msg = f"{layer}: expected an index for each of {len(prefixes)} directions"
            raise ValueError(msg)
        for index, prefix in enumerate(prefixes):
            weight, recurrent, bias = (None if array is None else array[index] for array in found)
            if weight is not None and recurrent is not None:
                reset_after = bool(inner.fields().get("reset_after"))
                read = from_onnx(inner.type, weight, recurrent, bias, reset_after=reset_after)
                arrays |= {f"{prefix}{name}": array for name, array in read.items()}
    return arrays
