"""The weights of convolutions as torch and ONNX store them, with the kernel's axes behind filters and channels.

conv            here (*kernel, channels / groups, filters), there (filters, channels / groups, *kernel)
conv_transpose  here (*kernel, channels / groups, filters), there (channels, filters / groups, *kernel)
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

CONVOLUTIONS = ("conv1d", "conv2d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d")


def to_channels_first(kind: str, weight: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """Return the weight of a layer of this type as torch and ONNX store it."""
    axes = weight.ndim - 2
    kernel = range(axes)
    if kind in CONVOLUTIONS:
        return weight.transpose(axes + 1, axes, *kernel)
    *sizes, channels, filters = weight.shape
    grouped = weight.reshape(*sizes, channels, groups, filters // groups)
    return grouped.transpose(axes + 1, axes, axes + 2, *kernel).reshape(groups * channels, filters // groups, *sizes)


def from_channels_first(kind: str, weight: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """Return the weight of torch or ONNX as a layer of this type has it; its first axis is a multiple of `groups`."""
    kernel = range(2, weight.ndim)
    if kind in CONVOLUTIONS:
        return weight.transpose(*kernel, 1, 0)
    channels, filters, *sizes = weight.shape
    grouped = weight.reshape(groups, channels // groups, filters, *sizes)
    return grouped.transpose(*(axis + 1 for axis in kernel), 1, 0, 2).reshape(
        *sizes, channels // groups, groups * filters
    )
