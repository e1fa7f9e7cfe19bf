"""The settings that ONNX's convolutions and pools share: kernel, strides, pads and dilations of their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from specnet.interop.onnx.builder import LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.steps import NodeRead


class Frame(NamedTuple):
    """Windows over the axes of a value that are not its batch and its channels. `padding` is as in a document."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: Any

    @property
    def spans(self) -> tuple[int, ...]:
        """The positions from the first to the last of a window, on each axis."""
        return tuple(step * (n - 1) + 1 for n, step in zip(self.kernel, self.dilations, strict=True))


def frame_of(reader: LayerBuilder, step: NodeRead, kernel: Sequence[int] | None = None) -> Frame:
    """Read the windows of a node; `kernel` is given by a weight. Raises UnsupportedNodeError."""
    sizes = spatial_sizes(reader)
    kernel = _numbers(step, "kernel_shape", len(sizes), 1, kernel or ())
    strides = _numbers(step, "strides", len(sizes), 1, [1] * len(sizes))
    dilations = _numbers(step, "dilations", len(sizes), 1, [1] * len(sizes))
    frame = Frame(sizes, kernel, strides, dilations, "valid")
    return frame._replace(padding=_padding(step, frame))


def spatial_sizes(reader: LayerBuilder) -> tuple[int, ...]:
    """Return the size of each axis behind the channels, which must be on the second. Raises UnsupportedNodeError."""
    *sizes, _ = reader.shape
    spatial_axes(reader)
    if not reader.first:
        raise UnsupportedNodeError("has the channels on the second axis, but those of its input are on the last")
    return tuple(sizes)


def _numbers(step: NodeRead, name: str, count: int, least: int, default: Sequence[int]) -> tuple[int, ...]:
    values = tuple(step.attributes.get(name, default))
    if len(values) != count or min(values) < least:
        raise UnsupportedNodeError(f"{name}: expected {count} numbers of at least {least}, got {list(values)!r:.80}")
    return values


def _padding(step: NodeRead, frame: Frame) -> Any:
    """Return the padding as a document has it: "same" for what it means at every size, else the numbers of zeros."""
    automatic = step.attributes.get("auto_pad", b"NOTSET")
    count = len(frame.sizes)
    numbers = _numbers(step, "pads", 2 * count, 0, [0] * 2 * count)
    if automatic == b"SAME_UPPER":
        return "same"
    if automatic == b"SAME_LOWER":
        missing = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, stride, span in zip(frame.sizes, frame.strides, frame.spans, strict=True)
        ]
        return [[zeros - zeros // 2, zeros // 2] for zeros in missing]
    if automatic not in (b"NOTSET", b"VALID"):
        raise UnsupportedNodeError(f"auto_pad: expected NOTSET, SAME_UPPER, SAME_LOWER or VALID, got {automatic!r:.40}")
    if automatic == b"VALID" or not any(numbers):
        return "valid"
    pads = [[before, behind] for before, behind in zip(numbers[:count], numbers[count:], strict=True)]
    same = [[(span - 1) // 2, span // 2] for span in frame.spans]
    return "same" if pads == same and set(frame.strides) == {1} else pads


def spatial_axes(reader: LayerBuilder) -> range:
    """Return the axes of the graph's value between or behind its channels. Raises UnsupportedNodeError."""
    axes = len(reader.shape) - 1
    if axes not in (1, 2):
        raise UnsupportedNodeError(f"works on {axes} axes besides the channels; specnet's layers on one or two")
    return range(2, axes + 2) if reader.first else range(1, axes + 1)


def integers_of(step: NodeRead, position: int, name: str) -> list[int] | None:
    """Return the integers of an input, or before it was one, of an attribute; None without either."""
    array = step.operands[position] if position < len(step.operands) else None
    if array is None:
        values = step.attributes.get(name)
        return None if values is None else [int(value) for value in values]
    if array.dtype.kind != "i" or array.ndim != 1 or array.size > 8:
        raise UnsupportedNodeError(f"{name}: expected a few integers, got {array.dtype} of shape {array.shape}")
    return [int(value) for value in array]
