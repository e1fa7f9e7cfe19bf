"""Read a foreign HDF5 file: `python sandbox_child.py FILE OUT BYTES MEMORY` writes its datasets and attributes to OUT.

OUT is an .npz file; BYTES limits arrays and attributes in total, MEMORY the address space. This is a separate process
because the HDF5 library can crash or hang on malicious files. It imports nothing from specnet, but runs one file of it.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


_STORAGE = Path(__file__).parents[2] / "files" / "hdf5_storage.py"


storage_fault = runpy.run_path(str(_STORAGE))["storage_fault"]


class Budget:
    """The bytes that may still be read."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, path: str, size: int) -> None:
        """Refuse the object if it exceeds what is left."""
        self.left -= size
        if self.left < 0:
            _refuse(path, "exceeds the limit: all arrays together are far larger than the file")


def _walk_objects(group: Any, addresses: set[Any]) -> Iterator[Any]:
    """Yield all objects below a group; refuse links other than hard links, and objects with two names."""
    for name in group:
        path = f"{group.name.rstrip('/')}/{name}"
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            _refuse(path, "is a soft or external link, which specnet does not follow")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in addresses:
            _refuse(path, "is a second name of another object")
        addresses.add(address)
        if not isinstance(item, (h5py.Group, h5py.Dataset)):
            _refuse(path, "is neither a group nor a dataset")
        # Before anything is asked of a dataset: its shape alone can open other files.
        fault = storage_fault(item.id) if isinstance(item, h5py.Dataset) else ""
        if fault:
            _refuse(path, f"uses a form of storage that specnet does not support: {fault}")
        yield item
        if isinstance(item, h5py.Group):
            yield from _walk_objects(item, addresses)


def _read_dataset(item: Any, budget: Budget) -> npt.NDArray[Any]:
    """Read a dataset of numbers or text; return text as bytes."""
    properties = item.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    text = h5py.check_string_dtype(item.dtype) is not None
    if not filters <= FILTERS or item.shape is None:
        _refuse(item.name, "uses a form of storage that specnet does not support")
    if item.dtype.kind not in "iuf" and not text:
        _refuse(item.name, f"has the type {item.dtype}, expected numbers or text")
    if not text and item.nbytes > 1000 * item.id.get_storage_size():
        _refuse(item.name, f"claims {item.nbytes:,} bytes, more than 1,000 times what is stored")
    # HDF5 unpacks whole chunks, and a chunk can be larger than its dataset.
    budget.take(item.name, max(item.nbytes, math.prod(item.chunks or (0,)) * item.dtype.itemsize))
    value = item[()]
    if isinstance(value, bytes):
        budget.take(item.name, len(value))
        return np.frombuffer(value, np.uint8)
    if value.dtype.kind == "O":  # many elements can share one stored text, and an array gives each the longest's size
        budget.take(item.name, value.size * max(map(len, value.reshape(-1)), default=0))
        value = value.astype("S")
    return np.asarray(value)


def _read_attributes(item: Any, budget: Budget) -> dict[str, Any]:
    """Return attributes that are numbers or text, single or in lists, as JSON values; skip those of other types."""
    attributes = {}
    for name in item.attrs:
        dtype = item.attrs.get_id(name).dtype
        if dtype.kind in "iuf" or h5py.check_string_dtype(dtype) is not None:
            value = item.attrs[name]
            json_value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            attributes[name] = _decode(json_value)
            budget.take(f"{item.name}: the attribute {name}", _length(attributes[name]))
    return attributes


def _length(value: Any) -> int:
    """Return about how many bytes an attribute takes as JSON text."""
    return sum(map(_length, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 8


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(inner) for inner in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _refuse(path: str, why: str) -> None:
    raise SystemExit(f"{path} {why}")


def main(source: str, out: str, allowed: int) -> None:
    """Read `source` and write its content to `out`; refuse more than `allowed` bytes of arrays and attributes."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    paths: list[str] = []
    budget = Budget(allowed)
    with h5py.File(source, "r", locking=False) as file:
        attributes = {"/": _read_attributes(file, budget)}
        for item in _walk_objects(file, {h5py.h5o.get_info(file.id).addr}):
            attributes[item.name] = _read_attributes(item, budget)
            if isinstance(item, h5py.Dataset):
                arrays[str(len(paths))] = _read_dataset(item, budget)
                paths.append(item.name)
    index = json.dumps({"paths": paths, "attributes": attributes})
    np.savez(out, index=np.frombuffer(index.encode("utf-8", "surrogateescape"), np.uint8), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        import resource

        memory = int(sys.argv[4])
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        sys.stderr.write("")  # Windows does not have these limits
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
