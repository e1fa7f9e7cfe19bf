"""Writers of convolutions, pools and other spatial layers in Keras.

Keras's convolutions pad with "valid" or "same" alone. Other zeros become a ZeroPadding before a convolution or an
average that counts them, and positions that are cut from a transposed convolution a Cropping behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import SpecnetError
from specnet.interop.keras.layer_writers import Written, initializer_settings
from specnet.interop.keras.layers import Entry
from specnet.layers.spatial.windows import Windows, WindowSettings, find_windows, padding_of, per_axis, size_of_image

_Writer = Callable[[Mapping[str, Any], ShapeTuple], Written]
_Pairs = Sequence[tuple[int, int]]


def _refuse(why: str) -> SpecnetError:
    return SpecnetError(f"{why}; export to onnx instead")


def _common(fields: Mapping[str, Any]) -> Entry:
    """Return the settings that convolutions and transposed ones share."""
    if max(fields["stride"]) > 1 and max(fields["dilation"]) > 1:
        raise _refuse("Keras has no convolution with both a stride and a dilation above 1")
    numbers = {"kernel_size": "kernel_size", "strides": "stride", "dilation_rate": "dilation"}
    return {
        **{setting: list(fields[field]) for setting, field in numbers.items()},
        "padding": fields["padding"] if isinstance(fields["padding"], str) else "valid",
        "data_format": "channels_last",
        "use_bias": fields["bias"],
        "activation": "linear",
    }


def _bias(fields: Mapping[str, Any]) -> tuple[str, ...]:
    return ("bias",) if fields["bias"] else ()


def _conv(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    axes, groups, filters = len(shape) - 1, fields["groups"], fields["filters"]
    config = _common(fields)
    before = None if isinstance(fields["padding"], str) else _zeros(fields["padding"])
    is_depthwise = groups == shape[-1] > 1 and len(set(fields["stride"])) == 1  # TensorFlow's has equal strides
    if is_depthwise:
        config |= {"depth_multiplier": filters // groups, **initializer_settings(fields, "depthwise")}
        return Written(f"DepthwiseConv{axes}D", config, ("depthwise", *_bias(fields)), before)
    config |= {"filters": filters, "groups": groups, **initializer_settings(fields)}
    return Written(f"Conv{axes}D", config, ("weight", *_bias(fields)), before)


def _conv_transpose(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    axes, padding = len(shape) - 1, fields["padding"]
    if fields["groups"] > 1:
        raise _refuse("Keras has no transposed convolution with groups")
    config = {**_common(fields), "filters": fields["filters"], "output_padding": None, **initializer_settings(fields)}
    name, variables = f"Conv{axes}DTranspose", ("turned", *_bias(fields))
    if padding == "same":
        return Written(name, config, variables)
    pairs = [(0, 0)] * axes if padding == "valid" else padding
    edges = [(before, behind - more) for (before, behind), more in zip(pairs, fields["output_padding"], strict=True)]
    config["output_padding"] = [max(-behind, 0) for _, behind in edges]
    cut = [(before, max(behind, 0)) for before, behind in edges]
    return Written(name, config, variables, after=_cropping(cut) if any(map(any, cut)) else None)


def _max_pool(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    if not isinstance(fields["padding"], str):
        raise _refuse(f'Keras has no max pool with the padding {fields["padding"]}, only with "valid" and "same"')
    return Written(f"MaxPooling{len(shape) - 1}D", _pool_config(fields))


def _average_pool(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    axes, padding = len(shape) - 1, fields["padding"]
    name = f"AveragePooling{axes}D"
    if padding == "valid" or (padding == "same" and not fields["count_padding"]):
        return Written(name, _pool_config(fields))
    if not fields["count_padding"]:
        raise _refuse(f'Keras has no average pool with the padding {padding}, only with "valid" and "same"')
    zeros = _zeros(_windows(fields, shape).padding[2 - axes :])
    return Written(name, {**_pool_config(fields), "padding": "valid"}, (), zeros)


def _windows(fields: Mapping[str, Any], shape: ShapeTuple) -> Windows:
    axes = len(shape) - 1
    size, stride = (per_axis(fields[key], axes, key) for key in ("pool_size", "stride"))
    settings = WindowSettings(axes, size, stride, padding_of(fields["padding"], axes, "padding"))
    return find_windows(settings, size_of_image(shape, axes))


def _pool_config(fields: Mapping[str, Any]) -> Entry:
    sizes = {"pool_size": list(fields["pool_size"]), "strides": list(fields["stride"])}
    return {**sizes, "padding": fields["padding"], "data_format": "channels_last"}


def _upsample(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    axes, size = len(shape) - 1, list(fields["size"])
    if axes == 1:
        if fields["interpolation"] != "nearest":
            raise _refuse("Keras has no linear interpolation of sequences")
        return Written("UpSampling1D", {"size": size[0]})
    config = {"size": size, "interpolation": fields["interpolation"], "data_format": "channels_last"}
    return Written("UpSampling2D", config)


def _channel_dropout(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    names = ("Dropout", "SpatialDropout1D", "SpatialDropout2D")  # without positions, they are the same
    if len(shape) > len(names):
        raise _refuse(f"Keras drops channels of sequences and images, not of inputs of the shape {shape}")
    return Written(names[len(shape) - 1], {"rate": fields["rate"]})


def _global_pool_writer(kind: str) -> _Writer:
    def write(_fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
        if len(shape) > 3:
            raise _refuse(f"specnet writes Keras's pools of sequences and images, not of inputs of the shape {shape}")
        return Written(f"{kind}{len(shape) - 1}D", {"data_format": "channels_last", "keepdims": False})

    return write


def _zeros(pairs: _Pairs) -> Written:
    return _at_edges("ZeroPadding", "padding", pairs)


def _cropping(pairs: _Pairs) -> Written:
    return _at_edges("Cropping", "cropping", pairs)


def _at_edges(name: str, key: str, pairs: _Pairs) -> Written:
    """Return a layer with numbers of positions at the edges; for sequences, Keras has one pair, not a list of one."""
    edges = [list(pair) for pair in pairs]
    return Written(f"{name}{len(edges)}D", {key: edges[0] if len(edges) == 1 else edges})


SPATIAL_WRITERS: dict[str, _Writer] = {
    **dict.fromkeys(("average_pool1d", "average_pool2d"), _average_pool),
    "channel_dropout": _channel_dropout,
    **dict.fromkeys(("conv1d", "conv2d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), _conv_transpose),
    **dict.fromkeys(("crop1d", "crop2d"), lambda fields, _: _cropping(fields["cropping"])),
    "global_average_pool": _global_pool_writer("GlobalAveragePooling"),
    "global_max_pool": _global_pool_writer("GlobalMaxPooling"),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("upsample1d", "upsample2d"), _upsample),
    **dict.fromkeys(("zero_pad1d", "zero_pad2d"), lambda fields, _: _zeros(fields["padding"])),
}
