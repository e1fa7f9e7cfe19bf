"""Convolution of images and its two gradients, by the compiled kernels, or by numpy alone (unfolding.py).

    y[n, p, q, f] = sum over i, j, c of x[n, p * stride + i * dilation - padding, ..., c] * weight[i, j, c, f]

Shapes: x (n, height, width, channels), weight (kernel height, kernel width, channels / groups, filters), y (n, output
height, output width, filters).
"""

from __future__ import annotations

import numpy as np

from specnet import kernels
from specnet.arrays.conversion import FLOAT32, FLOAT64
from specnet.arrays.parameters import Array
from specnet.layers.spatial import unfolding
from specnet.layers.spatial.windows import Windows

NO_BIAS = {dtype: np.empty(0, dtype) for dtype in (FLOAT32, FLOAT64)}


def convolve(
    x: Array, weight: Array, bias: Array | None, windows: Windows, y: Array, *, rectified: bool = False
) -> Array:
    """Compute the convolution of x with `weight` plus `bias` into y; with `rectified`, the maximum of that and 0."""
    shift = NO_BIAS[x.dtype] if bias is None else bias
    if kernels.convolve(x, weight, shift, y, windows.geometry, rectified):
        return y
    unfolding.convolve(x, weight, windows, y)
    return _finish(y, bias, rectified=rectified)


def convolve_back(dy: Array, weight: Array, bias: Array | None, windows: Windows, dx: Array) -> Array:
    """Compute into dx the gradient with respect to x of `convolve`, plus `bias`: the transposed convolution of dy."""
    shift = NO_BIAS[dy.dtype] if bias is None else bias
    if kernels.convolve_back(dy, weight, shift, dx, windows.geometry):
        return dx
    unfolding.convolve_back(dy, weight, windows, dx)
    return _finish(dx, bias, rectified=False)


def convolve_weight(x: Array, dy: Array, windows: Windows, gradient: Array) -> None:
    """Compute the gradient with respect to the weight of `convolve`."""
    if not kernels.convolve_weight(x, dy, gradient, windows.geometry):
        unfolding.convolve_weight(x, dy, windows, gradient)


def convolve_gradients(x: Array, dy: Array, weight: Array, windows: Windows, gradient: Array, dx: Array) -> Array:
    """Compute both gradients of `convolve`: that of the weight, and dx, which is returned."""
    if kernels.convolve_weight(x, dy, gradient, windows.geometry):
        return convolve_back(dy, weight, None, windows, dx)
    return unfolding.convolve_gradients(x, dy, weight, windows, gradient, dx)


def _finish(y: Array, bias: Array | None, *, rectified: bool) -> Array:
    if bias is not None:
        np.add(y, bias, y)
    return np.maximum(y, 0, out=y) if rectified else y
