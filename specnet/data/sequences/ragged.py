"""Rows of differing length: steps one behind the other in the file, padded at the end for the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.data.conform import (
    check_target_values,
    conform_targets,
    refuse_lost_digits,
    require_numbers,
    target_numbers,
    with_axes,
)
from specnet.data.labels import TargetRules
from specnet.data.raw import RawArray, RawRows
from specnet.errors import DataError
from specnet.spec.model_spec import ModelSpec

_KEYS = {"mask": "value", "embedding": "mask_index"}
"""The key of a first layer that says which steps are padding, by the layer's type."""


def padding_of(spec: ModelSpec) -> float | None:
    """Return the number that marks a step as padding for the model's first layer; None if it knows no padding."""
    first = spec.layers[0]
    value: float | None = getattr(first, _KEYS.get(first.type, ""), None)
    return value


def padded(rows: RawRows, spec: ModelSpec, source: str, scale: float | None = None) -> RawRows:
    """Pad rows with `lengths` at the end to the time axis of the model's inputs; return other rows unchanged.

    The inputs, (steps, …), become (rows, time, …); targets stay as they are. Raises DataError for lengths that do not
    fit, for a step that equals the padding, and for a padding that `scale` would change.
    """
    if rows.lengths is None:
        return rows
    require_numbers(rows.inputs, source)
    steps = _fit_steps(rows.inputs, spec, source)
    lengths = _check_lengths(rows.lengths, len(steps), spec.input_shape[0], source)
    value = padding_of(spec)
    dtype = np.dtype(spec.plan().input_dtype)
    if dtype.kind == "f":
        refuse_lost_digits(steps, dtype, source)
    if value and scale is not None:
        msg = f"{source}: scale divides the padding, {value:g}, too; set the value of the mask layer to 0"
        raise DataError(msg)
    if value is not None:
        _refuse_padding(steps, lengths, value, dtype, source)
    elif (lengths < spec.input_shape[0]).any():
        raise DataError(_no_padding(spec, lengths, source))
    inputs = scatter(steps, lengths, spec.input_shape[0], value or 0, _room_for(steps.dtype, value or 0, dtype), source)
    return rows._replace(inputs=inputs, lengths=lengths)


def scatter(steps: RawArray, lengths: RawArray, time: int, value: float, dtype: np.dtype[Any], source: str) -> RawArray:
    """Return steps, (steps, …), as rows, (rows, time, …), whose ends are filled with `value`. Raises DataError."""
    shape = (len(lengths), time, *steps.shape[1:])
    try:
        rows: RawArray = np.full(shape, value, dtype)
    except MemoryError:
        msg = f"{source}: rows padded to {time} steps do not fit into memory; make the model's time axis shorter"
        raise DataError(msg) from None
    rows[np.arange(time) < lengths[:, np.newaxis]] = steps
    return rows


def conform_step_targets(rows: RawRows, spec: ModelSpec, loss: TargetRules, count: int, source: str) -> RawArray:
    """Convert targets as `conform_targets`; those of the single steps of `padded` rows are padded with 0.

    Raises DataError.
    """
    raw, lengths = rows.targets, rows.lengths
    if raw is None:
        msg = f"{source}: lines of text are targets only of a model whose outputs are sequences, (time, tokens)"
        raise DataError(msg)
    if lengths is None or not outputs_have_time(spec) or raw.ndim == 0 or len(raw) == count != lengths.sum():
        return conform_targets(raw, spec, loss, count, source)
    source = f"{source}: targets"
    if len(raw) != lengths.sum():
        msg = f"{source}: expected {lengths.sum()}, one for each step of the inputs, got {len(raw)}"
        raise DataError(msg)
    numbers = target_numbers(raw, spec, loss, source)
    shape = spec.output_shape[1:-1] if loss.takes_classes() else spec.output_shape[1:]
    numbers = with_axes(numbers, shape)
    if numbers.shape[1:] != shape:
        msg = f"{source}: expected shape {(len(raw), *shape)} for the outputs of all steps, got {raw.shape}"
        raise DataError(msg)
    spread = scatter(numbers, lengths, spec.input_shape[0], 0, numbers.dtype, source)
    return check_target_values(spread, spec, loss, source)


def outputs_have_time(spec: ModelSpec) -> bool:
    """Return whether the outputs are sequences of the inputs' length."""
    return len(spec.output_shape) > 1 and spec.output_shape[0] == spec.input_shape[0]


def _fit_steps(raw: RawArray, spec: ModelSpec, source: str) -> RawArray:
    shape = spec.input_shape[1:]
    steps = with_axes(raw, shape)
    if steps.shape[1:] != shape:
        wanted = f"({', '.join(['steps', *map(str, shape)])}{'' if shape else ','})"
        hint = f"; set input_shape to {[spec.input_shape[0], *raw.shape[1:]]}"
        msg = f"{source}: inputs: expected all steps one behind the other, {wanted}, got {raw.shape}{hint}"
        raise DataError(msg)
    return steps


def _check_lengths(raw: RawArray, steps: int, time: int, source: str) -> npt.NDArray[np.int64]:
    if raw.ndim != 1 or raw.dtype.kind not in "iu" or not len(raw):
        msg = f"{source}: lengths: expected an integer for each row, got {raw.dtype} of shape {raw.shape}"
        raise DataError(msg)
    bad = (raw < 1) | (raw > time)
    if bad.any():
        row = int(bad.argmax())
        remedy = "leave the row out" if raw[row] < 1 else f"cut it, or set the time axis of input_shape to {raw.max()}"
        msg = f"{source}: row {row + 1}: expected 1 to {time} steps, the model's time axis, got {raw[row]}; {remedy}"
        raise DataError(msg)
    if int(raw.sum()) != steps:
        msg = f"{source}: the lengths of {len(raw)} rows are {raw.sum()} steps together, but the inputs have {steps}"
        raise DataError(msg)
    return raw.astype(np.int64)


def _refuse_padding(
    steps: RawArray, lengths: npt.NDArray[np.int64], value: float, dtype: np.dtype[Any], source: str
) -> None:
    """Refuse a step that the first layer would mistake for padding. Raises DataError."""
    with np.errstate(over="ignore"):
        equal = steps.astype(dtype, copy=False) == np.array(value).astype(dtype)
    equal = equal.reshape(len(steps), -1).all(axis=1)
    if equal.any():
        step = int(equal.argmax())
        row = int(np.searchsorted(np.cumsum(lengths), step, side="right"))
        place = f"row {row + 1}, step {step - int(lengths[:row].sum()) + 1}"
        key = "value of the mask layer" if dtype.kind == "f" else "mask_index of the embedding"
        msg = (
            f"{source}: {place}: is {value:g}, which marks padding, so it would be left out; "
            f"choose a {key} that no step has"
        )
        raise DataError(msg)


def _no_padding(spec: ModelSpec, lengths: npt.NDArray[np.int64], source: str) -> str:
    time, first = spec.input_shape[0], spec.layers[0]
    short = int((lengths < time).argmax())
    remedy = 'set "mask_index" in the embedding' if first.type == "embedding" else 'begin with {"type": "mask"}'
    return (
        f"{source}: row {short + 1} has {lengths[short]} of {time} steps, and the model does not know which steps are "
        f"padding; {remedy}"
    )


def _room_for(dtype: np.dtype[Any], value: float, model: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of padded rows: that of the steps if it holds the padding exactly."""
    with np.errstate(all="ignore"):
        exact = float(np.array(value).astype(dtype)) == value
    return dtype if exact and dtype.kind != "b" else np.result_type(dtype, model)
