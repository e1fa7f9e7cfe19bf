"""Sums over the rows of a matrix, by the compiled kernels or by BLAS."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array


@lru_cache(maxsize=8)
def ones_vector(count: int, dtype: np.dtype[Any]) -> Array:
    """Return a vector of ones: its product with the rows is their sum, and several times faster than np.sum."""
    vector: Array = np.ones(count, dtype)
    vector.flags.writeable = False  # it is shared
    return vector


def sum_rows(rows: Array, out: Array) -> None:
    """Write the sum over the rows of a matrix into `out`."""
    if kernels.sum_rows(rows, out):
        return
    if out.dtype == rows.dtype and out.flags.c_contiguous:
        np.dot(ones_vector(len(rows), rows.dtype), rows, out)
    else:
        out[...] = np.dot(ones_vector(len(rows), rows.dtype), rows)
