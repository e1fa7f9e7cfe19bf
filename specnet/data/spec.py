"""The part of an experiment document that says where the rows come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from specnet.data.conform import (
    TargetRules,
    conform_inputs,
    conform_targets,
    conform_weights,
    labels_of,
    refuse_lost_digits,
)
from specnet.data.dataset import Dataset
from specnet.data.files import read_array, read_rows
from specnet.data.large_arrays import LargeArray, open_large
from specnet.data.raw import RawRows, kind_of
from specnet.data.streaming import AnyDataset, StreamedDataset
from specnet.document.base import Document
from specnet.document.messages import mismatch, problem
from specnet.errors import DataError
from specnet.fields import Flag, Text, expecting
from specnet.spec.model_spec import ModelSpec


def _columns(value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and value and all(isinstance(name, str) for name in value):
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise problem(f'"{twice[0]}" stands here twice', "duplicate_name")
        return value
    if isinstance(value, str):
        return value
    raise mismatch("a name, or an array of column names", value, "wrong_type")


Columns = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_columns),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


_NUMBER = {"type": "number"}


def _fill(value: Any) -> Any:
    if value is None:
        return None
    numbers = value.values() if isinstance(value, Mapping) else [value]
    for number in numbers:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise mismatch("a number, or an object with a number for each column", number, "wrong_type")
    return {key: float(number) for key, number in value.items()} if isinstance(value, Mapping) else float(value)


class DataEntry(Document):
    """One set of rows: a file and the names of its arrays or columns, or one file each for inputs and targets."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "digits.npz", "inputs": "x", "targets": "y"},
                {"inputs": "images.npy", "targets": "labels.npy"},
                {"path": "iris.csv", "targets": "species"},
            ]
        }
    )

    path: Text = ""
    """The file (.npz, .csv, .parquet, .h5), relative to the document. Left out where inputs and targets are files."""
    inputs: Columns | None = None
    """Name of the inputs' array or columns, or, without path, their own file (.npy, IDX). Default: "x"; in a table all
    columns but targets and weights."""
    targets: Columns | None = None
    """Name of the targets' array or column, or, without path, their own file. Default: "y"."""
    weights: Text | None = None
    """Name of an array or column that says how much each row counts, or, without path, its own file."""
    fill: Annotated[
        float | dict[str, float] | None,
        BeforeValidator(_fill),
        WithJsonSchema({"anyOf": [_NUMBER, {"type": "object", "additionalProperties": _NUMBER}, {"type": "null"}]}),
    ] = None
    """In a table, what to take for missing inputs: a number, or an object with one for each column."""
    in_memory: Flag | None = None
    """Whether the inputs are read whole. Default: unless they are a .npy or .h5 file of 1 GiB or more."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.path and (self.inputs is None or self.targets is None):
            message = "expected the key path, or files under inputs and targets; add one"
            raise problem(message, "missing")
        return self

    def files(self) -> list[str]:
        """List the paths of the files, as they are written."""
        if self.path:
            return [self.path]
        return [str(name) for name in (self.inputs, self.targets, self.weights) if name is not None]

    def relocated(self, move: Callable[[str], str]) -> dict[str, Any]:
        """Write the entry with its paths changed."""
        written = self.model_dump(mode="json")
        for key in ("path",) if self.path else ("inputs", "targets", "weights"):
            written[key] = written[key] and move(written[key])
        return written

    def like(self, other: DataEntry, names: tuple[str, ...]) -> DataEntry:
        """Take over from the training entry what this one leaves out: the columns of a table, the arrays of a file.

        `names` are the columns that training has taken. Raises DataError for other columns.
        """
        if not self.path or not other.path or kind_of(Path(self.path)) != kind_of(Path(other.path)):
            return self
        asked = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        if names and asked is not None and asked != names:
            told = f"the training's columns {', '.join(names)}, got {', '.join(asked)}"
            msg = f"{self.path}: expected {told}; leave inputs out"
            raise DataError(msg)
        mine = {"inputs": names or other.inputs, "targets": other.targets, "fill": other.fill}
        return self.model_copy(update={key: value for key, value in mine.items() if getattr(self, key) is None})

    def read(self, folder: Path) -> RawEntry:
        """Read what the files hold; large inputs are only opened. Raises DataError."""
        if self.path:
            path = folder / self.path
            if kind_of(path) in ("npy", "idx"):
                msg = f"{path}: holds one array; give inputs and targets a file each, without path"
                raise DataError(msg)
            large = open_large(path, self.inputs, in_memory=self.in_memory)
            if large is None:
                named = self.inputs, self.targets or "y", self.weights
                return RawEntry(read_rows(path, *named, fill=self.fill), None, self.path, self.path)
            rest = read_rows(path, self.targets or "y", None, self.weights)
            return RawEntry(rest._replace(inputs=rest.inputs[:0], targets=rest.inputs), large, self.path, self.path)
        inputs, targets = str(self.inputs), str(self.targets)
        large = open_large(folder / inputs, None, in_memory=self.in_memory)
        x = np.empty(0) if large is not None else read_array(folder / inputs)
        weights = None if self.weights is None else read_array(folder / self.weights)
        return RawEntry(RawRows(x, read_array(folder / targets), weights), large, inputs, targets)


class RawEntry(NamedTuple):
    """What the files of an entry hold, and how to call them in messages; `large` are inputs that stay in the file."""

    rows: RawRows
    large: LargeArray | None
    source: str
    target_source: str

    def labels(self, spec: ModelSpec, loss: TargetRules) -> tuple[str, ...]:
        """Give the names of the classes: the model document's, or those that text targets name. Raises DataError."""
        return labels_of(self.rows.targets, spec, loss, self.target_source)

    def fit(self, spec: ModelSpec, loss: TargetRules) -> AnyDataset:
        """Fit the rows to a model and its loss. Raises DataError."""
        raw, large = self.rows, self.large
        assert raw.targets is not None
        count = large.shape[0] if large is not None and large.shape else 0
        x = conform_inputs(raw.inputs, spec, self.source, names=raw.names) if large is None else None
        if x is not None:
            refuse_lost_digits(raw.inputs, x, self.source, raw.names)
        count = count if x is None else len(x)
        y = conform_targets(raw.targets, spec, loss, count, self.target_source)
        weights = conform_weights(raw.weights, spec, count, self.target_source)
        if x is None:
            assert large is not None
            return StreamedDataset(large, y, weights, spec, self.source)
        return Dataset(x, y, weights, raw.names)


class Fraction(Document):
    """A share of the training rows, drawn by the training's seed and held out."""

    fraction: Annotated[float, Field(gt=0, lt=1), expecting("a number between 0 and 1")]
    """Share of the rows, between 0 and 1."""
    stratify: Flag = True
    """Whether each class is held out in proportion, where targets are classes."""


def _validation(value: Any) -> Any:
    if isinstance(value, (Fraction, DataEntry)) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise mismatch("an object with a fraction or a path", value, "wrong_type")
    return Fraction.nested(value) if "fraction" in value else DataEntry.nested(value)


class DataSpec(Document):
    """The rows to train on, and those to validate on."""

    train: DataEntry
    """The training rows."""
    validation: Annotated[Fraction | DataEntry | None, BeforeValidator(_validation)] = None
    """A fraction of the training rows, or rows of their own: columns and fill are the training's unless given."""

    def entries(self) -> dict[str, DataEntry]:
        """Map "train" and "validation" to their entries, as far as they name files."""
        both = {"train": self.train, "validation": self.validation}
        return {key: entry for key, entry in both.items() if isinstance(entry, DataEntry)}

    def files(self) -> list[str]:
        """List the paths of all files, as they are written."""
        return [path for entry in self.entries().values() for path in entry.files()]
