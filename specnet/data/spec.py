"""The part of an experiment document that defines the data files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from specnet.arrays.frames import canonical
from specnet.arrays.parameters import ShapeTuple
from specnet.data.files import read_array, read_rows
from specnet.data.image_folder import read_images
from specnet.data.large_arrays import LargeArray, open_large
from specnet.data.raw import TABLES, Note, RawRows, ignore, kind_by_name, kind_of
from specnet.data.raw_entry import RawEntry
from specnet.data.sequences.windows import Windows
from specnet.document.base import Document
from specnet.document.messages import first_duplicate, mismatch, problem
from specnet.errors import DataError
from specnet.fields import Flag, PositiveInteger, Text, as_tuple, expecting
from specnet.spec.model_spec import ModelSpec

MOST_COLUMNS = 2**17
"""Most columns that a document names; a table of more is read with all its columns."""


def _parse_columns(value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and len(value) > MOST_COLUMNS:
        raise problem(f"expected at most {MOST_COLUMNS} columns, got {len(value)}", "too_long")
    if isinstance(value, tuple) and value and all(isinstance(name, str) for name in value):
        duplicate = first_duplicate(value)
        if duplicate is not None:
            raise problem(f'"{duplicate}" appears twice', "duplicate_name")
        return value
    if isinstance(value, str):
        return value
    raise mismatch("a name, or an array of column names", value, "wrong_type")


Columns = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_parse_columns),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


_NUMBER = {"type": "number"}


def _parse_fill(value: Any) -> Any:
    if value is None:
        return None
    numbers = value.values() if isinstance(value, Mapping) else [value]
    for number in numbers:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise mismatch("a number, or an object with a number for each column", number, "wrong_type")
    return {key: float(number) for key, number in value.items()} if isinstance(value, Mapping) else float(value)


Scale = Annotated[float, Field(ge=1e-30, le=1e30), expecting("a positive number, from 1e-30 to 1e30")]
"""Limits that float32 can divide by."""


class DataEntry(Document):
    """A set of rows: one file and the names of its arrays or columns, or separate files for inputs and targets."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "digits.npz", "inputs": "x", "targets": "y"},
                {"inputs": "images.npy", "targets": "labels.npy"},
                {"path": "iris.csv", "targets": "species"},
                {"path": "photos", "scale": 255},
                {"path": "words.npz", "lengths": "lengths"},
                {"path": "power.csv", "inputs": ["load"], "window": 64, "horizon": 1},
                {"path": "names.txt"},
            ]
        }
    )

    path: Text = ""
    """The file (.npz, .csv, .parquet, .h5, .txt), or a folder that has a folder of images for each class; relative to
    the document. Omit it if inputs and targets are files."""
    inputs: Columns | None = None
    """Name of the input array or columns, or, without path, a separate file (.npy, IDX). Default: "x"; in a table, all
    columns except targets and weights."""
    targets: Columns | None = None
    """Name of the target array or column, or, without path, a separate file. Default: "y"; with window, the inputs
    themselves."""
    weights: Text | None = None
    """Name of the array or column with the weight of each row, or, without path, a separate file."""
    lengths: Text | None = None
    """Name of the array with the number of steps of each row, in a .npz or .h5 file whose inputs have the steps of all
    rows, one row behind the other. Rows are padded at the end."""
    window: PositiveInteger | None = None
    """Number of steps of a window: the file holds one long series, and each window of it is a row."""
    horizon: Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer of at least 0")] | None = None
    """Number of steps after a window whose targets are the targets of the window; 0: the target of its last step.
    Default: 1."""
    fill: Annotated[
        float | dict[str, float] | None,
        BeforeValidator(_parse_fill),
        WithJsonSchema({"anyOf": [_NUMBER, {"type": "object", "additionalProperties": _NUMBER}, {"type": "null"}]}),
    ] = None
    """Replacement for missing inputs in a table: a number, or an object with a number for each column."""
    missing: Annotated[tuple[Text, ...] | None, BeforeValidator(as_tuple)] = None
    """Values of a .csv file, without quotes, that mean a missing value, besides the empty one. Default: NA, N/A, n/a,
    #N/A, <NA>, NaN, nan, NULL, null, ?."""
    scale: Scale | None = None
    """Number by which every input value is divided, for example 255 for pixels from 0 to 255; also for the validation
    rows, and in files given to commands with the run's checkpoints."""
    in_memory: Flag | None = None
    """Whether to read all inputs into memory. Default: true, except for .npy and .h5 files of 1 GiB or more."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.path and (self.inputs is None or (self.targets is None and self.window is None)):
            message = "expected the key path, or files under inputs and targets; add one"
            raise problem(message, "missing")
        return self

    @model_validator(mode="after")
    def _is_one_kind_of_sequence(self) -> Self:
        if self.window is None and self.horizon is not None:
            raise problem("horizon is for windows over a series; add window, or leave horizon out", "missing")
        extra = next((key for key in ("lengths", "weights") if getattr(self, key) is not None), "")
        if self.window is not None and extra:
            raise problem(f"windows over a series have no {extra}; leave {extra} or window out", "wrong_value")
        if self.lengths is not None and not self.path:
            message = "lengths names an array of a .npz or .h5 file; name the file under path"
            raise problem(message, "wrong_value")
        return self

    @property
    def windows(self) -> Windows | None:
        """The windows that are the rows; None without window."""
        if self.window is None:
            return None
        return Windows(self.window, 1 if self.horizon is None else self.horizon)

    @property
    def forecasts(self) -> bool:
        """Whether the targets are later steps of the inputs themselves."""
        return self.window is not None and self.targets is None

    def files(self) -> list[str]:
        """Return the paths of the files, as the document states them."""
        if self.path:
            return [self.path]
        return [str(name) for name in (self.inputs, self.targets, self.weights) if name is not None]

    def relocated(self, move: Callable[[str], str]) -> dict[str, Any]:
        """Return the entry as JSON values, with `move` applied to its paths."""
        values = self.model_dump(mode="json")
        for key in ("path",) if self.path else ("inputs", "targets", "weights"):
            values[key] = values[key] and move(values[key])
        return values

    def like(self, other: DataEntry, names: tuple[str, ...]) -> DataEntry:
        """Return the entry; `scale`, `window` and `horizon` are those of `other`, in training, if it leaves them out.

        In a file of the same format, this also holds for columns, arrays, `fill` and `missing`. `names` are the input
        columns used in training. Raises DataError if this entry has different ones.
        """
        defaults: dict[str, Any] = {"scale": other.scale, "window": other.window, "horizon": other.horizon}
        if self.path and other.path and kind_by_name(self.path) == kind_by_name(other.path):
            columns = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
            if names and columns is not None and tuple(map(canonical, columns)) != tuple(map(canonical, names)):
                detail = f"the training columns {', '.join(names)}, got {', '.join(columns)}"
                msg = f"{self.path}: expected {detail}; leave inputs out"
                raise DataError(msg)
            defaults |= {
                "inputs": names or other.inputs,
                "targets": other.targets,
                "weights": other.weights,
                "lengths": other.lengths,
                "fill": other.fill,
                "missing": other.missing,
            }
        return self.model_copy(update={key: value for key, value in defaults.items() if getattr(self, key) is None})

    def read(self, folder: Path, model: ModelSpec, note: Note = ignore, text_targets: bool = False) -> RawEntry:
        """Read the files for a model, a target column as text with `text_targets`; large inputs are only opened.

        Images must have the size of the model's inputs. Calls `note` with what is left out. Raises DataError.
        """
        if not self.path:
            return self._read_arrays(folder)
        path = folder / self.path
        if kind_of(path) in ("npy", "idx"):
            msg = f"{path}: holds one array; without path, name one file each under inputs and targets"
            raise DataError(msg)
        large = self._open_large(path, self.inputs)
        if large is not None:
            rest = read_rows(path, self.targets or "y", None, self.weights)
            rows = rest._replace(inputs=rest.inputs[:0], targets=rest.inputs)
        elif kind_of(path) == "images":
            rows = self._read_images(path, model.input_shape)
        else:
            rows = self._read_file(path, model, note, text_targets)
        return RawEntry(rows, large, self.path, self.path, self.scale, self.windows)

    def _read_file(self, path: Path, model: ModelSpec, note: Note, text_targets: bool) -> RawRows:
        is_text = kind_of(path) == "txt"
        if is_text and (self.targets, self.lengths, self.window) != (None, None, None):
            msg = f"{path}: is text, whose lines are the rows; leave out inputs, targets, weights, lengths and window"
            raise DataError(msg)
        text_inputs = model.tokenizer is not None and kind_of(path) in TABLES
        if text_inputs and self.window is not None:
            msg = f"{path}: the model's tokenizer takes rows of text, not windows; leave window out"
            raise DataError(msg)
        targets = self.targets or (None if is_text or self.forecasts else "y")
        rows = read_rows(
            path,
            self.inputs,
            targets,
            self.weights,
            fill=self.fill,
            missing=self.missing,
            text_targets=text_targets,
            lengths=self.lengths,
            text_inputs=text_inputs,
            shared=self.window is not None,
            note=note,
        )
        return rows if targets or is_text else rows._replace(targets=rows.inputs)

    def _read_arrays(self, folder: Path) -> RawEntry:
        inputs, targets = str(self.inputs), str(self.targets or self.inputs)
        large = self._open_large(folder / inputs, None)
        x = np.empty(0) if large is not None else read_array(folder / inputs)
        weights = None if self.weights is None else read_array(folder / self.weights)
        y = x if targets == inputs else read_array(folder / targets)
        return RawEntry(RawRows(x, y, weights), large, inputs, targets, self.scale, self.windows)

    def _open_large(self, path: Path, name: Columns | None) -> LargeArray | None:
        """Open inputs that stay in their file; None for those to read into memory, as all sequences are."""
        if self.window is None and self.lengths is None:
            return open_large(path, name, in_memory=self.in_memory)
        if self.in_memory is False:
            key = "lengths" if self.window is None else "window"
            msg = f"{path}: with {key}, inputs are in memory; leave in_memory out"
            raise DataError(msg)
        return None

    def _read_images(self, folder: Path, input_shape: ShapeTuple) -> RawRows:
        if any(getattr(self, key) is not None for key in ("inputs", "targets", "weights", "lengths", "window")):
            msg = f"{folder}: is a folder of images, whose names are the classes; leave out inputs, targets and weights"
            raise DataError(msg)
        return read_images(folder, input_shape)


class Fraction(Document):
    """A random fraction of the training rows to hold out, drawn with the seed of the training.

    Of windows over a series, those whose targets are in its last part are held out.
    """

    fraction: Annotated[float, Field(gt=0, lt=1), expecting("a number between 0 and 1")]
    """Fraction of the rows, between 0 and 1."""
    stratify: Flag = True
    """Whether to hold out the same fraction of each class, if targets are classes."""


def _parse_validation(value: Any) -> Any:
    if isinstance(value, (Fraction, DataEntry)) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise mismatch("an object with a fraction or a path", value, "wrong_type")
    return Fraction.nested(value) if "fraction" in value else DataEntry.nested(value)


class DataSpec(Document):
    """The training rows and the validation rows."""

    train: DataEntry
    """The training rows."""
    validation: Annotated[Fraction | DataEntry | None, BeforeValidator(_parse_validation)] = None
    """A fraction of the training rows, or separate rows: columns and fill default to those of the training rows."""

    def entries(self) -> dict[str, DataEntry]:
        """Map "train" and "validation" to their entries, if these name files."""
        entries = {"train": self.train, "validation": self.validation}
        return {key: entry for key, entry in entries.items() if isinstance(entry, DataEntry)}

    def files(self) -> list[str]:
        """Return the paths of all files, as the document states them."""
        return [path for entry in self.entries().values() for path in entry.files()]
