"""ONNX operators that become normalizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specnet.interop.imported_model import undo_float32_rounding
from specnet.interop.onnx.builder import NO_EPSILON, LayerBuilder, UnsupportedNodeError
from specnet.interop.onnx.operator_sets import OLD_BROADCAST
from specnet.interop.onnx.steps import NodeRead


def _batch_norm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    """Read a batch norm. ONNX normalizes the second axis, which must be that of the channels."""
    step = steps[0]
    if len(reader.shape) > 1 and not reader.first:
        raise UnsupportedNodeError(f"normalizes the second axis of {reader.shape}; specnet normalizes the last")
    return take_batch_norm(reader, step)


def take_batch_norm(reader: LayerBuilder, step: NodeRead) -> int:
    """Add a batch_norm, and return the number of nodes read."""
    is_old = reader.version < OLD_BROADCAST and not step.attributes.get("is_test")
    if step.attributes.get("training_mode") or step.outputs > 1 or is_old:
        raise UnsupportedNodeError("was exported for training; export the model for inference")
    names = ("scale", "shift", "running_mean", "running_var")
    arrays = {short: reader.in_order(array) for short, (_, array) in zip(names, step.constants, strict=True)}
    momentum = round(1 - step.attributes.get("momentum", 0.9), 7)  # removes the rounding to float32
    epsilon = undo_float32_rounding(step.attributes.get("epsilon", 1e-5)) or NO_EPSILON
    entry = {"type": "batch_norm", "epsilon": epsilon, "momentum": momentum}
    reader.add(entry, arrays, step.constants[0][0])
    return 1


def _need_last_axis(reader: LayerBuilder, step: NodeRead) -> None:
    if reader.first or step.attributes.get("axis", -1) not in (-1, len(reader.shape)):
        raise UnsupportedNodeError("normalizes another axis than that of the channels, or more than that")


def _layer_norm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    _need_last_axis(reader, step)
    (name, scale), *shift = step.constants
    zeros = np.zeros_like(scale)
    arrays = {"scale": reader.in_order(scale), "shift": reader.in_order(shift[0][1]) if shift else zeros}
    reader.add(
        {"type": "layer_norm", "epsilon": undo_float32_rounding(step.attributes.get("epsilon", 1e-5))}, arrays, name
    )
    return 1


def _rms_norm(reader: LayerBuilder, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    _need_last_axis(reader, step)
    name, scale = step.constants[0]
    reader.add(
        {"type": "rms_norm", "epsilon": undo_float32_rounding(step.attributes.get("epsilon", 1e-5))},
        {"scale": reader.in_order(scale)},
        name,
    )
    return 1


OPERATORS: dict[str, Callable[[LayerBuilder, Sequence[NodeRead]], int]] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
}
