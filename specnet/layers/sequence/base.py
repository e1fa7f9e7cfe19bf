"""What the layers over sequences share: checks, the arrays of a pass, and the sigmoid of gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import TimeMask
from specnet.layers.affine import product

Keep = Callable[[str, ShapeTuple, npt.DTypeLike], npt.NDArray[Any]]
"""Returns the array of a name: one that is kept for the next pass, or a new one."""


@dataclass
class Pass:
    """One pass over sequences.

    x: (steps, batch, features); counts: (steps, batch), 0 for padding and 1 otherwise, empty without a mask. `arrays`
    are the states and records of the layer, by name.
    """

    x: Array
    counts: Array
    arrays: dict[str, Array] = field(default_factory=dict)


def multiply(a: Array, b: Array, out: Array) -> None:
    """Write a @ b into `out`; one factor may be the transpose of a contiguous matrix.

    The kernel shares its work among the cores piece by piece. The threads of a BLAS wait for each other instead, which
    takes long where other programs use the cores, too.
    """
    kind = 1 if not a.flags.c_contiguous else 2 if not b.flags.c_contiguous else 0
    if not kernels.matmul(a.T if kind == 1 else a, b.T if kind == 2 else b, out, kind):
        product(a, b, out)


def sigmoid(x: Array) -> None:
    """Compute 1 / (1 + exp(-x)) in place, as (tanh(x / 2) + 1) / 2, for which numpy has vector instructions."""
    half = x.dtype.type(0.5)
    x *= half
    np.tanh(x, x)
    x *= half
    x += half


def check_sequence(input_shape: ShapeTuple) -> ShapeTuple:
    """Return the shape of one input, (time, features). Raises ShapeError for another number of axes."""
    if len(input_shape) != 2:
        hint = "; give a step one feature with reshape" if len(input_shape) == 1 else ""
        msg = f"expected a sequence of shape (time, features), got {input_shape}{hint}"
        raise ShapeError(msg)
    return input_shape


def check_mask(mask: TimeMask, x: npt.NDArray[Any], who: str) -> TimeMask:
    """Return the mask of sequences x, (batch, time, …), as booleans. Raises ShapeError."""
    array = np.asarray(mask)
    if array.shape != x.shape[:2] or array.dtype != np.bool_:
        msg = f"{who}: expected a mask of booleans, shape {x.shape[:2]}, got {array.dtype} of shape {array.shape}"
        raise ShapeError(msg)
    return array


def copied(array: Array, out: Array | None) -> Array:
    """Return a copy, in `out` if it is given."""
    if out is None:
        return np.array(array)
    if array is not out:
        out[...] = array
    return out


def new_array(_name: str, shape: ShapeTuple, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a new array, for a pass that nothing is kept of."""
    return np.empty(shape, dtype)
