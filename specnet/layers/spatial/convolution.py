"""Convolution of images and its two gradients, by the compiled kernels or by numpy alone.

    y[n, p, q, f] = sum over i, j, c of x[n, p * stride + i * dilation - padding, ..., c] * weight[i, j, c, f]

numpy unfolds windows into the rows of a matrix and leaves the sums to BLAS, for as many images (or rows of one) at a
time as stay in the cache. Shapes: x (n, height, width, channels), weight (kernel height, kernel width, channels /
groups, filters), y (n, output height, output width, filters).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from specnet import kernels
from specnet.arrays.conversion import FLOAT32, FLOAT64, size_of
from specnet.arrays.parameters import Array
from specnet.layers.spatial.windows import Windows

BLOCK = 128 * 1024
"""The numbers of unfolded windows at a time: half a megabyte in float32."""

FEW_CHANNELS = 16
"""Below this many channels, a gradient is folded back instead of unfolding dy, which has more of them."""

NO_BIAS = {dtype: np.empty(0, dtype) for dtype in (FLOAT32, FLOAT64)}


def convolve(
    x: Array, weight: Array, bias: Array | None, windows: Windows, y: Array, *, rectified: bool = False
) -> Array:
    """Compute the convolution of x with `weight` plus `bias` into y; with `rectified`, the maximum of that and 0."""
    if kernels.convolve(x, weight, NO_BIAS[x.dtype] if bias is None else bias, y, windows.geometry, rectified):
        return y
    groups = windows.groups
    if weight.shape[2] == 1 and groups == weight.shape[3]:
        _convolve_depthwise(x, weight, windows, y)
    else:
        for images, rows, patches in _patches(x, windows, weight.shape[2] * groups):
            for taken, made in _group_slices(weight, groups):
                _multiply(patches[..., taken], weight[..., made], y[images, rows, :, made])
    return _finish(y, bias, rectified=rectified)


def convolve_back(
    dy: Array, weight: Array, bias: Array | None, windows: Windows, dx: Array, *, rectified: bool = False
) -> Array:
    """Compute into dx the gradient with respect to x of `convolve`, plus `bias`: the transposed convolution of dy."""
    if kernels.convolve_back(dy, weight, NO_BIAS[dy.dtype] if bias is None else bias, dx, windows.geometry, rectified):
        return dx
    groups = windows.groups
    flipped = _flipped(windows)
    if flipped is not None and groups == 1 and weight.shape[2] >= FEW_CHANNELS:
        turned = np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))
        for images, rows, patches in _patches(dy, flipped, weight.shape[3]):
            _multiply(patches, turned, dx[images, rows])
    else:
        _fold_back(dy, weight, windows, dx)
    return _finish(dx, bias, rectified=rectified)


def convolve_weight(x: Array, dy: Array, windows: Windows, gradient: Array) -> None:
    """Compute the gradient with respect to the weight of `convolve`."""
    if kernels.convolve_weight(x, dy, gradient, windows.geometry):
        return
    groups = windows.groups
    gradient[...] = 0
    for images, rows, patches in _patches(x, windows, x.shape[3]):
        for taken, made in _group_slices(gradient, groups):
            part = dy[images, rows, :, made].reshape(-1, made.stop - made.start)
            matrix = patches[..., taken].reshape(len(part), -1)
            gradient[..., made] += np.dot(matrix.T, part).reshape(*gradient.shape[:3], -1)


def _finish(y: Array, bias: Array | None, *, rectified: bool) -> Array:
    if bias is not None:
        np.add(y, bias, y)
    return np.maximum(y, 0, out=y) if rectified else y


def _group_slices(weight: Array, groups: int) -> Iterator[tuple[slice, slice]]:
    """Yield the channels that each group takes, and the filters that it makes."""
    channels, filters = weight.shape[2], weight.shape[3] // groups
    for group in range(groups):
        yield (
            slice(group * channels, (group + 1) * channels),
            slice(group * filters, (group + 1) * filters),
        )


def _multiply(patches: Array, weight: Array, y: Array) -> None:
    """Multiply patches (n, rows, columns, i, j, c) with a weight (i, j, c, f) into y, which may be strided."""
    matrix = patches.reshape(-1, weight[..., 0].size)
    if y.flags.c_contiguous:
        np.matmul(matrix, weight.reshape(-1, weight.shape[-1]), y.reshape(-1, weight.shape[-1]))
    else:
        y[...] = np.matmul(matrix, weight.reshape(-1, weight.shape[-1])).reshape(y.shape)


def _flipped(windows: Windows) -> Windows | None:
    """Return the windows over dy by which dx is a convolution, too; None with a stride, or with too much padding."""
    pads = []
    for axis in range(2):
        reach = windows.dilation[axis] * (windows.kernel[axis] - 1)
        before, behind = windows.padding[axis]
        if windows.stride[axis] > 1 or before > reach or behind > reach:
            return None
        pads.append((reach - before, reach - behind))
    return Windows(
        windows.output, windows.size, windows.kernel, (1, 1), windows.dilation, (pads[0], pads[1]), 1, windows.geometry
    )


def _blocks(images: int, windows: Windows, channels: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of images, and of the rows of windows in each, whose windows together are about BLOCK numbers."""
    height, width = windows.output
    row = max(width * windows.kernel[0] * windows.kernel[1] * channels, 1)
    if row * height > BLOCK:
        step = max(BLOCK // row, 1)
        for image in range(images):
            for start in range(0, height, step):
                yield slice(image, image + 1), slice(start, min(start + step, height))
        return
    step = BLOCK // max(row * height, 1)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images)), slice(0, height)


def _patches(x: Array, windows: Windows, channels: int) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows of windows, their windows) in blocks; each block overwrites the windows of the last."""
    scratch: Array = np.empty(0, x.dtype)
    padded: Array | None = None
    for images, rows in _blocks(len(x), windows, channels):
        padded = _pad(x, images, windows, padded)
        view = _window_view(padded, windows)[:, rows]
        if view.flags.c_contiguous and windows.kernel == (1, 1):
            yield images, rows, view
            continue
        if len(scratch) < view.size:
            scratch = np.empty(view.size, x.dtype)
        patches = scratch[: view.size].reshape(view.shape)
        np.copyto(patches, view)
        yield images, rows, patches


def _pad(x: Array, images: slice, windows: Windows, padded: Array | None) -> Array:
    """Return these images with their padding, in the array `padded` if they fit."""
    (top, _), (left, _) = windows.padding
    height, width = windows.size
    if windows.padded == windows.size:
        return x[images]
    count = images.stop - images.start
    if padded is None or len(padded) < count:
        padded = np.zeros((count, *windows.padded, x.shape[3]), x.dtype)
    padded[:count, top : top + height, left : left + width] = x[images]
    return padded[:count]


def _window_view(padded: Array, windows: Windows) -> Array:
    """Return a view (n, output height, output width, kernel height, kernel width, channels) of padded images."""
    image, row, column, channel = padded.strides
    (down, right), (apart_down, apart_right) = windows.stride, windows.dilation
    return as_strided(
        padded,
        (len(padded), *windows.output, *windows.kernel, padded.shape[3]),
        (image, row * down, column * right, row * apart_down, column * apart_right, channel),
    )


def _fold_back(dy: Array, weight: Array, windows: Windows, dx: Array) -> None:
    """Compute each window's share of the gradient, and add the shares where windows overlap."""
    (top, _), (left, _) = windows.padding
    height, width = windows.size
    depthwise = weight.shape[2] == 1 and windows.groups == weight.shape[3]
    padded: Array | None = None
    step = max(BLOCK // max(size_of(windows.padded) * dx.shape[3], 1), 1)
    for start in range(0, len(dy), step):
        images = slice(start, min(start + step, len(dy)))
        count = images.stop - start
        if padded is None or len(padded) < count:
            padded = np.empty((count, *windows.padded, dx.shape[3]), dx.dtype)
        target = padded[:count]
        target[...] = 0
        view = _window_view(target, windows)
        for i in range(windows.kernel[0]):
            for j in range(windows.kernel[1]):
                if depthwise:
                    view[:, :, :, i, j] += dy[images] * weight[i, j, 0]
                    continue
                for taken, made in _group_slices(weight, windows.groups):
                    view[:, :, :, i, j, taken] += np.matmul(dy[images, :, :, made], weight[i, j, :, made].T)
        dx[images] = target[:, top : top + height, left : left + width]


def _convolve_depthwise(x: Array, weight: Array, windows: Windows, y: Array) -> None:
    """Convolve each channel with its own filter: neighbouring columns and channels are summed as one long axis."""
    padded: Array | None = None
    for images, rows in _blocks(len(x), windows, 1):
        padded = _pad(x, images, windows, padded)
        view = _window_view(padded, windows)[:, rows]
        np.einsum("npqijc,ijc->npqc", view, weight[:, :, 0], out=y[images, rows])
