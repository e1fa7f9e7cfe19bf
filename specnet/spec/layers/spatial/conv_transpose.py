"""Specs of conv_transpose1d and conv_transpose2d."""

from __future__ import annotations

from pydantic import ConfigDict

from specnet.layers.spatial.conv_transpose import ConvTranspose1d, ConvTranspose2d
from specnet.spec.axes import Counts1, Counts2, Extra1, Extra2, Padding1, Padding2
from specnet.spec.layers.spatial.conv import ConvolutionSpec
from specnet.spec.registry import register_layer


@register_layer("conv_transpose1d")
class ConvTranspose1dSpec(ConvolutionSpec):
    """Gradient of a conv1d as a layer, for longer sequences; weight (kernel_size, channels / groups, filters)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "conv_transpose1d", "filters": 8, "kernel_size": 4, "stride": 2, "padding": "same"}]
        }
    )
    layer = ConvTranspose1d

    kernel_size: Counts1
    """Length of the kernel."""
    stride: Counts1 = (1,)
    """Positions of the output from one input to the next."""
    padding: Padding1 = "valid"
    """Positions cut at both ends of the output: a number, [[before, behind]], or "same" for stride times the length."""
    dilation: Counts1 = (1,)
    """Distance of the positions of a kernel; 1 for neighbours."""
    output_padding: Extra1 = (0,)
    """Positions added behind the output, less than the stride."""


@register_layer("conv_transpose2d")
class ConvTranspose2dSpec(ConvolutionSpec):
    """Gradient of a conv2d as a layer, for larger images; weight (height, width, channels / groups, filters)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "conv_transpose2d", "filters": 8, "kernel_size": 4, "stride": 2, "padding": "same"}]
        }
    )
    layer = ConvTranspose2d

    kernel_size: Counts2
    """Height and width of the kernel: a number for both, or an array."""
    stride: Counts2 = (1, 1)
    """Positions of the output from one input to the next."""
    padding: Padding2 = "valid"
    """Positions cut from the output: a number, an array of two (top and bottom, left and right), each a number or a
    pair, or "same" for stride times the size."""
    dilation: Counts2 = (1, 1)
    """Distance of the positions of a kernel; 1 for neighbours."""
    output_padding: Extra2 = (0, 0)
    """Positions added below and to the right of the output, less than the stride."""
