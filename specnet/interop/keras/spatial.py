"""Readers of Keras's convolutions, pools and other spatial layers; the writers are in spatial_writers.py.

Conv         kernel (*kernel, channels / groups, filters), as specnet has it
Depthwise    kernel (*kernel, channels, multiplier): the same numbers as (*kernel, 1, channels * multiplier)
Transposed   kernel (*kernel, filters, channels), the last axes in the other order
"""

from __future__ import annotations

from collections.abc import Callable

from specnet.interop.keras.layers import Entry, Found, Unsupported, Variable, activation_after, initializers_of


def _need_channels_last(layer: Found, axes: int) -> None:
    """Raise Unsupported if the layer has the channels on another axis than the last, or an input of another rank."""
    if layer.config.get("data_format", "channels_last") not in ("channels_last", None):
        data_format = f"data_format={layer.config['data_format']!r:.40}"
        raise Unsupported(f"{data_format}; specnet has the channels last: save the model with channels_last")
    if len(layer.shape) != axes + 1:
        raise Unsupported(f"an input of the shape {layer.shape}, expected {axes + 1} axes besides the batch")


def _integers(layer: Found, key: str, axes: int, default: int = 1) -> list[int]:
    """Return a setting that is an integer for all axes, or one for each."""
    value = layer.config.get(key)
    value = default if value is None else value
    numbers = list(value) if isinstance(value, (list, tuple)) else [value] * axes
    if len(numbers) != axes or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise Unsupported(f"{key}={value!r:.40}")
    return numbers


def _padding(layer: Found, *more: str) -> str:
    value = str(layer.config.get("padding", "valid")).lower()
    if value not in ("valid", "same", *more):
        raise Unsupported(f"padding={value!r:.40}")
    return value


def _convolution(layer: Found, kind: str, axes: int, kernel: str = "kernel") -> Entry:
    """Return what the entries of all convolutions share; `kernel` is Keras's name in the names of initializers."""
    _need_channels_last(layer, axes)
    for key in ("quantization_config", "lora_rank"):
        layer.need(key, None)
    return {
        "type": f"{kind}{axes}d",
        "kernel_size": _integers(layer, "kernel_size", axes),
        "stride": _integers(layer, "strides", axes),
        "padding": _padding(layer, *(["causal"] if kind == "conv" and axes == 1 else [])),
        "dilation": _integers(layer, "dilation_rate", axes),
        "bias": bool(layer.config.get("use_bias", True)),
        **initializers_of(layer, kernel),
    }


def _bias(entry: Entry, index: int = 0) -> list[Variable]:
    return [Variable("bias", layer=index)] if entry["bias"] else []


def _after_zeros(layer: Found, entry: Entry) -> list[Entry]:
    """Return a convolution, and before it the zeros of the padding "causal", which only sequences have."""
    if entry["padding"] != "causal":
        return [entry]
    layer.main = 1
    zeros = entry["dilation"][0] * (entry["kernel_size"][0] - 1)
    return [{"type": "zero_pad1d", "padding": [[zeros, 0]]}, {**entry, "padding": "valid"}]


def _conv(axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        entry = _convolution(layer, "conv", axes)
        entry |= {"filters": layer.config.get("filters"), "groups": _integers(layer, "groups", 1)[0]}
        entries = _after_zeros(layer, entry)
        layer.variables = [Variable("weight", layer=layer.main), *_bias(entry, layer.main)]
        return [*entries, *activation_after(layer)]

    return read


def _depthwise(layer: Found, axes: int) -> Entry:
    channels = layer.shape[-1]
    filters = channels * _integers(layer, "depth_multiplier", 1)[0]
    return {**_convolution(layer, "conv", axes, "depthwise"), "filters": filters, "groups": channels}


def _depthwise_conv(axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        entry = _depthwise(layer, axes)
        entries = _after_zeros(layer, entry)
        layer.variables = [Variable("depthwise", layer=layer.main), *_bias(entry, layer.main)]
        return [*entries, *activation_after(layer)]

    return read


def _separable_conv(axes: int) -> Callable[[Found], list[Entry]]:
    """Return the reader of two convolutions: one for each channel, and one that mixes the channels."""

    def read(layer: Found) -> list[Entry]:
        entry = _depthwise(layer, axes)
        entries = _after_zeros(layer, {**entry, "bias": False})
        pointwise = {"type": entry["type"], "filters": layer.config.get("filters"), "kernel_size": [1] * axes}
        pointwise |= {"bias": entry["bias"], **initializers_of(layer, "pointwise")}
        last = len(entries)
        weights = [Variable("depthwise", layer=layer.main), Variable("weight", layer=last)]
        layer.variables = [*weights, *_bias(entry, last)]
        return [*entries, pointwise, *activation_after(layer)]

    return read


def _conv_transpose(axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        entry = _convolution(layer, "conv_transpose", axes)
        layer.need("groups", 1)
        extra: list[int] | list[None] = [None] * axes
        if layer.config.get("output_padding") is not None:
            extra = _integers(layer, "output_padding", axes)
        if entry["padding"] == "valid" or extra[0] is not None:
            steps = zip(entry["kernel_size"], entry["stride"], entry["dilation"], extra, strict=True)
            edges = [_edges((n - 1) * apart + 1, stride, entry["padding"], more) for n, stride, apart, more in steps]
            entry["padding"] = [[before, max(behind, 0)] for before, behind in edges]
            entry["output_padding"] = [max(-behind, 0) for _, behind in edges]
        layer.variables = [Variable("turned"), *_bias(entry)]
        return [{**entry, "filters": layer.config.get("filters")}, *activation_after(layer)]

    return read


def _edges(span: int, stride: int, padding: str, extra: int | None) -> tuple[int, int]:
    """Return what Keras cuts from the output of a transposed convolution before and behind; it adds a negative number.

    `span` is the reach of the kernel. The padding "same" with an output_padding leaves (n - 1) * stride + span % 2 of
    it, and output_padding; an odd position is cut behind.
    """
    if padding == "valid":
        return 0, -(max(stride - span, 0) if extra is None else extra)
    assert extra is not None
    zeros = span + span % 2 - 2 + extra
    before = min(zeros // 2 + zeros % 2, span - 1)
    return span - 1 - before, span - 1 - (zeros - before)


def _pool(kind: str, axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        _need_channels_last(layer, axes)
        size = _integers(layer, "pool_size", axes, 2)
        stride = size if layer.config.get("strides") is None else _integers(layer, "strides", axes)
        return [{"type": f"{kind}{axes}d", "pool_size": size, "stride": stride, "padding": _padding(layer)}]

    return read


def _global_pool(kind: str, axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        _need_channels_last(layer, axes)
        kept = [{"type": "reshape", "shape": [*[1] * axes, layer.shape[-1]]}] if layer.config.get("keepdims") else []
        is_average = layer.masked and kind == "global_average_pool" and axes == 1  # Keras's leaves padded steps out
        return [{"type": "time_average" if is_average else kind}, *kept]

    return read


def _edges_reader(kind: str, key: str, axes: int) -> Callable[[Found], list[Entry]]:
    """Return the reader of a layer with numbers of positions at the edges; a pair for one axis is not in a list."""

    def read(layer: Found) -> list[Entry]:
        _need_channels_last(layer, axes)
        value = layer.config.get(key, 1)
        one_pair = axes == 1 and isinstance(value, (list, tuple)) and len(value) == 2
        return [{"type": f"{kind}{axes}d", key: [list(value)] if one_pair else value}]

    return read


def _upsample(axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        _need_channels_last(layer, axes)
        layer.need("interpolation", "nearest", *(["bilinear"] if axes == 2 else []))
        interpolation = layer.config.get("interpolation", "nearest")
        return [{"type": f"upsample{axes}d", "size": _integers(layer, "size", axes, 2), "interpolation": interpolation}]

    return read


def _spatial_dropout(axes: int) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        _need_channels_last(layer, axes)
        return [{"type": "channel_dropout", "rate": layer.number("rate", default=0.5)}]

    return read


def _of_axes(axes: int) -> dict[str, Callable[[Found], list[Entry]]]:
    conv_names = {f"Conv{axes}D": _conv, f"DepthwiseConv{axes}D": _depthwise_conv}
    conv_names |= {f"SeparableConv{axes}D": _separable_conv, f"Conv{axes}DTranspose": _conv_transpose}
    return {
        **{name: make(axes) for name, make in conv_names.items()},
        f"AveragePooling{axes}D": _pool("average_pool", axes),
        f"Cropping{axes}D": _edges_reader("crop", "cropping", axes),
        f"GlobalAveragePooling{axes}D": _global_pool("global_average_pool", axes),
        f"GlobalMaxPooling{axes}D": _global_pool("global_max_pool", axes),
        f"MaxPooling{axes}D": _pool("max_pool", axes),
        f"SpatialDropout{axes}D": _spatial_dropout(axes),
        f"UpSampling{axes}D": _upsample(axes),
        f"ZeroPadding{axes}D": _edges_reader("zero_pad", "padding", axes),
    }


SPATIAL_READERS: dict[str, Callable[[Found], list[Entry]]] = {**_of_axes(1), **_of_axes(2)}
