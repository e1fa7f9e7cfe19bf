"""Check and convert the inputs, targets and weights of a data file for a model and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import batch_of
from specnet.data.raw import RawArray
from specnet.document.messages import suggestion
from specnet.errors import DataError
from specnet.spec.model_spec import ModelSpec


class TargetRules(Protocol):
    """What a loss says of the targets it takes; every `specnet.training.losses.Loss` does."""

    @property
    def name(self) -> str: ...
    @property
    def yes_or_no(self) -> bool: ...
    @property
    def target_bounds(self) -> tuple[float, float] | None: ...
    def takes_classes(self) -> bool: ...


LEVELS = 256
"""Fewer different values than this in the range of an input are too few, where it had more."""


def refuse_lost_digits(raw: RawArray, values: RawArray, source: str, names: Sequence[str] = ()) -> None:
    """Hold that conversion has left what tells rows apart: 1.7e9 + 1 is 1.7e9 in float32. Raises DataError."""
    if values.dtype != np.float32 or raw.dtype == np.float32 or len(raw) < 2:
        return
    low, high = raw.min(axis=0).astype(np.float64), raw.max(axis=0).astype(np.float64)
    spacing = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)
    lost = ((high > low) & (high - low < LEVELS * spacing)).reshape(-1)
    for column in np.flatnonzero(lost).tolist():
        exact = raw.reshape(len(raw), -1)[:, column]
        if (values.reshape(len(raw), -1)[:, column] != exact).any():
            which = f'column "{names[column]}"' if names else f"column {column + 1}"
            span = f"{low.reshape(-1)[column]:.12g} to {high.reshape(-1)[column]:.12g}"
            msg = (
                f"{source}: inputs: {which}: its values, {span}, are too near to each other for float32; "
                'subtract an offset, or write "dtype": "float64" in the model document'
            )
            raise DataError(msg)


def conform_inputs(
    raw: RawArray,
    spec: ModelSpec,
    source: str,
    *,
    trained: bool = False,
    first_row: int = 0,
    names: Sequence[str] = (),
) -> RawArray:
    """Bring inputs into the model's shape and dtype. Raises DataError, also for NaN and infinity.

    A `trained` model cannot be given another shape; the error then advises to choose other inputs. `first_row` is
    the first one's place in the file, `names` are those of its columns.
    """
    if raw.dtype.kind not in "biuf":
        msg = f"{source}: inputs: expected numbers, got {raw.dtype}"
        raise DataError(msg)
    if raw.ndim == 0 or len(raw) == 0:
        msg = f"{source}: inputs: there are no rows"
        raise DataError(msg)
    if raw.shape[1:] != spec.input_shape:
        hint = f"; set input_shape to {list(raw.shape[1:])}" if raw.ndim > 1 else ""
        if raw.ndim > 2 and np.prod(raw.shape[1:]) == np.prod(spec.input_shape):
            hint += ' and begin with {"type": "flatten"}'
        if trained:
            hint = "; choose others by name (--inputs)"
        msg = f"{source}: inputs: the model expects shape {batch_of(spec.input_shape)}, got {raw.shape}{hint}"
        raise DataError(msg)
    limit = spec.plan().layers[0].input_limit
    if limit is not None:
        return _below(raw, limit, "an integer", f"{source}: inputs", first_row)
    return finite(raw, np.dtype(spec.dtype), f"{source}: inputs", first_row, names)


def finite(raw: RawArray, dtype: np.dtype[Any], source: str, first_row: int = 0, names: Sequence[str] = ()) -> RawArray:
    """Convert numbers, and refuse NaN and infinity by row and column. Raises DataError."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw, dtype)
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        found = raw[tuple(place)]
        why = f", which {dtype.name} cannot hold" if np.isfinite(found) else ""
        msg = f"{source}: {_place(place, first_row, names)}: expected a finite number, got {found}{why}"
        raise DataError(msg)
    return values


def conform_targets(raw: RawArray, spec: ModelSpec, loss: TargetRules, rows: int, source: str) -> RawArray:
    """Bring targets into the form the loss takes: class indices (int64), or numbers of the output's shape.

    Text is looked up in the model's `labels`. Raises DataError.
    """
    source = f"{source}: targets"
    if raw.ndim == 0 or len(raw) != rows:
        msg = f"{source}: expected {rows} rows, as the inputs have, got {len(raw) if raw.ndim else 'a single value'}"
        raise DataError(msg)
    classes = loss.takes_classes()
    binary = loss.yes_or_no and spec.output_shape == (1,)
    if classes or binary:
        raw = _by_label(raw, spec, source)
    elif raw.dtype.kind in "US":
        msg = f"{source}: got text, and {loss.name} compares numbers; softmax_cross_entropy takes names of classes"
        raise DataError(msg)
    if raw.dtype.kind not in "biuf":
        msg = f"{source}: expected numbers, got {raw.dtype}"
        raise DataError(msg)
    if classes:
        return _classes(raw, spec, source)
    expected = (rows, *spec.output_shape)
    if raw.shape == (rows,) and spec.output_shape == (1,):
        raw = raw[:, np.newaxis]
    if raw.shape != expected:
        msg = f"{source}: the model's outputs have shape {batch_of(spec.output_shape)}, got {raw.shape}"
        raise DataError(msg)
    values = finite(raw, np.dtype(spec.dtype), source)
    if loss.target_bounds is not None:
        low, high = loss.target_bounds
        wrong = (values < low) | (values > high)
        if wrong.any():
            place = np.argwhere(wrong)[0]
            takes = f"{loss.name} takes targets from {low:g} to {high:g}"
            msg = f"{source}: {_place(place)}: {takes}, got {raw[tuple(place)]}"
            raise DataError(msg)
    return values


def as_text(raw: RawArray, source: str) -> RawArray:
    """Decode bytes. Raises DataError."""
    try:
        return raw.astype(str)
    except UnicodeDecodeError:
        msg = f"{source}: got bytes that are no ASCII text"
        raise DataError(msg) from None


def _by_label(raw: RawArray, spec: ModelSpec, source: str) -> RawArray:
    """Turn names of classes into their indices; numbers stay, unless they are the names of other classes."""
    if raw.dtype.kind not in "US":
        whole = raw.dtype.kind in "iu" or (raw.dtype.kind == "f" and bool((np.floor(raw) == raw).all()))
        named = whole and raw.size and all(label.lstrip("-").isdecimal() for label in spec.labels)
        if not named or not spec.labels or spec.labels == tuple(map(str, range(len(spec.labels)))):
            return raw
        raw = raw.astype(np.int64)
    names = as_text(raw, source)
    if not spec.labels:
        found = sorted(set(names.reshape(-1).tolist()))[:8]
        msg = f"{source}: got text ({', '.join(found)}, …); name the classes in the model document: labels"
        raise DataError(msg)
    labels, which = np.unique(names.reshape(-1), return_inverse=True)
    places = {label: index for index, label in enumerate(spec.labels)}
    for index, name in enumerate(labels.tolist()):
        if name not in places:
            row = int(np.argmax(which == index))
            msg = f'{source}: row {row + 1}: "{name}" is not one of the labels{suggestion(name, spec.labels)}'
            raise DataError(msg)
    return np.array([places[name] for name in labels.tolist()], np.int64)[which].reshape(raw.shape)


def labels_of(raw: RawArray | None, spec: ModelSpec, loss: TargetRules, source: str) -> tuple[str, ...]:
    """Give the names of the classes, sorted, where targets are text and the model document has no labels.

    Raises DataError where the model has not one output for each.
    """
    width = spec.output_shape[-1]
    classes = loss.takes_classes() or (loss.yes_or_no and width == 1)
    if raw is None or raw.dtype.kind not in "US" or spec.labels or not classes:
        return spec.labels
    found = tuple(np.unique(as_text(raw, source)).tolist())
    if len(found) != 2 and not loss.takes_classes():
        msg = f"{source}: targets: {loss.name} tells 2 classes apart, there are {len(found)}; use softmax_cross_entropy"
        raise DataError(msg)
    if len(found) != max(width, 2):
        shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
        msg = (
            f"{source}: targets: there are {len(found)} classes ({shown}), the model has {width} outputs; "
            f"set the units of its last layer to {len(found)}"
        )
        raise DataError(msg)
    return found


LEAST_WEIGHT, MOST_WEIGHT = 1e-12, 1e12


def conform_weights(raw: RawArray | None, spec: ModelSpec, rows: int, source: str) -> RawArray | None:
    """Bring the weights of rows into the model's dtype; they have to be positive. Raises DataError."""
    if raw is None:
        return None
    source = f"{source}: weights"
    if raw.shape != (rows,) or raw.dtype.kind not in "biuf":
        msg = f"{source}: expected {rows} numbers, one a row, got {raw.dtype} of shape {raw.shape}"
        raise DataError(msg)
    values = finite(raw, np.dtype(spec.dtype), source)
    wrong = (values < LEAST_WEIGHT) | (values > MOST_WEIGHT)
    if wrong.any():
        row = int(np.argmax(wrong))
        expected = f"a positive number, from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        msg = f"{source}: row {row + 1}: expected {expected}, got {raw[row]}; leave out rows that count nothing"
        raise DataError(msg)
    return values


def _classes(raw: RawArray, spec: ModelSpec, source: str) -> RawArray:
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        msg = f"{source}: expected one class index a row, got shape {raw.shape}"
        raise DataError(msg)
    hint = "" if spec.labels else "; labels in the model document give classes other names"
    return _below(raw, spec.output_shape[-1], "a class", source, hint=hint)


def _below(
    raw: RawArray, count: int, what: str, source: str, first_row: int = 0, hint: str = ""
) -> npt.NDArray[np.int64]:
    """Check that all are whole numbers from 0 to count - 1."""
    with np.errstate(invalid="ignore"):
        wrong = (raw < 0) | (raw >= count) | (np.floor(raw) != raw) | np.isnan(raw)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        got = f"got {raw[tuple(place)]}{hint}"
        msg = f"{source}: {_place(place, first_row)}: expected {what} from 0 to {count - 1}, {got}"
        raise DataError(msg)
    return raw.astype(np.int64)


def _place(place: Sequence[int], first_row: int = 0, names: Sequence[str] = ()) -> str:
    """Name a value's place in an array as people count: row 3, column 1."""
    if names:
        return f'row {first_row + place[0] + 1}, column "{names[place[1]]}"'
    column = f", column {', '.join(str(at + 1) for at in place[1:])}" if len(place) > 1 else ""
    return f"row {first_row + place[0] + 1}{column}"
