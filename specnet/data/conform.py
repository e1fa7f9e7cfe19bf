"""Check and convert the inputs, targets and weights of a data file for a model and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specnet.arrays.conversion import batch_of
from specnet.arrays.parameters import ShapeTuple
from specnet.data.dataset import Conversion, converted
from specnet.data.labels import TargetRules, are_classes, as_text, index_labels
from specnet.data.raw import RawArray
from specnet.document.messages import describe
from specnet.errors import DataError
from specnet.files.csv_cells import is_number
from specnet.spec.model_spec import ModelSpec

LEVELS = 256
"""Fewest float32 values that the range of an input must contain, if conversion to float32 rounds its values."""


def refuse_lost_digits(raw: RawArray, dtype: np.dtype[Any], source: str, names: Sequence[str] = ()) -> None:
    """Check that rows still differ after conversion: 1.7e9 + 1 is 1.7e9 in float32. Raises DataError."""
    if dtype != np.float32 or np.can_cast(raw.dtype, dtype) or len(raw) < 2:
        return
    low, high = raw.min(axis=0).astype(np.float64), raw.max(axis=0).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that float32 cannot hold are refused elsewhere
        spacing = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)
    lost = ((high > low) & (high - low < LEVELS * spacing)).reshape(-1)
    for column in np.flatnonzero(lost).tolist():
        exact = raw.reshape(len(raw), -1)[:, column]
        if (exact.astype(dtype) != exact).any():
            which = f'column "{names[column]}"' if names else f"column {column + 1}"
            span = f"{low.reshape(-1)[column]:.12g} to {high.reshape(-1)[column]:.12g}"
            msg = (
                f"{source}: inputs: {which}: its values, {span}, are too close together for float32; "
                'subtract an offset, or write "dtype": "float64" in the model document'
            )
            raise DataError(msg)


def conform_inputs(
    raw: RawArray,
    spec: ModelSpec,
    source: str,
    scale: float | None = None,
    *,
    trained: bool = False,
    first_row: int = 0,
    names: Sequence[str] = (),
) -> RawArray:
    """Convert inputs to the model's shape and dtype, divided by `scale`. Raises DataError, also for NaN and infinity.

    A last axis of length 1 may be missing, as in images without channels. The input shape of a `trained` model is
    fixed; the error then advises to choose other inputs. `first_row` is the index of the first row in the file; `names`
    are the names of the columns.
    """
    return converted(*store_inputs(raw, spec, source, scale, trained=trained, first_row=first_row, names=names))


def store_inputs(
    raw: RawArray,
    spec: ModelSpec,
    source: str,
    scale: float | None = None,
    *,
    trained: bool = False,
    first_row: int = 0,
    names: Sequence[str] = (),
) -> tuple[RawArray, Conversion | None]:
    """Check inputs as `conform_inputs`, and return the fields `stored` and `conversion` of a Dataset.

    Values of uint8 are not converted.
    """
    raw = _fit_shape(raw, spec, source, names, trained=trained)
    return store_values(raw, spec, source, scale, first_row=first_row, names=names)


def store_values(
    raw: RawArray,
    spec: ModelSpec,
    source: str,
    scale: float | None = None,
    *,
    first_row: int = 0,
    names: Sequence[str] = (),
) -> tuple[RawArray, Conversion | None]:
    """Check the values of inputs of any shape as `store_inputs`, and return what it does."""
    source = f"{source}: inputs"
    dtype: np.dtype[Any] = np.dtype(spec.dtype)
    limit = spec.plan().layers[0].input_limit
    if limit is not None:
        if scale is not None:
            msg = f"{source}: the model's first layer takes indices, which scale would change; leave scale out"
            raise DataError(msg)
        _check_indices(raw, limit, "an integer", source, first_row)
        dtype = np.dtype(np.int64)
    if raw.dtype == np.uint8:
        return np.ascontiguousarray(raw), Conversion(dtype, scale)
    if limit is not None:
        return raw.astype(np.int64), None
    values = finite(raw, dtype, source, first_row, names)
    if scale is not None:
        with np.errstate(over="ignore"):
            values = finite(values / dtype.type(scale), dtype, source, first_row, names)
    return values, None


def _fit_shape(raw: RawArray, spec: ModelSpec, source: str, names: Sequence[str], *, trained: bool) -> RawArray:
    """Return rows of numbers in the model's input shape; a last axis of length 1 is added if it is missing."""
    require_numbers(raw, source, names)
    if raw.ndim > 1 and (*raw.shape[1:], 1) == spec.input_shape:
        raw = raw[..., np.newaxis]
    if raw.shape[1:] != spec.input_shape:
        hint = f"; set input_shape to {list(raw.shape[1:])}" if raw.ndim > 1 else ""
        if raw.ndim > 2 and np.prod(raw.shape[1:]) == np.prod(spec.input_shape):
            hint += ' and begin with {"type": "flatten"}'
        if trained:
            hint = "; choose other inputs by name (--inputs)"
        msg = f"{source}: inputs: the model expects shape {batch_of(spec.input_shape)}, got {raw.shape}{hint}"
        raise DataError(msg)
    return raw


def require_numbers(raw: RawArray, source: str, names: Sequence[str] = ()) -> None:
    """Check that inputs are numbers, and at least one row of them. Raises DataError."""
    if raw.dtype.kind not in "biuf":
        msg = f"{source}: inputs: expected numbers, got {_what_else(raw, names)}"
        raise DataError(msg)
    if raw.ndim == 0 or len(raw) == 0:
        msg = f"{source}: inputs: there are no rows"
        raise DataError(msg)


def with_axes(steps: RawArray, shape: ShapeTuple) -> RawArray:
    """Return steps with a last axis of length 1 added or left out, if `shape` says so."""
    if (*steps.shape[1:], 1) == shape:
        return steps[..., np.newaxis]
    return steps[..., 0] if steps.shape[1:] == (*shape, 1) else steps


def finite(raw: RawArray, dtype: np.dtype[Any], source: str, first_row: int = 0, names: Sequence[str] = ()) -> RawArray:
    """Convert numbers to `dtype`. Raises DataError, with row and column, for NaN and infinity."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw, dtype)
    invalid = ~np.isfinite(values)
    if invalid.any():
        position = np.argwhere(invalid)[0]
        value = raw[tuple(position)]
        reason = f", which {dtype.name} cannot hold" if np.isfinite(value) else ""
        msg = f"{source}: {_locate(position, first_row, names)}: expected a finite number, got {value}{reason}"
        raise DataError(msg)
    return values


def conform_targets(raw: RawArray, spec: ModelSpec, loss: TargetRules, rows: int, source: str) -> RawArray:
    """Convert targets to the form that the loss takes: class indices (int64), or numbers of the output's shape.

    If each time step of the outputs has classes, (time, classes), there is an index for each step. Class names are
    converted to their index in the model's `labels` (`index_labels`). Raises DataError.
    """
    source = f"{source}: targets"
    if raw.ndim == 0 or len(raw) != rows:
        msg = f"{source}: expected {rows} rows, like the inputs, got {len(raw) if raw.ndim else 'a single value'}"
        raise DataError(msg)
    raw = target_numbers(raw, spec, loss, source)
    if loss.takes_classes():
        return check_target_values(_fit_classes(raw, rows, spec, source), spec, loss, source)
    expected = (rows, *spec.output_shape)
    if raw.shape == (rows,) and spec.output_shape == (1,):
        raw = raw[:, np.newaxis]
    if raw.shape != expected:
        msg = f"{source}: the model's outputs have shape {batch_of(spec.output_shape)}, got {raw.shape}"
        raise DataError(msg)
    return check_target_values(raw, spec, loss, source)


def target_numbers(raw: RawArray, spec: ModelSpec, loss: TargetRules, source: str) -> RawArray:
    """Convert targets of any shape to numbers: class names to indices, text to what it states. Raises DataError."""
    if are_classes(spec, loss):
        raw = index_labels(raw, spec.labels, source)
    elif raw.dtype.kind in "US":
        raw = _numbers_in(raw, source, loss)
    if raw.dtype.kind not in "biuf":
        msg = f"{source}: expected numbers, got {raw.dtype}"
        raise DataError(msg)
    return raw


def check_target_values(raw: RawArray, spec: ModelSpec, loss: TargetRules, source: str) -> RawArray:
    """Convert numbers of any shape to class indices (int64), or to the model's dtype. Raises DataError."""
    if loss.takes_classes():
        hint = "" if spec.labels else "; to name classes otherwise, set labels in the model document"
        _check_indices(raw, spec.output_shape[-1], "a class", source, hint=hint)
        return raw.astype(np.int64)
    values = finite(raw, np.dtype(spec.dtype), source)
    if loss.target_bounds is not None:
        low, high = loss.target_bounds
        invalid = (values < low) | (values > high)
        if invalid.any():
            position = np.argwhere(invalid)[0]
            expected_range = f"{loss.name} takes targets from {low:g} to {high:g}"
            msg = f"{source}: {_locate(position)}: {expected_range}, got {raw[tuple(position)]}"
            raise DataError(msg)
    return values


def _numbers_in(raw: RawArray, source: str, loss: TargetRules) -> RawArray:
    """Convert text that is nothing but numbers, such as "007", to numbers. Raises DataError."""
    text = as_text(raw, source)
    for position, value in np.ndenumerate(text):
        if not is_number(value.strip()):
            found = f"{describe(value)}; softmax_cross_entropy takes class names"
            msg = f"{source}: {_locate(position)}: {loss.name} expects numbers, got text, {found}"
            raise DataError(msg)
    return text.astype(np.float64)


LEAST_WEIGHT, MOST_WEIGHT = 1e-12, 1e12


def conform_weights(raw: RawArray | None, spec: ModelSpec, rows: int, source: str) -> RawArray | None:
    """Convert the weights of rows to the model's dtype. Raises DataError, also for weights that are not positive."""
    if raw is None:
        return None
    source = f"{source}: weights"
    if raw.shape != (rows,) or raw.dtype.kind not in "biuf":
        msg = f"{source}: expected {rows} numbers, one per row, got {raw.dtype} of shape {raw.shape}"
        raise DataError(msg)
    values = finite(raw, np.dtype(spec.dtype), source)
    invalid = (values < LEAST_WEIGHT) | (values > MOST_WEIGHT)
    if invalid.any():
        row = int(np.argmax(invalid))
        expected = f"a positive number, from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        msg = f"{source}: row {row + 1}: expected {expected}, got {raw[row]}; leave out rows that must not count"
        raise DataError(msg)
    return values


def _fit_classes(raw: RawArray, rows: int, spec: ModelSpec, source: str) -> RawArray:
    """Return an index for each row, or for each time step of a row; a last axis of length 1 may be left."""
    steps = spec.output_shape[:-1]
    if raw.shape == (rows, *steps, 1):
        raw = raw[..., 0]
    if raw.shape != (rows, *steps):
        per = f"one class index for each of the {steps[0]} steps of a row" if steps else "one class index per row"
        msg = f"{source}: expected {per}, got shape {raw.shape}"
        raise DataError(msg)
    return raw


def _check_indices(raw: RawArray, count: int, what: str, source: str, first_row: int = 0, hint: str = "") -> None:
    """Check that all values are integers from 0 to count - 1. Raises DataError."""
    with np.errstate(invalid="ignore"):
        invalid = (raw < 0) | (raw >= count) | (np.floor(raw) != raw) | np.isnan(raw)
    if invalid.any():
        position = np.argwhere(invalid)[0]
        value = raw[tuple(position)]
        msg = f"{source}: {_locate(position, first_row)}: expected {what} from 0 to {count - 1}, got {value}{hint}"
        raise DataError(msg)


def _what_else(raw: RawArray, names: Sequence[str]) -> str:
    """Describe an array that does not hold numbers: its first value of another type, or its dtype."""
    if raw.dtype.kind == "O" and raw.ndim:
        for position, value in np.ndenumerate(raw):
            if not isinstance(value, (int, float, np.number)):
                named = names if raw.ndim == 2 else ()
                return f"{describe(value)} in {_locate(position, names=named)}"
    return str(raw.dtype)


def _locate(position: Sequence[int], first_row: int = 0, names: Sequence[str] = ()) -> str:
    """Return the position of a value in an array, counted from 1: "row 3, column 1"."""
    if names:
        return f'row {first_row + position[0] + 1}, column "{names[position[1]]}"'
    column = f", column {', '.join(str(at + 1) for at in position[1:])}" if len(position) > 1 else ""
    return f"row {first_row + position[0] + 1}{column}"
