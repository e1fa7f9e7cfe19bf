"""Data files: the arrays of .npz, .npy, .h5 and IDX files; tables (.csv, .parquet) are read by tables.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from specnet.data.raw import (
    IDX_TYPES,
    STEPWISE,
    TABLES,
    Columns,
    Fill,
    Note,
    RawArray,
    RawRows,
    checked_text,
    guarded,
    ignore,
    kind_of,
    pick,
    refuse_bomb,
    text_array,
    unpacked,
)
from specnet.data.sequences.text import read_lines
from specnet.errors import DataError
from specnet.files.hdf5_storage import storage_fault
from specnet.files.regular import check_regular, open_regular

PART_BYTES = 2**20
"""Bytes that are unpacked at once."""


def read_rows(
    path: Path,
    inputs: Columns = None,
    targets: Columns = None,
    weights: str | None = None,
    *,
    beside: Sequence[str] = (),
    fill: Fill = None,
    missing: Sequence[str] | None = None,
    text_targets: bool = False,
    lengths: str | None = None,
    text_inputs: bool = False,
    shared: bool = False,
    note: Note = ignore,
) -> RawRows:
    """Read arrays or columns by name from one file. With None for targets or weights, these are not read.

    Formats by suffix: .npz and .h5 (names of arrays), .csv and .parquet (names of columns; with None for inputs, all
    columns except targets, weights and those in `beside`; `fill` replaces missing values, in a .csv those in `missing`;
    with `text_targets` a target column is read as text, with `text_inputs` the one input column is text, and with
    `shared` a column may be an input and a target), .npy and IDX (the one array of the file), .txt (its lines).
    `lengths` names the array of the lengths of rows. Raises DataError.
    """
    kind = kind_of(path)
    if kind == "txt":
        if inputs is not None or weights is not None:
            msg = f"{path}: is text, whose lines are the rows; leave out inputs, targets, weights, lengths and window"
            raise DataError(msg)
        return read_lines(path, note)
    if lengths is not None and kind not in ("npz", "h5"):
        msg = f"{path}: only .npz and .h5 files have an array of lengths; in a .parquet file, rows are lists"
        raise DataError(msg)
    if kind in TABLES:
        from specnet.data.tables import open_table, rows_of  # noqa: PLC0415 - needs an extra

        return rows_of(
            open_table(path, missing, note),
            inputs,
            targets,
            weights,
            beside=beside,
            fill=fill,
            text_targets=text_targets,
            text_inputs=text_inputs,
            shared=shared,
        )
    if kind == "images":
        msg = f"{path}: is a folder, expected a file; only the data entry of an experiment can be a folder of images"
        raise DataError(msg)
    if kind in ("npy", "idx"):
        if targets is not None or weights is not None:
            msg = f"{path}: a .{kind} file holds one array; put targets and weights in separate files"
            raise DataError(msg)
        return RawRows(read_array(path))
    wanted = ("x" if inputs is None else inputs, targets, weights, lengths)
    names = [array_name(path, name) for name in wanted if name]
    read = _read_npz if kind == "npz" else _read_hdf5
    arrays = iter([checked_text(path, array) for array in guarded(path, lambda: read(path, names))])
    x, y, w, counts = (next(arrays) if name else None for name in wanted)
    assert x is not None
    return RawRows(x, y, w, lengths=counts)


def array_name(path: Path, name: Columns) -> str:
    """Check that `name` is the name of one array, and return it. Raises DataError."""
    if not isinstance(name, str):
        msg = f"{path}: expected the name of one array, got a list; only tables (.csv, .parquet) have columns"
        raise DataError(msg)
    return name


def read_array(path: Path) -> RawArray:
    """Read the one array of a .npy or IDX file. Raises DataError."""
    kind = kind_of(path)
    if kind not in ("npy", "idx"):
        msg = f"{path}: expected a .npy or IDX file; name files of other formats under path"
        raise DataError(msg)
    array: RawArray = guarded(path, lambda: _read_npy(path) if kind == "npy" else _read_idx(path))
    return checked_text(path, array)


def _read_npz(path: Path, names: Sequence[str]) -> list[RawArray]:
    with open_regular(path) as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
        picked = [pick(path, name, file.files, "array") for name in names]
        members = file.zip.namelist()  # type: ignore[union-attr]  # it is open
        sizes = {name.removesuffix(".npy"): file.zip.getinfo(name).file_size for name in members}  # type: ignore[union-attr]
        for info in file.zip.infolist():  # type: ignore[union-attr]
            if info.compress_type not in STEPWISE:
                msg = f"{path}: {info.filename} is compressed by another method than numpy's; write it with numpy.savez"
                raise DataError(msg)
        refuse_bomb(path, sum(sizes[name] for name in picked))
        return [file[name] for name in picked]


def _read_npy(path: Path) -> RawArray:
    with open_regular(path) as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading, without a lock, so that it also opens on network file systems."""
    import h5py  # noqa: PLC0415 - slow to import, and needed only for this format

    check_regular(path)
    return h5py.File(path, "r", locking=False)


def pick_dataset(path: Path, file: Any, name: str) -> Any:
    """Return a dataset by its path, if its values are in this file. Raises DataError, which suggests a similar path."""
    paths: list[str] = []
    file.visititems(lambda name, item: paths.append(name) if hasattr(item, "dtype") else None)
    dataset = file[pick(path, name.strip("/"), paths, "dataset")]
    fault = storage_fault(dataset.id)
    if fault:
        msg = f'{path}: the dataset "{name}" uses {fault}; expected values in this file, copy them into it'
        raise DataError(msg)
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if len(set(filters)) < len(filters):
        msg = f'{path}: the dataset "{name}" is compressed twice; store it with one filter'
        raise DataError(msg)
    refuse_bomb(path, math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)  # a chunk is unpacked as a whole
    return dataset


def _read_hdf5(path: Path, names: Sequence[str]) -> list[RawArray]:
    arrays = []
    with open_hdf5(path) as file:
        for name in names:
            dataset = pick_dataset(path, file, name)
            refuse_bomb(path, dataset.nbytes)
            if dataset.dtype.kind == "O":
                text = np.asarray(dataset.asstr()[()])
                flat = text_array(path, text.reshape(-1).tolist(), f'dataset "{name}"')
                arrays.append(flat.reshape(text.shape))
            else:
                arrays.append(np.asarray(dataset[()]))
    return arrays


def _read_idx(path: Path) -> RawArray:
    """Read an IDX file, the format of MNIST: two zero bytes, type, rank, sizes (big-endian), data."""
    with open_regular(path) as opened, unpacked(opened) as file:
        header = file.read(4)
        if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in IDX_TYPES:
            msg = f"{path}: is not an IDX file: its first bytes are {header.hex(' ') or 'missing'}"
            raise DataError(msg)
        dtype, rank = np.dtype(IDX_TYPES[header[2]]), header[3]
        sizes = file.read(4 * rank)
        shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
        size = dtype.itemsize * math.prod(shape)
        refuse_bomb(path, size)
        array = np.empty(shape, dtype)
        found = _read_into(file, array) + len(file.read(1)) if len(sizes) == 4 * rank else 0
    if len(sizes) != 4 * rank or found != size:
        msg = f"{path}: does not match its header: expected {size} bytes for shape {shape}, got {found}"
        raise DataError(msg)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_into(file: BinaryIO, array: RawArray) -> int:
    """Fill an array from a file in parts, so that memory holds it once; return the number of bytes read."""
    view, done = array.reshape(-1).view(np.uint8).data, 0
    while part := file.read(min(len(view) - done, PART_BYTES)):
        view[done : done + len(part)] = part
        done += len(part)
    return done
