"""The variables of Keras's layers as arrays of specnet, and the reverse.

A target is the name of an array of specnet, or stands for one in another layout:

variance       the square of `std`
slope          with an axis of size 1 for each position
depthwise      (*kernel, channels, multiplier), here (*kernel, 1, channels * multiplier)
turned         the last two axes in the other order
zrh_weight, zrh_recurrent_weight, zrh_bias
               of a GRU, whose gates are z, r, h in Keras and r, z, n here
zrh_biases     (2, 3 * units): the biases of the inputs and of the state, here `bias` and `recurrent_bias`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.interop.imported_model import Arrays
from specnet.interop.keras.layers import EPSILON
from specnet.interop.recurrent_biases import join_biases, split_biases

_Array = npt.NDArray[Any]

BOTH_BIASES = "zrh_biases"


_NAMES = {"depthwise": "weight", "turned": "weight", "variance": "std", BOTH_BIASES: "bias"}


_LEAST_RANK = {"variance": 1, "slope": 1, "depthwise": 3, "turned": 3, "zrh_bias": 1}


PLACES = {
    **dict.fromkeys(("GRU", "LSTM", "SimpleRNN"), ("/cell",)),
    "Bidirectional": ("/forward_layer/cell", "/backward_layer/cell"),
    "TimeDistributed": ("/layer",),
}
"""Where a weights file has the variables of a class, below the layer; each place has as many."""


def short_name(target: str) -> str:
    """Return the name of the array of a variable in specnet."""
    return _NAMES.get(target, target.removeprefix("zrh_"))


def from_keras_array(target: str, array: _Array) -> Arrays:
    """Return the arrays of specnet for a Keras variable. Raises ValueError for an array that it cannot be."""
    if array.dtype.kind not in "iuf" or array.ndim < _LEAST_RANK.get(target, 0):
        msg = "expected numbers, and more axes"
        raise ValueError(msg)
    if target == BOTH_BIASES:
        inputs, state = _swapped(array)
        return join_biases(inputs, state, len(state) // 3)
    value = array
    if target == "variance":
        value = np.maximum(np.sqrt(array), array.dtype.type(EPSILON))
    elif target == "depthwise":
        value = array.reshape(*array.shape[:-2], 1, array.shape[-2] * array.shape[-1])
    elif target == "turned":
        value = array.swapaxes(-1, -2)
    elif target == "slope":
        value = array.reshape(array.shape[-1:])
    elif target.startswith("zrh_"):
        value = _swapped(array)
    return {short_name(target): value}


def to_keras_array(target: str, layer: str, arrays: Mapping[str, _Array], shape: ShapeTuple) -> _Array:
    """Return Keras's array for a layer's variable; `arrays` by full name, `shape` is that of an input."""
    owner, _, target = f"{layer}.{target}".rpartition(".")
    if target == "":  # the row count of a Normalization
        return np.zeros((), np.int32)
    array = arrays[f"{owner}.{short_name(target)}"]
    if target == "variance":
        return np.asarray(array * array)
    if target == "depthwise":
        return array.reshape(*array.shape[:-2], shape[-1], array.shape[-1] // shape[-1])
    if target == "turned":
        return array.swapaxes(-1, -2)
    if target == BOTH_BIASES:
        return _swapped(np.stack(split_biases(array, arrays[f"{owner}.recurrent_bias"])))
    if target.startswith("zrh_"):
        return _swapped(array)
    return array.reshape((1,) * (len(shape) - 1) + (-1,)) if target == "slope" else array


def _swapped(array: _Array) -> _Array:
    """Return an array with the first two of three gates, on its last axis, in the other order."""
    return array.reshape(*array.shape[:-1], 3, array.shape[-1] // 3)[..., [1, 0, 2], :].reshape(array.shape)
