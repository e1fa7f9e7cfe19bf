"""ONNX operators that add, cut or repeat positions; they work with the channels on any axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.spatial.frame import integers_of, spatial_axes
from specnet.interop.onnx.steps import NodeRead


def _per_axis(reader: LayerBuilder, values: Sequence[Any], axes: Sequence[int] | None) -> list[Any]:
    """Return the values of the axes that are neither batch nor channels; the others must have the first of `values`.

    `axes` names the axis of each value but the first, which is that of all axes without one.
    """
    neutral, *rest = values
    rank = len(reader.shape) + 1
    names = list(range(rank)) if axes is None else [axis + rank if axis < 0 else axis for axis in axes]
    if len(names) != len(rest) or len(set(names)) != len(names) or not set(names) <= set(range(rank)):
        raise UnsupportedNodeError(f"has {len(rest)} values for the axes {names!r:.80} of {rank}")
    found = dict(zip(names, rest, strict=True))
    spatial = spatial_axes(reader)
    if any(value != neutral for axis, value in found.items() if axis not in spatial):
        raise UnsupportedNodeError("changes the batch axis or the channels")
    return [found.get(axis, neutral) for axis in spatial]


def _pad(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    value = step.operands[2] if len(step.operands) > 2 else step.attributes.get("value", 0.0)
    if step.attributes.get("mode", b"constant") != b"constant" or (
        value is not None and np.any(np.asarray(value) != 0)
    ):
        raise UnsupportedNodeError("pads with something else than zeros")
    pads = integers_of(step, 1, "pads" if reader.version > 1 else "paddings") or []
    if len(pads) % 2 or any(number < 0 for number in pads):
        raise UnsupportedNodeError(f"pads: expected two numbers of at least 0 for each axis, got {pads!r:.80}")
    pairs = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
    edges = _per_axis(reader, [(0, 0), *pairs], integers_of(step, 3, "axes"))
    reader.add({"type": f"zero_pad{len(edges)}d", "padding": [list(pair) for pair in edges]})
    return 1


def _slice(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    starts, ends = integers_of(step, 1, "starts") or [], integers_of(step, 2, "ends") or []
    axes, strides = integers_of(step, 3, "axes"), integers_of(step, 4, "steps")
    if set(strides or [1]) != {1} or len(starts) != len(ends):
        raise UnsupportedNodeError("takes every second position, or backwards, or has starts without ends")
    shape = (1 << 62, *reader.graph_shape)  # a batch has no end that is known here
    names = list(range(len(starts))) if axes is None else axes
    pairs = []
    for axis, start, end in zip(names, starts, ends, strict=True):
        if not -len(shape) <= axis < len(shape):
            raise UnsupportedNodeError(f"cuts the axis {axis} of {len(shape)}")
        size = shape[axis]
        first, stop = (min(max(n + size if n < 0 else n, 0), size) for n in (start, end))
        pairs.append((first, size - stop))
    edges = _per_axis(reader, [(0, 0), *pairs], names)
    reader.add({"type": f"crop{len(edges)}d", "cropping": [list(pair) for pair in edges]})
    return 1


def _resize(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if reader.version < 11:
        raise UnsupportedNodeError("operator sets before 11 do not say where positions lie; export with a newer one")
    interpolation = _interpolation(step, len(reader.shape) - 1)
    axes = step.attributes.get("axes")
    sizes = integers_of(step, 3, "sizes")
    scales = step.operands[2] if len(step.operands) > 2 else None
    if sizes is not None:
        given = (1, *reader.graph_shape)
        names = range(len(sizes)) if axes is None else axes
        factors = [1.0 if axis == 0 else size / given[axis] for axis, size in zip(names, sizes, strict=True)]
        if axes is None and sizes[:1] != [reader.given.batch or None]:
            raise UnsupportedNodeError("states the size of the batch; export it with scales")
    elif scales is None or scales.dtype.kind != "f" or scales.ndim != 1 or scales.size > 8:
        raise UnsupportedNodeError("expected constant scales or sizes")
    else:
        factors = scales.tolist()
    whole = _per_axis(reader, [1.0, *factors], axes)
    if not all(factor >= 1 and factor == int(factor) for factor in whole):
        raise UnsupportedNodeError(f"enlarges by {whole!r:.80}; specnet enlarges by whole numbers")
    entry = {"type": f"upsample{len(whole)}d", "size": [int(factor) for factor in whole]}
    reader.add({**entry, "interpolation": interpolation})
    return 1


def _interpolation(step: NodeRead, axes: int) -> str:
    """Return the interpolation of a Resize if specnet has it. Raises UnsupportedNodeError."""
    options = step.attributes
    mode, place = options.get("mode", b"nearest"), options.get("coordinate_transformation_mode", b"half_pixel")
    rounding = options.get("nearest_mode", b"round_prefer_floor")
    repeats = [(b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"), (b"half_pixel", b"round_prefer_ceil")]
    if options.get("antialias", 0) or options.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise UnsupportedNodeError("has antialias or keeps the aspect ratio")
    if mode == b"nearest" and (place, rounding) in repeats:
        return "nearest"
    if mode == b"linear" and place in (b"half_pixel", b"pytorch_half_pixel"):  # they differ for an output of size 1
        return "linear" if axes == 1 else "bilinear"
    names = [value.decode(errors="replace") for value in (mode, place, rounding)]
    raise UnsupportedNodeError(f"interpolates as specnet does not: {', '.join(names)}"[:200])


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
}
