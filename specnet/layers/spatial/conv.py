"""Convolution layers: conv1d over sequences, conv2d over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.arrays.sums import sum_rows
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer
from specnet.layers.relu import Relu
from specnet.layers.spatial.base import Spatial
from specnet.layers.spatial.convolution import convolve, convolve_gradients, convolve_weight
from specnet.layers.spatial.windows import (
    PaddingArgument,
    Pair,
    PerAxis,
    Windows,
    WindowSettings,
    find_windows,
    named,
    output_shape_of,
    padding_of,
    per_axis,
    size_of_image,
)
from specnet.plan import element_limit


class Convolution(Spatial):
    """Base class of convolutions and transposed convolutions: their arrays, settings and checks."""

    _document_keys: ClassVar[tuple[str, ...]] = ("stride", "padding", "dilation", "groups")
    weight = ParameterView()
    bias = ParameterView()
    weight_grad = GradientView("weight")
    bias_grad = GradientView("bias")

    def __init__(
        self,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        stride: PerAxis = 1,
        padding: PaddingArgument = "valid",
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.parameters["weight"] = self.floats(weight)
        shape = self.weight.shape
        if not isinstance(groups, (int, np.integer)) or groups < 1:
            msg = f"{self.name}: expected groups, a positive integer, got {groups!r}"
            raise SpecnetError(msg)
        if len(shape) != self.axes + 2 or 0 in shape or shape[-1] % groups:
            sizes = (
                "(length, channels / groups, filters)"
                if self.axes == 1
                else "(height, width, channels / groups, filters)"
            )
            msg = f"{self.name}: expected a weight of shape {sizes}, filters a multiple of {groups} groups, got {shape}"
            raise ShapeError(msg)
        self._bias: Array | None = None
        if bias is not None:
            self._bias = self.parameters["bias"] = self.floats(bias, self.weight.dtype)
            if self._bias.shape != shape[-1:]:
                msg = f"{self.name}: expected a bias of shape {shape[-1:]}, got {self._bias.shape}"
                raise ShapeError(msg)
        height, width = self._weight.shape[:2]
        numbers = [
            per_axis(value, self.axes, f"{self.name}: {key}")
            for key, value in (("stride", stride), ("dilation", dilation))
        ]
        pads = padding_of(padding, self.axes, self.name)
        self.settings = WindowSettings(self.axes, (height, width), numbers[0], pads, numbers[1], int(groups))
        self.groups = int(groups)
        self._x: Array | None = None  # (batch, height, width, channels)

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        axes, filters, groups, channels = cls.axes, fields["filters"], fields["groups"], input_shape[-1]
        size = size_of_image(input_shape, axes)
        for name, count in (("input's channels", channels), ("filters", filters)):
            if count % groups:
                msg = f"the {name}, {count}, are no multiple of {groups} groups; change groups or their number"
                raise ShapeError(msg)
        windows, output = cls._output_size(settings_of(fields, axes), fields, size)
        padded = size_of(windows.padded) * (channels if windows.size == size else filters)
        if windows.padded != windows.size and padded > element_limit():
            msg = f"with its padding, an array has {padded} elements, more than {element_limit()}; use less padding"
            raise ShapeError(msg)
        weight = (*fields["kernel_size"], channels // groups, filters)
        bias = {"bias": (filters,)} if fields["bias"] else {}
        return {"weight": weight, **bias}, output_shape_of(output, filters, axes)

    @classmethod
    def multiply_adds(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> int:
        parameters, output_shape = cls.infer(fields, input_shape)
        return size_of(cls._multiplied_positions(input_shape, output_shape)) * size_of(parameters["weight"])

    @classmethod
    def _multiplied_positions(cls, input_shape: ShapeTuple, output_shape: ShapeTuple) -> ShapeTuple:
        """Return the size of the array of which each position is multiplied with the whole weight."""
        return output_shape[:-1]

    @classmethod
    def _output_size(cls, settings: WindowSettings, fields: Mapping[str, Any], size: Pair) -> tuple[Windows, Pair]:
        """Return the windows, and the size of an output."""
        windows = find_windows(settings, size)
        return windows, windows.output

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        arguments: dict[str, Any] = {**parameters, **{key: fields[key] for key in cls._document_keys}}
        return cls(**arguments)

    @property
    def formulas(self) -> dict[str, str]:
        return {"dbias": "dy.sum(axis=(0, 1, 2))" if self.axes == 2 else "dy.sum(axis=(0, 1))"}

    @property
    def _weight(self) -> Array:
        """The weight for images; here, sequences are images of height 1."""
        weight = self.parameters["weight"]
        return weight if self.axes == 2 else weight[np.newaxis]

    @property
    def channels(self) -> int:
        """The number of channels of an input."""
        return self._weight.shape[2] * self.groups

    def _inputs(self, x: npt.ArrayLike) -> Array:
        return self._as_images(x, self.parameters["weight"].dtype, self.channels)

    def _sum_bias_gradient(self, dy: Array) -> None:
        if self._bias is not None:  # ∂y/∂bias = 1, summed over all positions
            sum_rows(dy.reshape(-1, dy.shape[-1]), self.gradient("bias"))

    def _weight_gradient(self) -> Array:
        gradient = self.gradient("weight")
        return gradient if self.axes == 2 else gradient[np.newaxis]


class Conv(Convolution):
    """y = the sum over i, j, c of x[p * stride + i * dilation - padding, ..., c] * weight[i, j, c] + bias.

    weight: (kernel height, kernel width, channels / groups, filters) for images, (kernel length, channels / groups,
    filters) for sequences; bias: (filters,) or None. With groups, each takes its share of the channels and makes its
    share of the filters; as many groups as channels are a depthwise convolution. Float arrays are kept by reference;
    the outputs have the weight's dtype. Raises ShapeError.
    """

    def fused_with(self, following: Layer) -> Layer | None:
        if type(self) in (Conv1d, Conv2d) and type(following) is Relu:  # a subclass may compute something else
            return _ConvRelu(self, following)
        return None

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, *, rectified: bool = False
    ) -> Array:
        """Return y, or max(y, 0) if `rectified`."""
        images = self._inputs(x)
        y = self._compute(images, out, rectified=rectified)
        self._x, self._y_shape = images, y.shape
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.cached(self._x)
        dy = self._gradient_as_images(dy, x.dtype)
        dx = np.empty(x.shape, x.dtype) if out is None else out.reshape(x.shape)
        # x[q] adds to y[p] where q = p * stride + i * dilation - padding: dx[q] sums dy[p] @ weight[i].T over these,
        # and ∂y[p]/∂weight[i] = x[q], summed over the batch and all positions
        convolve_gradients(x, dy, self._weight, self._windows(x), self._weight_gradient(), dx)
        self._sum_bias_gradient(dy)
        return self._without_rows(dx)

    def predict(self, x: npt.ArrayLike, out: Array | None = None, *, rectified: bool = False) -> Array:
        return self._compute(self._inputs(x), out, rectified=rectified)

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        x = self.cached(self._x)
        dy = self._gradient_as_images(dy, x.dtype)
        convolve_weight(x, dy, self._windows(x), self._weight_gradient())
        self._sum_bias_gradient(dy)

    def _windows(self, x: Array) -> Windows:
        return find_windows(self.settings, x.shape[1:3])

    def _compute(self, x: Array, out: Array | None, *, rectified: bool) -> Array:
        windows = named(self.name, lambda: self._windows(x))
        shape = (len(x), *windows.output, self._weight.shape[3])
        y = np.empty(shape, x.dtype) if out is None else out.reshape(shape)
        return self._without_rows(convolve(x, self._weight, self._bias, windows, y, rectified=rectified))


class Conv1d(Conv):
    """Convolution of sequences (batch, length, channels)."""

    axes = 1


class Conv2d(Conv):
    """Convolution of images (batch, height, width, channels)."""

    axes = 2


class _ConvRelu(Layer):
    """A convolution and the ReLU after it, which is applied before an output is written."""

    def __init__(self, conv: Conv, relu: Relu) -> None:
        super().__init__(**conv.parameters)
        self.conv, self.relu = conv, relu

    @property
    def keeps_output(self) -> bool:
        return True

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.conv.forward(x, training, out, rectified=True)
        self.relu.remember(y)  # it is positive where the input of the ReLU was
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.conv.backward(self._masked(dy), out)

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        self.conv.parameter_backward(self._masked(dy))

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.conv.predict(x, out, rectified=True)

    def _masked(self, dy: npt.ArrayLike) -> Array:
        y = self.relu.remembered()
        return self.relu.backward(dy, self.keep("masked", y.shape, y.dtype))


def settings_of(fields: Mapping[str, Any], axes: int) -> WindowSettings:
    """Return the windows of the layer that a document describes."""
    kernel, stride, dilation = (per_axis(fields[key], axes, key) for key in ("kernel_size", "stride", "dilation"))
    return WindowSettings(
        axes, kernel, stride, padding_of(fields["padding"], axes, "padding"), dilation, fields["groups"]
    )
