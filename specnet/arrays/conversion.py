"""Conversion of input to arrays of a given dtype; input that cannot be converted raises ShapeError."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError

FLOAT32: np.dtype[Any] = np.dtype(np.float32)


FLOAT64: np.dtype[Any] = np.dtype(np.float64)


SMALLEST = 2.0**-126
"""The smallest normal number of float32, the lower limit of divisors."""


def as_array(x: npt.ArrayLike, who: str, expected: str = "(batch, ...)") -> npt.NDArray[Any]:
    """Convert x to an array. Raises ShapeError if numpy cannot convert it; `who` names the caller in messages."""
    try:
        return np.asarray(x)
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{who}: expected an array of shape {expected}, got a ragged or unsupported {type(x).__name__}: {error}"
        raise ShapeError(msg) from None


def as_floats(x: npt.ArrayLike, dtype: np.dtype[Any] | None, who: str, expected: str = "(batch, ...)") -> Array:
    """Convert bool, integer or real numbers to `dtype`; if it is None, float32 stays and the rest becomes float64."""
    if type(x) is np.ndarray and (x.dtype is dtype or (dtype is None and x.dtype in (FLOAT32, FLOAT64))):
        return x
    array = as_array(x, who, expected)
    if array.dtype.kind not in "biuf":
        msg = f"{who}: expected real numbers of shape {expected}, got {array.dtype} of shape {array.shape}"
        raise ShapeError(msg)
    if dtype is None:
        dtype = FLOAT32 if array.dtype == FLOAT32 else FLOAT64
    return np.asarray(array, dtype)


def as_integers(x: npt.ArrayLike, who: str, expected: str = "(batch, ...)") -> npt.NDArray[np.int64]:
    """Convert integers, and real numbers without a fraction, to int64. Raises ShapeError."""
    array = as_array(x, who, expected)
    if array.dtype.kind == "f" and array.size:
        with np.errstate(invalid="ignore"):
            integers = array.astype(np.int64)
        if not np.array_equal(integers, array):
            fraction = array[integers != array].reshape(-1)[0]
            msg = f"{who}: expected integers of shape {expected}, got {fraction!s}"
            raise ShapeError(msg)
        return integers
    if array.dtype.kind not in "biuf":
        msg = f"{who}: expected integers of shape {expected}, got {array.dtype} of shape {array.shape}"
        raise ShapeError(msg)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        msg = f"{who}: expected integers of shape {expected}, got {array.max()}"
        raise ShapeError(msg)
    return array.astype(np.int64, copy=False)


def batch_of(shape: ShapeTuple) -> str:
    """Format the shape of a batch of arrays: (64,) -> "(batch, 64)"."""
    return f"(batch, {', '.join(map(str, shape))})" if shape else "(batch,)"


def size_of(shape: ShapeTuple) -> int:
    """Return the number of elements of an array of this shape."""
    return math.prod(shape)
