"""Convolution with numpy alone: windows become the rows of a matrix, and BLAS sums.

Unfolded windows repeat each number up to kernel height x kernel width times, so only as many images, or rows of one,
are unfolded at a time as stay in the cache. Names and shapes as in convolution.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import Array
from specnet.layers.spatial.windows import Windows

BLOCK = 128 * 1024
"""The numbers of unfolded windows at a time: half a megabyte in float32."""

LONG = 16 * BLOCK
"""The numbers of unfolded windows of a sequence that are too many to unfold at once."""

FEW = 16
"""With fewer channels, dy has more numbers to unfold than x; and rows of so few numbers are slow to copy."""


def convolve(x: Array, weight: Array, windows: Windows, y: Array) -> None:
    """Compute y."""
    windows, (x, y), weight = _upright(windows, [x, y], weight)
    if _is_depthwise(weight, windows):
        _convolve_depthwise(x, weight, windows, y)
    elif windows.groups == 1 and weight[0, :, :, 0].size < FEW:
        matrix = weight.reshape(-1, weight.shape[3])
        for images, rows, columns in _columns(x, windows):
            np.matmul(columns.reshape(len(matrix), -1).T, matrix, y[images, rows].reshape(-1, matrix.shape[1]))
    else:
        for images, rows, patches in _patches(x, windows):
            for taken, made in _group_slices(weight, windows):
                _multiply(patches[..., taken], weight[..., made], y[images, rows, :, made])


def convolve_back(dy: Array, weight: Array, windows: Windows, dx: Array) -> None:
    """Compute dx."""
    windows, (dy, dx), weight = _upright(windows, [dy, dx], weight)
    turned = _turned(windows)
    if turned is not None and _is_depthwise(weight, windows):
        _convolve_depthwise(dy, weight[::-1, ::-1], turned, dx)
    elif turned is not None and windows.groups == 1 and weight.shape[2] >= FEW:
        turned_weight = np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))
        for images, rows, patches in _patches(dy, turned):
            _multiply(patches, turned_weight, dx[images, rows])
    else:
        _fold(dy, weight, windows, dx)


def convolve_weight(x: Array, dy: Array, windows: Windows, gradient: Array) -> None:
    """Compute the gradient of the weight."""
    windows, (x, dy), gradient = _upright(windows, [x, dy], gradient)
    gradient[...] = 0
    if _is_depthwise(gradient, windows):
        for images, rows, view in _views(x, windows):
            part = dy[images, rows]
            for i, j in np.ndindex(*windows.kernel):
                gradient[i, j, 0] += np.einsum("npqc,npqc->c", view[:, :, :, i, j], part)
    elif windows.groups == 1 and gradient[0, :, :, 0].size < FEW:
        matrix = gradient.reshape(-1, gradient.shape[3])
        for images, rows, columns in _columns(x, windows):
            matrix += np.dot(columns.reshape(len(matrix), -1), dy[images, rows].reshape(-1, matrix.shape[1]))
    else:
        for images, rows, patches in _patches(x, windows):
            for taken, made in _group_slices(gradient, windows):
                part = dy[images, rows, :, made].reshape(-1, made.stop - made.start)
                matrix = patches[..., taken].reshape(len(part), -1)
                gradient[..., made] += np.dot(matrix.T, part).reshape(*gradient.shape[:3], -1)


def convolve_gradients(x: Array, dy: Array, weight: Array, windows: Windows, gradient: Array, dx: Array) -> Array:
    """Compute the gradient of the weight, and dx. With a stride of 1, unfolding dy serves both."""
    turned = _turned(windows)
    is_long = windows.output[0] == 1 and windows.output[1] * weight.size > LONG * weight.shape[3]
    if turned is None or windows.groups > 1 or weight.shape[2] < FEW or is_long:
        convolve_weight(x, dy, windows, gradient)
        convolve_back(dy, weight, windows, dx)
        return dx
    height, width, channels, filters = weight.shape
    turned_weight = np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3)).reshape(-1, channels)
    turned_gradient = np.zeros((channels, len(turned_weight)), x.dtype)
    for images, rows, patches in _patches(dy, turned):
        matrix = patches.reshape(-1, len(turned_weight))
        np.matmul(matrix, turned_weight, dx[images, rows].reshape(-1, channels))
        turned_gradient += np.dot(x[images, rows].reshape(-1, channels).T, matrix)
    gradient[...] = turned_gradient.reshape(channels, height, width, filters).transpose(1, 2, 0, 3)[::-1, ::-1]
    return dx


def _is_depthwise(weight: Array, windows: Windows) -> bool:
    return weight.shape[2] == 1 and windows.groups == weight.shape[3] > 1


def _group_slices(weight: Array, windows: Windows) -> Iterator[tuple[slice, slice]]:
    """Yield the channels that each group takes, and the filters that it makes."""
    channels, filters = weight.shape[2], weight.shape[3] // windows.groups
    for group in range(windows.groups):
        taken, made = group * channels, group * filters
        yield slice(taken, taken + channels), slice(made, made + filters)


def _multiply(patches: Array, weight: Array, y: Array) -> None:
    """Multiply patches (n, rows, columns, i, j, c) with a weight (i, j, c, f) into y, which may be strided."""
    matrix, weights = patches.reshape(-1, weight[..., 0].size), weight.reshape(-1, weight.shape[-1])
    if y.flags.c_contiguous:
        np.matmul(matrix, weights, y.reshape(-1, weights.shape[1]))
    else:
        y[...] = np.matmul(matrix, weights).reshape(y.shape)


def _turned(windows: Windows) -> Windows | None:
    """Return the windows over dy by which dx is a convolution, too; None with a stride, or with too much padding."""
    pads = []
    for axis in range(2):
        reach = windows.dilation[axis] * (windows.kernel[axis] - 1)
        before, behind = windows.padding[axis]
        if windows.stride[axis] > 1 or before > reach or behind > reach:
            return None
        pads.append((reach - before, reach - behind))
    size, output, padding, unused = windows.output, windows.size, (pads[0], pads[1]), np.empty(0, np.int64)
    return Windows(size, output, windows.kernel, (1, 1), windows.dilation, padding, windows.groups, unused)


def _upright(windows: Windows, images: Sequence[Array], weight: Array) -> tuple[Windows, Sequence[Array], Array]:
    """Turn long sequences, images of one row, into images of one column, which can be cut into blocks of rows."""
    numbers = windows.output[1] * size_of(windows.kernel) * weight.shape[2] * windows.groups
    if windows.size[0] > 1 or windows.kernel[0] > 1 or windows.output[0] > 1 or numbers <= LONG:
        return windows, images, weight
    turned = Windows(
        size=windows.size[::-1],
        output=windows.output[::-1],
        kernel=windows.kernel[::-1],
        stride=windows.stride[::-1],
        dilation=windows.dilation[::-1],
        padding=windows.padding[::-1],
        groups=windows.groups,
        geometry=np.empty(0, np.int64),
    )
    return turned, [array.swapaxes(1, 2) for array in images], weight.swapaxes(0, 1)


def _blocks(images: int, windows: Windows, channels: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of images, and of the rows of windows in each, whose windows together are about BLOCK numbers."""
    height, width = windows.output
    row = max(width * size_of(windows.kernel) * channels, 1)
    if row * height > BLOCK:
        step = max(BLOCK // row, 1)
        for image in range(images):
            for start in range(0, height, step):
                yield slice(image, image + 1), slice(start, min(start + step, height))
        return
    step = BLOCK // (row * height)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images)), slice(0, height)


def _views(x: Array, windows: Windows) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows of windows, a view of them) in blocks; the view is of an array that the next block reuses."""
    padded: Array | None = None
    for images, rows in _blocks(len(x), windows, x.shape[3]):
        padded = _pad(x, images, windows, padded)
        yield images, rows, _window_view(padded, windows)[:, rows]


def _patches(x: Array, windows: Windows) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows of windows, a copy of them: (n, rows, columns, i, j, c)); the next block overwrites it."""
    scratch: Array = np.empty(0, x.dtype)
    for images, rows, view in _views(x, windows):
        if windows.kernel == (1, 1) and view.flags.c_contiguous:
            yield images, rows, view
            continue
        if len(scratch) < view.size:
            scratch = np.empty(view.size, x.dtype)
        patches = scratch[: view.size].reshape(view.shape)
        np.copyto(patches, view)
        yield images, rows, patches


def _columns(x: Array, windows: Windows) -> Iterator[tuple[slice, slice, Array]]:
    """Do the same as `_patches`, but transposed, (i, j, c, n, rows, columns): copied in runs of a row of windows."""
    scratch: Array = np.empty(0, x.dtype)
    for images, rows, view in _views(x, windows):
        turned = view.transpose(3, 4, 5, 0, 1, 2)
        if len(scratch) < view.size:
            scratch = np.empty(view.size, x.dtype)
        columns = scratch[: view.size].reshape(turned.shape)
        np.copyto(columns, turned)
        yield images, rows, columns


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


def _window_view(padded: Array, windows: Windows, rows: int | None = None) -> Array:
    """Return a view (n, output height, output width, kernel height, kernel width, channels) of padded images."""
    height = windows.output[0] if rows is None else rows
    image, row, column, channel = padded.strides
    (down, right), (apart_down, apart_right) = windows.stride, windows.dilation
    return as_strided(
        padded,
        (len(padded), height, windows.output[1], *windows.kernel, padded.shape[3]),
        (image, row * down, column * right, row * apart_down, column * apart_right, channel),
    )


def _fold(dy: Array, weight: Array, windows: Windows, dx: Array) -> None:
    """Compute each window's share of dx, and add the shares where windows overlap."""
    (top, _), (left, _) = windows.padding
    height, width = windows.size
    padded: Array = np.empty((0, *windows.padded, dx.shape[3]), dx.dtype)
    for images, rows in _blocks(len(dy), windows, dx.shape[3]):
        count = images.stop - images.start
        if len(padded) < count:
            padded = np.empty((count, *windows.padded, dx.shape[3]), dx.dtype)
        target = padded[:count]
        if rows.start == 0:
            target[...] = 0
        part, reached = dy[images, rows], target[:, rows.start * windows.stride[0] :]
        if windows.groups > 1:
            _add_groups(part, weight, windows, reached)
        else:
            shares = np.dot(part.reshape(-1, part.shape[3]), weight.reshape(-1, weight.shape[3]).T)
            _add_shares(shares.reshape(*part.shape[:3], *weight.shape[:3]), windows, reached)
        if rows.stop == windows.output[0]:
            dx[images] = target[:, top : top + height, left : left + width]


def _add_shares(shares: Array, windows: Windows, target: Array) -> None:
    """Add shares (n, rows, columns, i, j, c) to padded images, windows that do not overlap in a row at once."""
    image, row, column, channel = target.strides
    (down, right), (apart_down, apart_right) = windows.stride, windows.dilation
    every = -(-(apart_right * (windows.kernel[1] - 1) + 1) // right)
    for i in range(windows.kernel[0]):
        for first in range(min(every, windows.output[1])):
            part = shares[:, :, first::every, i]
            view = as_strided(
                target[:, i * apart_down :, first * right :],
                part.shape,
                (image, row * down, column * right * every, column * apart_right, channel),
            )
            np.add(view, part, view)


def _add_groups(dy: Array, weight: Array, windows: Windows, target: Array) -> None:
    view = _window_view(target, windows, rows=dy.shape[1])
    for i, j in np.ndindex(*windows.kernel):
        if _is_depthwise(weight, windows):
            view[:, :, :, i, j] += dy * weight[i, j, 0]
            continue
        for taken, made in _group_slices(weight, windows):
            view[:, :, :, i, j, taken] += np.matmul(dy[..., made], weight[i, j, :, made].T)


def _convolve_depthwise(x: Array, weight: Array, windows: Windows, y: Array) -> None:
    """Convolve each channel with its own filter; with a stride of 1, columns and channels are one long axis."""
    filters = weight[:, :, 0]
    if windows.stride[1] > 1:
        for images, rows, view in _views(x, windows):
            np.einsum("npqijc,ijc->npqc", view, filters, out=y[images, rows])
        return
    columns = windows.output[1]
    tiled = np.tile(filters, (1, 1, columns))
    for images, rows, view in _views(x, windows):
        n, p, _, i, j, c = view.shape
        strides = (*view.strides[:2], *view.strides[3:])
        joined = as_strided(view, (n, p, i, j, columns * c), strides)
        np.einsum("npijw,ijw->npw", joined, tiled, out=y[images, rows].reshape(n, p, columns * c))
