"""ONNX operators that become convolutions and transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specnet.interop.channels_first import from_channels_first
from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.spatial.frame import frame_of, spatial_sizes
from specnet.interop.onnx.steps import NodeRead


def _conv(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    return _add_convolution(reader, steps[0], "conv", {})


def _conv_transpose(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    axes = len(reader.shape) - 1
    if "output_shape" in step.attributes or step.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedNodeError("states no pads, and versions of ONNX derive different ones; export it with pads")
    extra = list(step.attributes.get("output_padding", [0] * axes))
    return _add_convolution(reader, step, "conv_transpose", {"output_padding": extra})


def _add_convolution(reader: LayerBuilder, step: NodeRead, kind: str, settings: dict[str, Any]) -> int:
    (name, weight), *bias = step.constants
    axes, groups = len(spatial_sizes(reader)), step.attributes.get("group", 1)
    if weight.ndim != axes + 2 or 0 in weight.shape:
        raise UnsupportedNodeError(f"expected a weight of rank {axes + 2}, got the shape {weight.shape}")
    channels, filters = weight.shape[1] * groups, weight.shape[0]
    if kind == "conv_transpose":
        channels, filters = filters, channels
    if groups < 1 or channels % groups or filters % groups or channels != reader.features:
        detail = f"a weight of shape {weight.shape} in {groups} groups"
        raise UnsupportedNodeError(f"{detail} does not fit the {reader.features} channels of its input")
    frame = frame_of(reader, step, weight.shape[2:])
    if frame.kernel != weight.shape[2:]:
        raise UnsupportedNodeError(f"its kernel_shape {frame.kernel} is not that of its weight, {weight.shape[2:]}")
    if bias and bias[0][1].shape != (filters,):
        raise UnsupportedNodeError(f"expected a bias of shape {(filters,)}, got {bias[0][1].shape}")
    if kind == "conv_transpose" and groups > 1:  # its weight cannot be a view
        reader.given.copies(weight.nbytes)
    reader.note_use(name)
    arrays: Arrays = {"weight": from_channels_first(f"{kind}{axes}d", weight, groups)}
    if bias:
        arrays["bias"] = bias[0][1]
    entry = {
        "type": f"{kind}{axes}d",
        "filters": filters,
        "kernel_size": list(frame.kernel),
        "stride": list(frame.strides),
        "padding": frame.padding,
        "dilation": list(frame.dilations),
        "groups": groups,
        "bias": bool(bias),
        **settings,
    }
    reader.add(entry, arrays, name)
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
}
