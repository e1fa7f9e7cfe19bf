"""What numpy makes an array of, to the dtype that is wanted; what it does not, to a ShapeError."""

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
"""The smallest normal number of float32: what is divided by is not smaller."""


def as_array(x: npt.ArrayLike, who: str, expected: str = "(batch, ...)") -> npt.NDArray[Any]:
    """Make an array of what numpy makes one of. Raises ShapeError."""
    try:
        return np.asarray(x)
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{who}: expected an array of shape {expected}, got a ragged or odd {type(x).__name__}: {error}"
        raise ShapeError(msg) from None


def as_floats(x: npt.ArrayLike, dtype: np.dtype[Any] | None, who: str, expected: str = "(batch, ...)") -> Array:
    """Convert bool, integer or real numbers to float64, or `dtype`; float32 and float64 stay what they are."""
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
    """Convert integers, and real numbers that are whole, to int64. Raises ShapeError."""
    array = as_array(x, who, expected)
    if array.dtype.kind == "f" and array.size:
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64)
        if not np.array_equal(whole, array):
            odd = array[whole != array].reshape(-1)[0]
            msg = f"{who}: expected integers of shape {expected}, got {odd!s}"
            raise ShapeError(msg)
        return whole
    if array.dtype.kind not in "biuf":
        msg = f"{who}: expected integers of shape {expected}, got {array.dtype} of shape {array.shape}"
        raise ShapeError(msg)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        msg = f"{who}: expected integers of shape {expected}, got {array.max()}"
        raise ShapeError(msg)
    return array.astype(np.int64, copy=False)


def batch_of(shape: ShapeTuple) -> str:
    """Write the shape of a batch of arrays: (64,) -> "(batch, 64)"."""
    return f"(batch, {', '.join(map(str, shape))})" if shape else "(batch,)"


def size_of(shape: ShapeTuple) -> int:
    """Count the elements of an array of this shape."""
    return math.prod(shape)
