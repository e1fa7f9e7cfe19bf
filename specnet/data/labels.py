"""Class names: which class a target names, whether it is text, a number or a boolean."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from specnet.arrays.frames import canonical
from specnet.data.raw import RawArray
from specnet.document.messages import suggestion
from specnet.errors import DataError
from specnet.files.csv_cells import is_number
from specnet.spec.model_spec import ModelSpec

_BOOLEANS = {"true": True, "false": False}


class TargetRules(Protocol):
    """Properties of a loss that decide which targets are valid; every `specnet.training.losses.Loss` has them."""

    @property
    def name(self) -> str: ...
    @property
    def yes_or_no(self) -> bool: ...
    @property
    def target_bounds(self) -> tuple[float, float] | None: ...
    def takes_classes(self) -> bool: ...


def are_classes(spec: ModelSpec, loss: TargetRules) -> bool:
    """Return whether targets are classes: one of several, or yes or no."""
    return loss.takes_classes() or (loss.yes_or_no and spec.output_shape == (1,))


def reads_text(spec: ModelSpec, loss: TargetRules) -> bool:
    """Return whether a target column is read as text though it looks like numbers: if a class name looks like one.

    Otherwise "1" and "2" would be names in a file that also has "4+", and indices in a file that has not.
    """
    return any(map(_value_of, spec.labels)) and are_classes(spec, loss)


def index_note(raw: RawArray | None, spec: ModelSpec, loss: TargetRules) -> str:
    """Return a note that says how numbers are read, if they are indices of classes that have names; else ""."""
    if raw is None or raw.dtype.kind not in "iuf" or not spec.labels or not are_classes(spec, loss):
        return ""
    if any(map(_value_of, spec.labels)):
        return ""
    pairs = ", ".join(f"{index} = {label}" for index, label in enumerate(spec.labels[:8]))
    return f"the targets are read as indices: {pairs}{', …' if len(spec.labels) > 8 else ''}"


def as_text(raw: RawArray, source: str) -> RawArray:
    """Convert to str; bytes are decoded as UTF-8. Raises DataError."""
    try:
        return np.strings.decode(raw, "utf-8") if raw.dtype.kind == "S" else raw.astype(str)
    except UnicodeDecodeError:
        msg = f"{source}: got bytes that are not UTF-8 text"
        raise DataError(msg) from None


def index_labels(raw: RawArray, labels: Sequence[str], source: str) -> RawArray:
    """Convert targets that name classes to indices; return those that are indices, or fractions, unchanged.

    Text is looked up by equality, then without blanks and in Unicode's composed form, then as a number or a boolean.
    Numbers and booleans are looked up if all labels are of their kind. If no label looks like either, numbers are
    indices. All else is ambiguous. Raises DataError.
    """
    if raw.dtype.kind in "US":
        return _index_text(as_text(raw, source), labels, source)
    if not labels or not raw.size or raw.dtype.kind not in "biuf" or _are_indices(labels):
        return raw
    kind = bool if raw.dtype.kind == "b" else float
    kinds = {value and value[0] for value in map(_value_of, labels)}
    if kinds == {kind}:
        integral = raw.dtype.kind == "f" and bool((np.floor(raw) == raw).all()) and bool((np.abs(raw) < 2**53).all())
        return _index_text((raw.astype(np.int64) if integral else raw).astype(str), labels, source)
    if kinds == {None} and kind is float:
        return raw
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    what, remedy = "a number may be a name or an index", "give the names as text, or name the classes otherwise"
    if kind is bool:
        what, remedy = "a boolean may be either", "give the names as text, or indices as integers"
    msg = f"{source}: with the labels {shown}, {what}; {remedy}"
    raise DataError(msg)


def _value_of(label: str) -> tuple[type, Decimal] | None:
    """Return what a label looks like: a boolean or a number, and its value; None for other names."""
    text = canonical(label)
    if text.lower() in _BOOLEANS:
        return bool, Decimal(_BOOLEANS[text.lower()])
    return (float, Decimal(text)) if is_number(text) else None  # exact, also for an id of twenty digits


def _are_indices(labels: Sequence[str]) -> bool:
    return tuple(labels) == tuple(map(str, range(len(labels))))


def _index_text(names: RawArray, labels: Sequence[str], source: str) -> RawArray:
    if not labels:
        examples = sorted(set(names.reshape(-1).tolist()))[:8]
        msg = f"{source}: got text ({', '.join(examples)}, …); list the class names in the model document under labels"
        raise DataError(msg)
    distinct, inverse = np.unique(names.reshape(-1), return_inverse=True)
    index_of = dict(_equal_names(distinct.tolist(), labels))
    unknown = [name for name in distinct.tolist() if name not in index_of]
    if unknown:
        row = int(np.argmax(names.reshape(-1) == unknown[0]))
        msg = f'{source}: row {row + 1}: "{unknown[0]}" is not one of the labels{suggestion(unknown[0], labels)}'
        raise DataError(msg)
    return np.array([index_of[name] for name in distinct.tolist()], np.int64)[inverse].reshape(names.shape)


def _equal_names(names: Sequence[str], labels: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the names that equal a label, with its index: by text, by canonical text, or by the value of both."""
    exact = {label: index for index, label in enumerate(labels)}
    plain = _unique((canonical(label), index) for index, label in enumerate(labels))
    values = _unique((value, index) for index, label in enumerate(labels) if (value := _value_of(label)) is not None)
    for name in names:
        found = exact.get(name, plain.get(canonical(name)))
        if found is None and (value := _value_of(name)) is not None:
            found = values.get(value)
        if found is not None:
            yield name, found


def _unique(pairs: Any) -> dict[Any, int]:
    """Return a mapping without the keys that occur twice, because these say nothing."""
    mapping: dict[Any, int] = {}
    twice = set()
    for key, value in pairs:
        twice |= {key} if key in mapping else set()
        mapping[key] = value
    return {key: value for key, value in mapping.items() if key not in twice}


def labels_of(raw: RawArray | None, spec: ModelSpec, loss: TargetRules, source: str) -> tuple[str, ...]:
    """Return the sorted class names if targets are text and the model has no labels; otherwise the model's labels.

    Raises DataError if the number of outputs does not fit the number of classes.
    """
    width = spec.output_shape[-1]
    if raw is None or raw.dtype.kind not in "US" or spec.labels or not are_classes(spec, loss):
        return spec.labels
    labels = class_names(raw, source)
    if len(labels) != 2 and not loss.takes_classes():
        msg = f"{source}: targets: {loss.name} expects 2 classes, got {len(labels)}; use softmax_cross_entropy"
        raise DataError(msg)
    if len(labels) != max(width, 2):
        shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
        msg = (
            f"{source}: targets: there are {len(labels)} classes ({shown}), the model has {width} outputs; "
            f"set the units of its last layer to {len(labels)}"
        )
        raise DataError(msg)
    return labels


def class_names(raw: RawArray, source: str) -> tuple[str, ...]:
    """Return the different names in text targets, sorted; names that look equal count once. Raises DataError."""
    return tuple(sorted({canonical(name) for name in np.unique(as_text(raw, source)).tolist()}))


def near_equal(labels: Sequence[str]) -> Iterator[str]:
    """Yield a note for labels that differ only in case, spacing or the form of characters, such as full width."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        key = "".join(unicodedata.normalize("NFKC", label).casefold().split())
        groups.setdefault(key, []).append(label)
    for group in groups.values():
        if len(group) > 1:
            names = ", ".join(f'"{label}"' for label in group)
            difference = "differ only in case, spacing or the form of characters"
            yield f"the classes {names} {difference}; if they are one class, write them alike"


FEW_ROWS = 5
"""Classes of fewer rows are noted."""


def few_rows(
    indices: npt.NDArray[np.int64], labels: Sequence[str], count: int, what: str = "to train on"
) -> Iterator[str]:
    """Yield a note that lists the classes with fewer than FEW_ROWS of the rows."""
    rows = np.bincount(indices, minlength=count)[:count]
    rare = [f"{labels[i] if labels else i} ({rows[i]})" for i in np.flatnonzero(rows < FEW_ROWS).tolist()]
    if rare:
        more = ", …" if len(rare) > 8 else ""
        yield f"classes of fewer than {FEW_ROWS} rows {what}: {', '.join(rare[:8])}{more}"
