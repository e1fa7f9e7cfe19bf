"""Data files to arrays that fit a model; whatever does not fit is a DataError that names file, column or row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from specnet.errors import DataError
from specnet.layer import batch_of
from specnet.spec import ModelSpec
from specnet.training.losses import Loss
from specnet.wording import describe, nearest

RawArray: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = str | Sequence[str] | None

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Dataset:
    """Rows ready for a model: inputs of its shape and dtype, targets as the loss takes them."""

    inputs: RawArray
    targets: RawArray

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: RawArray) -> Dataset:
        """Take some rows, copied."""
        return Dataset(self.inputs[indices], self.targets[indices])

    def fingerprint(self) -> str:
        """Give the SHA-256, in hex, of all values: tells whether a run goes on with the data it began with."""
        hasher = hashlib.sha256(np.ascontiguousarray(self.inputs).data)
        hasher.update(np.ascontiguousarray(self.targets).data)
        return hasher.hexdigest()


def read_columns(
    path: Path, inputs: Columns, targets: Columns, beside: str | None = None
) -> tuple[RawArray, RawArray | None]:
    """Read the arrays named `inputs` and `targets` from one file; None for targets that are not wanted.

    Formats by suffix: .npz and .h5 (names of arrays), .csv (names of columns; inputs None: all others, without
    `beside`), .npy and IDX (the one array of the file). Raises DataError.
    """
    kind = kind_of(path)
    if kind == "csv":
        return _read_csv(path, inputs, targets, beside)
    if kind in ("npy", "idx"):
        if targets is not None:
            msg = f"{path}: a .{kind} file holds one array; give the targets a file of their own"
            raise DataError(msg)
        return read_array(path), None
    read = _read_npz if kind == "npz" else _read_hdf5
    names = ["x" if inputs is None else inputs, *([] if targets is None else [targets])]
    if not all(isinstance(name, str) for name in names):
        msg = f"{path}: expected the name of one array, got a list; only CSV files have columns"
        raise DataError(msg)
    arrays = _guarded(path, lambda: read(path, [str(name) for name in names]))
    return arrays[0], arrays[1] if len(arrays) > 1 else None


def read_array(path: Path) -> RawArray:
    """Read the one array of a .npy or IDX file. Raises DataError."""
    kind = kind_of(path)
    if kind not in ("npy", "idx"):
        msg = f"{path}: expected a .npy or IDX file; for other files write their name under path"
        raise DataError(msg)
    return _guarded(path, lambda: _read_npy(path) if kind == "npy" else _read_idx(path))


def kind_of(path: Path) -> str:
    """Tell the kind of a data file by its name. Raises DataError."""
    name = path.name.lower()
    for suffix, kind in ((".npz", "npz"), (".npy", "npy"), (".csv", "csv"), (".h5", "h5"), (".hdf5", "h5")):
        if name.endswith(suffix):
            return kind
    stem = name.removesuffix(".gz")
    if stem.endswith((".idx", "ubyte")) or "-idx" in stem or ".idx" in stem:
        return "idx"
    msg = (
        f"{path}: unknown kind of data file; expected .npz, .npy, .csv, .h5 or IDX (.idx, -ubyte, with or without .gz)"
    )
    raise DataError(msg)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DataError:
        raise
    except FileNotFoundError:
        msg = f"{path}: there is no such file"
        raise DataError(msg) from None
    except MemoryError:
        msg = f"{path}: does not fit into memory"
        raise DataError(msg) from None
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        msg = f"{path}: cannot be read: {reason}"
        raise DataError(msg) from error


def _pick(path: Path, name: str, names: Iterable[str], what: str) -> str:
    names = list(names)
    if name not in names:
        msg = f'{path}: there is no {what} "{name}"{nearest(name, names)}'
        raise DataError(msg)
    return name


def _read_npz(path: Path, names: Sequence[str]) -> list[RawArray]:
    with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
        return [file[_pick(path, name, file.files, "array")] for name in names]


def _read_npy(path: Path) -> RawArray:
    with path.open("rb") as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)


def _read_hdf5(path: Path, names: Sequence[str]) -> list[RawArray]:
    import h5py  # noqa: PLC0415 - heavy, and needed for this format only

    arrays = []
    with h5py.File(path, "r", locking=False) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            stored = file[_pick(path, name.strip("/"), found, "dataset")]
            text = h5py.check_string_dtype(stored.dtype)
            arrays.append(np.asarray(stored.asstr()[()] if text else stored[()]))
    return [array.astype(str) if array.dtype.kind == "O" else array for array in arrays]


def _read_idx(path: Path) -> RawArray:
    """Read the format of the MNIST files: two zero bytes, type, rank, sizes (big-endian), data."""
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES:
            msg = f"{path}: is no IDX file: its first bytes are {head.hex(' ') or 'missing'}"
            raise DataError(msg)
        dtype, rank = np.dtype(_IDX_TYPES[head[2]]), head[3]
        sizes = file.read(4 * rank)
        shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
        size = dtype.itemsize * math.prod(shape)
        data = file.read(size + 1) if len(sizes) == 4 * rank and size < 2**40 else b""
    if len(sizes) != 4 * rank or len(data) != size:
        msg = f"{path}: is not whole: its head promises shape {shape}, {size} bytes; {len(data)} are there"
        raise DataError(msg)
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _read_csv(path: Path, inputs: Columns, targets: Columns, beside: str | None) -> tuple[RawArray, RawArray | None]:
    header, rows = _guarded(path, lambda: _csv_rows(path))
    target_names = [targets] if isinstance(targets, str) else list(targets or [])
    input_names = [inputs] if isinstance(inputs, str) else list(inputs or [])
    for name in (*target_names, *input_names):
        _pick(path, name, header, "column")
    input_names = input_names or [name for name in header if name not in (*target_names, beside)]
    x = _numbers(path, header, rows, input_names)
    if not target_names:
        return x, None
    if len(target_names) > 1:
        return x, _numbers(path, header, rows, target_names)
    column = [row.cells[header.index(target_names[0])] for row in rows]
    if all(_is_number(cell) for cell in column if cell.strip()):
        return x, _numbers(path, header, rows, target_names)[:, 0]
    for index, (row, cell) in enumerate(zip(rows, column, strict=True)):
        if not cell.strip():
            msg = f'{path}: row {index + 1} (line {row.line}), column "{target_names[0]}": a value is missing'
            raise DataError(msg)
    return x, np.array(column)


class _Row(NamedTuple):
    line: int  # in the file, from 1
    cells: list[str]


def _csv_rows(path: Path) -> tuple[list[str], list[_Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        rows: list[_Row] = []
        try:
            header = next(reader, [])
            for row in reader:
                if row and len(row) != len(header):
                    place = f"{path}: row {len(rows) + 1} (line {reader.line_num})"
                    msg = f"{place} has {len(row)} columns, the header has {len(header)}"
                    raise DataError(msg)
                if row:
                    rows.append(_Row(reader.line_num, row))
        except csv.Error as error:
            msg = f"{path}: row {len(rows) + 1} (line {reader.line_num}): {error}"
            raise DataError(msg) from None
    if not rows:
        msg = f"{path}: there are no rows below the header"
        raise DataError(msg)
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        msg = f'{path}: the column "{twice}" stands in the header twice'
        raise DataError(msg)
    return header, rows


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _numbers(path: Path, header: list[str], rows: list[_Row], names: list[str]) -> RawArray:
    places = [header.index(name) for name in names]
    table = np.empty((len(rows), len(names)))
    for index, row in enumerate(rows):
        for column, place in enumerate(places):
            cell = row.cells[place]
            if not _is_number(cell):
                found = describe(cell) if cell.strip() else "nothing"
                where = f'row {index + 1} (line {row.line}), column "{names[column]}"'
                msg = f"{path}: {where}: expected a number, got {found}"
                raise DataError(msg)
            table[index, column] = float(cell)
    return table


def fit_inputs(raw: RawArray, spec: ModelSpec, source: str, *, trained: bool = False) -> RawArray:
    """Bring inputs into the model's shape and dtype. Raises DataError, also for NaN and infinity.

    A `trained` model cannot be given another shape; the error then advises to choose other inputs.
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
        return _below(raw, limit, "an integer", f"{source}: inputs")
    return _finite(raw, np.dtype(spec.dtype), f"{source}: inputs")


def _finite(raw: RawArray, dtype: np.dtype[Any], source: str) -> RawArray:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw, dtype)
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        found = raw[tuple(place)]
        why = f", which {dtype.name} cannot hold" if np.isfinite(found) else ""
        msg = f"{source}: {_place(place)}: expected a finite number, got {found}{why}"
        raise DataError(msg)
    return values


def fit_targets(raw: RawArray, spec: ModelSpec, loss: Loss, rows: int, source: str) -> RawArray:
    """Bring targets into the form the loss takes: class indices (int64), or numbers of the output's shape.

    Text is looked up in the model's `labels`. Raises DataError.
    """
    source = f"{source}: targets"
    if raw.ndim == 0 or len(raw) != rows:
        msg = f"{source}: expected {rows} rows, as the inputs have, got {len(raw) if raw.ndim else 'a single value'}"
        raise DataError(msg)
    classes = loss.takes_classes()
    if raw.dtype.kind in "US" and classes:
        try:
            raw = raw.astype(str)
        except UnicodeDecodeError:
            msg = f"{source}: got bytes that are no ASCII text"
            raise DataError(msg) from None
        raw = _by_label(raw, spec, source)
    if raw.dtype.kind not in "biuf":
        msg = f"{source}: expected numbers, got {raw.dtype}"
        raise DataError(msg)
    if classes:
        return _classes(raw, spec.output_shape[-1], source)
    expected = (rows, *spec.output_shape)
    if raw.shape == (rows,) and spec.output_shape == (1,):
        raw = raw[:, np.newaxis]
    if raw.shape != expected:
        msg = f"{source}: the model's outputs have shape {batch_of(spec.output_shape)}, got {raw.shape}"
        raise DataError(msg)
    values = _finite(raw, np.dtype(spec.dtype), source)
    if loss.target_bounds is not None:
        low, high = loss.target_bounds
        wrong = (values < low) | (values > high)
        if wrong.any():
            place = np.argwhere(wrong)[0]
            takes = f"{loss.name} takes targets from {low:g} to {high:g}"
            msg = f"{source}: {_place(place)}: {takes}, got {raw[tuple(place)]}"
            raise DataError(msg)
    return values


def _by_label(raw: RawArray, spec: ModelSpec, source: str) -> RawArray:
    if not spec.labels:
        found = sorted(set(raw.reshape(-1).tolist()))[:8]
        msg = f"{source}: got text ({', '.join(found)}, …); name the classes in the model document: labels"
        raise DataError(msg)
    indices = {label: index for index, label in enumerate(spec.labels)}
    for row, name in enumerate(raw.reshape(-1)):
        if name not in indices:
            msg = f'{source}: row {row + 1}: "{name}" is not one of the labels{nearest(str(name), spec.labels)}'
            raise DataError(msg)
    return np.array([indices[name] for name in raw.reshape(-1)], np.int64).reshape(raw.shape)


def _classes(raw: RawArray, count: int, source: str) -> RawArray:
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        msg = f"{source}: expected one class index a row, got shape {raw.shape}"
        raise DataError(msg)
    return _below(raw, count, "a class", source)


def _below(raw: RawArray, count: int, what: str, source: str) -> npt.NDArray[np.int64]:
    """Check that all are whole numbers from 0 to count - 1."""
    with np.errstate(invalid="ignore"):
        wrong = (raw < 0) | (raw >= count) | (np.floor(raw) != raw) | np.isnan(raw)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        msg = f"{source}: {_place(place)}: expected {what} from 0 to {count - 1}, got {raw[tuple(place)]}"
        raise DataError(msg)
    return raw.astype(np.int64)


def _place(place: Sequence[int]) -> str:
    """Name a value's place in an array as people count: row 3, column 1."""
    column = f", column {', '.join(str(at + 1) for at in place[1:])}" if len(place) > 1 else ""
    return f"row {place[0] + 1}{column}"
