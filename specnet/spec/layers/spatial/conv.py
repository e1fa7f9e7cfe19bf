"""Specs of conv1d and conv2d."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from specnet.fields import Flag, PositiveInteger
from specnet.initializers import Initializer
from specnet.layers.spatial.conv import Conv1d, Conv2d
from specnet.spec.axes import Counts1, Counts2, Numbers, Padding1, Padding2, Pairs
from specnet.spec.layers.affine import WeightedSpec
from specnet.spec.registry import register_layer


class ConvolutionSpec(WeightedSpec):
    """Base class of the specs of convolutions and transposed ones, which say how many axes their settings have."""

    width_field = "filters"

    filters: PositiveInteger
    """Number of output channels; the number of input channels is inferred."""
    kernel_size: Numbers
    stride: Numbers = ()
    padding: str | Pairs = "valid"
    dilation: Numbers = ()
    groups: PositiveInteger = 1
    """Number of groups of channels that are convolved separately; as many as there are channels are a depthwise
    convolution. Channels and filters must be multiples of it."""
    bias: Flag = True
    """Whether to add a bias to each filter."""
    weight_init: Initializer = Field(default="glorot_uniform", examples=["he_normal", {"type": "normal", "std": 0.01}])
    """Initial weights. Default: he_normal before a ReLU-like layer, glorot_uniform otherwise."""
    bias_init: Initializer = Field(default="zeros", examples=["zeros", {"type": "constant", "value": 0.1}])
    """Initial bias."""


@register_layer("conv1d")
class Conv1dSpec(ConvolutionSpec):
    """Convolution of sequences (length, channels), with a weight of shape (kernel_size, channels / groups, filters)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "conv1d", "filters": 16, "kernel_size": 5, "padding": "same"}]}
    )
    layer = Conv1d

    kernel_size: Counts1
    """Length of the kernel."""
    stride: Counts1 = (1,)
    """Positions from one window to the next."""
    padding: Padding1 = "valid"
    """Zeros at both ends: "valid" for none, "same" for ceil(length / stride) outputs, a number, [[before, behind]]."""
    dilation: Counts1 = (1,)
    """Distance of the positions of a window; 1 for neighbours."""


@register_layer("conv2d")
class Conv2dSpec(ConvolutionSpec):
    """Convolution of images (height, width, channels); the weight is (height, width, channels / groups, filters)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "conv2d", "filters": 16, "kernel_size": 3, "padding": "same"}]}
    )
    layer = Conv2d

    kernel_size: Counts2
    """Height and width of the kernel: a number for both, or an array."""
    stride: Counts2 = (1, 1)
    """Positions from one window to the next."""
    padding: Padding2 = "valid"
    """Zeros on all sides: "valid" for none, "same" for ceil(size / stride) outputs, a number, or an array of two (top
    and bottom, left and right), each a number or a pair."""
    dilation: Counts2 = (1, 1)
    """Distance of the positions of a window; 1 for neighbours."""
