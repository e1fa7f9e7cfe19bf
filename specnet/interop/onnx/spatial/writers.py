"""Writers of spatial layers; their inputs have the channels on the second axis: (batch, channels, height, width)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from specnet.interop.channels_first import TRANSPOSED, to_channels_first
from specnet.interop.onnx.graph import Graph, GraphLayer, LayerWriter
from specnet.interop.onnx.spatial import float64
from specnet.layers.spatial.conv import settings_of
from specnet.layers.spatial.pool import pool_settings_of
from specnet.layers.spatial.windows import Windows, find_windows, size_of_image

_WindowWriter: TypeAlias = Callable[[Graph, GraphLayer, str, Windows], str]


def windows_of(layer: GraphLayer) -> Windows:
    """Return the windows of a convolution or a pool; those of a transposed convolution lie over its output."""
    plan, axes = layer.plan, layer.rank - 2
    settings = (settings_of if "kernel_size" in layer.fields else pool_settings_of)(layer.fields, axes)
    shape = plan.output_shape if layer.type in TRANSPOSED else plan.input_shape
    return find_windows(settings, size_of_image(shape, axes))


def _attributes(windows: Windows, axes: int) -> dict[str, Any]:
    """Return the attributes that convolutions and pools share; sequences have one axis, the last of the windows'."""
    pads = windows.padding[2 - axes :]
    return {
        "kernel_shape": windows.kernel[2 - axes :],
        "strides": windows.stride[2 - axes :],
        "pads": [*(before for before, _ in pads), *(behind for _, behind in pads)],
    }


def _arrays(graph: Graph, layer: GraphLayer) -> list[str]:
    weight = to_channels_first(layer.type, layer["weight"], layer.fields["groups"])
    arrays = [graph.array(f"{layer.name}.weight", weight)]
    return [*arrays, graph.array(f"{layer.name}.bias", layer["bias"])] if "bias" in layer else arrays


def _conv(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    arrays, axes = _arrays(graph, layer), layer.rank - 2
    if graph.is_double:
        return float64.conv(graph, layer, [x, *arrays], windows)
    attributes = {**_attributes(windows, axes), "dilations": windows.dilation[2 - axes :], "group": windows.groups}
    return graph.node("Conv", [x, *arrays], **attributes)


def _conv_transpose(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    arrays, axes = _arrays(graph, layer), layer.rank - 2
    if graph.is_double:
        return float64.conv_transpose(graph, layer, [x, *arrays], windows)
    attributes = {**_attributes(windows, axes), "dilations": windows.dilation[2 - axes :], "group": windows.groups}
    inputs, outputs = size_of_image(layer.plan.input_shape, axes), windows.size
    extra = []  # what the output has beyond the last window, also with the padding "same" and a stride above the kernel
    for axis in range(2 - axes, 2):
        span = windows.dilation[axis] * (windows.kernel[axis] - 1) + 1
        extra.append(outputs[axis] + sum(windows.padding[axis]) - span - (inputs[axis] - 1) * windows.stride[axis])
    return graph.node("ConvTranspose", [x, *arrays], output_padding=extra, **attributes)


def _max_pool(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    return graph.node("MaxPool", [x], **_attributes(windows, layer.rank - 2))


def _average_pool(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    if graph.is_double:
        return float64.average_pool(graph, layer, x, windows)
    counts = int(layer.fields["count_padding"])
    return graph.node("AveragePool", [x], count_include_pad=counts, **_attributes(windows, layer.rank - 2))


def _global_pool_writer(kind: str, reduction: str) -> LayerWriter:
    """Return the writer of a global pool; a reduction does the same in float64."""

    def write(graph: Graph, layer: GraphLayer, x: str) -> str:
        if not graph.is_double:
            return graph.node("Flatten", [graph.node(kind, [x])], axis=1)
        graph.need(18)
        axes = graph.array(f"{layer.name}.axes", np.arange(2, layer.rank))
        return graph.node(reduction, [x, axes], keepdims=0)

    return write


def _zero_pad(graph: Graph, layer: GraphLayer, x: str) -> str:
    before, behind = zip(*layer.fields["padding"], strict=True)
    pads = graph.array(f"{layer.name}.pads", np.array([0, 0, *before, 0, 0, *behind]))
    return graph.node("Pad", [x, pads])


def _crop(graph: Graph, layer: GraphLayer, x: str) -> str:
    cropping, sizes = layer.fields["cropping"], layer.plan.input_shape
    starts = [before for before, _ in cropping]
    ends = [size - behind for size, (_, behind) in zip(sizes, cropping, strict=False)]
    numbers = {"starts": starts, "ends": ends, "axes": [*range(2, layer.rank)]}
    arrays = [graph.array(f"{layer.name}.{name}", np.array(value)) for name, value in numbers.items()]
    return graph.node("Slice", [x, *arrays])


def _upsample(graph: Graph, layer: GraphLayer, x: str) -> str:
    if graph.is_double:
        return float64.upsample(graph, layer, x)
    scales = graph.array(f"{layer.name}.scales", np.array([1, 1, *layer.fields["size"]], np.float32))
    if layer.fields["interpolation"] == "nearest":
        rounding: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return graph.node("Resize", [x, "", scales], mode="nearest", **rounding)
    return graph.node("Resize", [x, "", scales], mode="linear", coordinate_transformation_mode="half_pixel")


def _over_windows(write: _WindowWriter) -> LayerWriter:
    return lambda graph, layer, x: write(graph, layer, x, windows_of(layer))


SPATIAL_WRITERS: dict[str, LayerWriter] = {
    **dict.fromkeys(("average_pool1d", "average_pool2d"), _over_windows(_average_pool)),
    **dict.fromkeys(("conv1d", "conv2d"), _over_windows(_conv)),
    **dict.fromkeys(TRANSPOSED, _over_windows(_conv_transpose)),
    **dict.fromkeys(("crop1d", "crop2d"), _crop),
    "global_average_pool": _global_pool_writer("GlobalAveragePool", "ReduceMean"),
    "global_max_pool": _global_pool_writer("GlobalMaxPool", "ReduceMax"),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _over_windows(_max_pool)),
    **dict.fromkeys(("upsample1d", "upsample2d"), _upsample),
    **dict.fromkeys(("zero_pad1d", "zero_pad2d"), _zero_pad),
}
