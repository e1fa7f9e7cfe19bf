"""Transposed convolutions: the gradient of a convolution as a layer, which enlarges sequences and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layers.spatial.conv import Convolution
from specnet.layers.spatial.convolution import convolve, convolve_back, convolve_weight
from specnet.layers.spatial.windows import (
    AXES,
    PaddingArgument,
    Pair,
    PerAxis,
    Windows,
    WindowSettings,
    find_windows,
    named,
    per_axis,
)


class ConvTranspose(Convolution):
    """y[p * stride + i * dilation - padding] = the sum of x[p] @ weight[i] over all p and i that meet there, + bias.

    An output has the size (n - 1) * stride + dilation * (kernel_size - 1) + 1 - padding + output_padding, or with
    the padding "same" n * stride: the size of an input for which the convolution with these settings returns n.
    weight: (kernel height, kernel width, channels / groups, filters), without the height for sequences;
    bias: (filters,) or None. Raises ShapeError.
    """

    _document_keys = ("stride", "padding", "dilation", "groups", "output_padding")

    def __init__(
        self,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        stride: PerAxis = 1,
        padding: PaddingArgument = "valid",
        dilation: PerAxis = 1,
        groups: int = 1,
        output_padding: PerAxis = 0,
    ) -> None:
        super().__init__(weight, bias, stride, padding, dilation, groups)
        self.output_padding = per_axis(output_padding, self.axes, f"{self.name}: output_padding", 0)

    @classmethod
    def _multiplied_positions(cls, input_shape: ShapeTuple, output_shape: ShapeTuple) -> ShapeTuple:
        return input_shape[:-1]

    @classmethod
    def _output_size(cls, settings: WindowSettings, fields: Mapping[str, Any], size: Pair) -> tuple[Windows, Pair]:
        output = _enlarged(settings, per_axis(fields["output_padding"], cls.axes, "output_padding", 0), size)
        return find_windows(settings, output), output

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        images = self._inputs(x)
        y = self._compute(images, out)
        self._x, self._y_shape = images, y.shape
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self._fill_parameter_gradients(dy)
        x = self.cached(self._x)
        dx = np.empty(x.shape, x.dtype) if out is None else out.reshape(x.shape)
        # the gradient of a convolution's gradient is the convolution
        return self._without_rows(convolve(dy, self._turned_weight(), None, self._windows(x), dx))

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self._compute(self._inputs(x), out)

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        self._fill_parameter_gradients(dy)

    def _compute(self, x: Array, out: Array | None) -> Array:
        windows = named(self.name, lambda: self._windows(x))
        shape = (len(x), *windows.size, self._weight.shape[3])
        y = np.empty(shape, x.dtype) if out is None else out.reshape(shape)
        return self._without_rows(convolve_back(x, self._turned_weight(), self._bias, windows, y))

    def _windows(self, x: Array) -> Windows:
        """Return the windows over the output, of which the convolution that goes from y to x has one for each x."""
        return find_windows(self.settings, _enlarged(self.settings, self.output_padding, x.shape[1:3]))

    def _turned_weight(self) -> Array:
        """Return the weight of the convolution from y to x: (height, width, filters / groups, channels)."""
        height, width, channels, filters = self._weight.shape
        grouped = self._weight.reshape(height, width, channels, self.groups, filters // self.groups)
        return np.ascontiguousarray(grouped.transpose(0, 1, 4, 3, 2)).reshape(height, width, -1, self.channels)

    def _fill_parameter_gradients(self, dy: npt.ArrayLike) -> Array:
        x = self.cached(self._x)
        dy = self._gradient_as_images(dy, x.dtype)
        height, width, channels, filters = self._weight.shape
        turned = self.keep("turned", (height, width, filters // self.groups, self.channels), x.dtype)
        convolve_weight(dy, x, self._windows(x), turned)
        grouped = turned.reshape(height, width, filters // self.groups, self.groups, channels).transpose(0, 1, 4, 3, 2)
        self._weight_gradient()[...] = grouped.reshape(self._weight.shape)
        self._sum_bias_gradient(dy)
        return dy


class ConvTranspose1d(ConvTranspose):
    """Transposed convolution of sequences (batch, length, channels)."""

    axes = 1


class ConvTranspose2d(ConvTranspose):
    """Transposed convolution of images (batch, height, width, channels)."""

    axes = 2


def _enlarged(settings: WindowSettings, output_padding: Pair, size: Pair) -> Pair:
    """Return the size of the output of a transposed convolution. Raises ShapeError."""
    axes, kernel, stride, padding, dilation, _ = settings
    sizes = []
    for axis in range(2):
        extra = output_padding[axis]
        if padding == "same":
            if extra:
                msg = 'with the padding "same" an output has stride times the size; leave out output_padding'
                raise ShapeError(msg)
            sizes.append(size[axis] * stride[axis])
            continue
        if extra >= stride[axis] and extra:
            msg = f"output_padding {extra} must be less than the stride {stride[axis]}"
            raise ShapeError(msg)
        before, behind = (0, 0) if padding == "valid" else padding[axis]
        full = (size[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        sizes.append(full - before - behind + extra)
        if sizes[-1] < 1:
            name = AXES[axes][axis + axes - 2]
            msg = f"the padding {before} + {behind} cuts the whole output, of {name} {full}; make it at most {full - 1}"
            raise ShapeError(msg)
    return sizes[0], sizes[1]
