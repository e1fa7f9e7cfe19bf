"""The biases of recurrent layers: one of each sum in specnet, two in other programs, of the inputs and of the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.imported_model import Arrays

_Array = npt.NDArray[Any]


def join_biases(inputs: _Array, state: _Array, apart: int = 0) -> Arrays:
    """Return `bias`, the sum of two biases, whose last `apart` numbers stay apart: those of `recurrent_bias`.

    These are the numbers of the gate n of a gru with `reset_after`, in which the gate r multiplies the state's bias.
    """
    bias = np.where(state == 0, inputs, inputs + state)  # -0.0 stays -0.0
    if not apart:
        return {"bias": bias}
    bias[-apart:] = inputs[-apart:]
    return {"bias": bias, "recurrent_bias": state[-apart:]}


def split_biases(bias: _Array, recurrent_bias: _Array | None) -> tuple[_Array, _Array]:
    """Return two biases whose sum is `bias`; that of the state is 0 but for `recurrent_bias`."""
    state = np.zeros_like(bias)
    if recurrent_bias is not None:
        state[-len(recurrent_bias) :] = recurrent_bias
    return bias, state
