"""ONNX operators that become pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specnet.interop.onnx.builder import Entry, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.spatial.frame import Frame, frame_of, integers_of, spatial_axes, spatial_sizes
from specnet.interop.onnx.spatial.layout import is_flatten
from specnet.interop.onnx.steps import NodeRead


def _max_pool(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.outputs > 1 or step.attributes.get("storage_order", 0):
        raise UnsupportedNodeError("returns the indices of the maxima, or has a storage_order for them")
    return _add_pool(reader, step, "max_pool", {})


def _average_pool(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    counts = steps[0].attributes.get("count_include_pad", 0)
    if counts not in (0, 1):
        raise UnsupportedNodeError(f"count_include_pad: expected 0 or 1, got {counts}")
    return _add_pool(reader, steps[0], "average_pool", {"count_padding": bool(counts)})


def _add_pool(reader: LayerBuilder, step: NodeRead, kind: str, settings: dict[str, Any]) -> int:
    frame = frame_of(reader, step)
    if set(frame.dilations) != {1}:
        raise UnsupportedNodeError(f"has dilations {list(frame.dilations)}; specnet's pools have none")
    padding = frame.padding
    if step.attributes.get("ceil_mode", 0) and padding != "same":
        padding = _rounded_up(frame, counts=settings.get("count_padding", False))
    entry: Entry = {
        "type": f"{kind}{len(frame.sizes)}d",
        "pool_size": list(frame.kernel),
        "stride": list(frame.strides),
    }
    reader.add({**entry, "padding": padding, **settings})
    return 1


def _rounded_up(frame: Frame, *, counts: bool) -> Any:
    """Return padding with which a pool has as many windows as if their number was rounded up."""
    pads = [[0, 0] for _ in frame.sizes] if frame.padding == "valid" else frame.padding
    padding = []
    for size, kernel, stride, (before, behind) in zip(frame.sizes, frame.kernel, frame.strides, pads, strict=True):
        missing = -(size + before + behind - kernel) % stride
        if missing and counts:
            raise UnsupportedNodeError("has ceil_mode and counts its padding, but not beyond it; specnet counts all")
        if missing and behind + missing >= kernel:
            raise UnsupportedNodeError("has ceil_mode, and a window that begins behind its input")
        padding.append([before, behind + missing])
    return padding if any(map(any, padding)) else "valid"


def _global_pool_reader(kind: str) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    """Return the reader of a global pool, which keeps axes of size 1 in ONNX."""

    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        spatial_sizes(reader)
        return _add_global_pool(reader, steps, kind, keeps_axes=True)

    return read


def _reduction_reader(kind: str) -> Callable[[LayerBuilder, Sequence[NodeRead]], int]:
    """Return the reader of a reduction over all positions, with the channels on any axis: a global pool."""

    def read(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
        spatial, rank = [*spatial_axes(reader)], len(reader.shape) + 1
        axes = [axis + rank if axis < 0 else axis for axis in integers_of(steps[0], 1, "axes") or ()]
        if sorted(axes) != spatial:
            raise UnsupportedNodeError(f"reduces the axes {axes}, expected {spatial}, all but batch and channels")
        keeps_axes = bool(steps[0].attributes.get("keepdims", 1))
        return _add_global_pool(reader, steps, kind, keeps_axes=keeps_axes)

    return read


def _add_global_pool(reader: LayerBuilder, steps: Sequence[NodeRead], kind: str, *, keeps_axes: bool) -> int:
    """Add a global pool, and return the number of nodes read; a flatten behind it removes the axes that it keeps."""
    ones = [1] * (len(reader.shape) - 1)
    reader.add({"type": kind})
    if keeps_axes and not is_flatten(reader, steps[1:2]):
        reader.add({"type": "reshape", "shape": [*ones, reader.features]})
        return 1
    reader.first = False
    return 2 if keeps_axes else 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool_reader("global_average_pool"),
    "GlobalMaxPool": _global_pool_reader("global_max_pool"),
    "MaxPool": _max_pool,
    "ReduceMax": _reduction_reader("global_max_pool"),
    "ReduceMean": _reduction_reader("global_average_pool"),
}
