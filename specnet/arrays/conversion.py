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
    """Convert x to an array. Raises ShapeError if numpy cannot convert it; `who` names the caller in messages.

    Objects that are all numbers, or all text, become an array of these. Masked and missing values are an error.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        msg = f"{who}: the mask hides {np.count_nonzero(x.mask)} values; fill them (x.filled(...)) or leave rows out"
        raise ShapeError(msg)
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{who}: expected an array of shape {expected}, got a ragged or unsupported {type(x).__name__}: {error}"
        raise ShapeError(msg) from None
    return _from_objects(array, who) if array.dtype.kind == "O" and array.ndim else array


def _from_objects(array: npt.NDArray[Any], who: str) -> npt.NDArray[Any]:
    """Convert the objects of data frames: numbers of nullable types, and text. Raises ShapeError for missing values."""
    values = array.reshape(-1).tolist()
    for index, value in enumerate(values):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            row = index // max(math.prod(array.shape[1:]), 1)
            msg = f"{who}: row {row + 1}: a value is missing; fill it or leave the row out"
            raise ShapeError(msg)
    if all(isinstance(value, int | float | np.number | np.bool_) for value in values):
        return np.array(values).reshape(array.shape) if values else array
    return array.astype(str) if values and all(isinstance(value, str) for value in values) else array


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
