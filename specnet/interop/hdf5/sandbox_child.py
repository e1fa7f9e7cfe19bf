"""Reads a foreign HDF5 file: `python sandbox_child.py FILE OUT BYTES` writes all datasets and attributes to OUT (.npz).

It runs in a process of its own, as the HDF5 library crashes or hangs on forged files. It imports nothing of specnet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


def _objects(group: Any, seen: set[Any]) -> Iterator[Any]:
    """Walk all objects, by hard links alone; refuse the other links and an object of two names."""
    for name in group:
        path = f"{group.name.rstrip('/')}/{name}"
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            _refuse(path, "is a link to elsewhere")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            _refuse(path, "is reached by two names")
        seen.add(address)
        if not isinstance(item, (h5py.Group, h5py.Dataset)):
            _refuse(path, "is neither a group nor a dataset")
        yield item
        if isinstance(item, h5py.Group):
            yield from _objects(item, seen)


def _array(item: Any) -> npt.NDArray[Any]:
    """Read a dataset of numbers or text that lies whole in this file; text comes as its bytes."""
    properties = item.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    text = h5py.check_string_dtype(item.dtype) is not None
    if item.external or item.is_virtual or not filters <= FILTERS or item.shape is None:
        _refuse(item.name, "is stored in a way that specnet does not follow")
    if item.dtype.kind not in "iuf" and not text:
        _refuse(item.name, f"is of the type {item.dtype}, expected numbers or text")
    if not text and item.nbytes > 1000 * item.id.get_storage_size():
        _refuse(item.name, f"claims {item.nbytes:,} bytes, more than 1,000 times what is stored")
    value = item[()]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    return np.asarray(value.astype("S") if value.dtype.kind == "O" else value)


def _attributes(item: Any) -> dict[str, Any]:
    """Give numbers and text, single or in lists, as JSON knows them; what is of another type is left out."""
    found = {}
    for name in item.attrs:
        kind = item.attrs.get_id(name).dtype
        if kind.kind in "iuf" or h5py.check_string_dtype(kind) is not None:
            value = item.attrs[name]
            plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            found[name] = _decoded(plain)
    return found


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(inner) for inner in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _refuse(path: str, why: str) -> None:
    raise SystemExit(f"{path} {why}")


def main(source: str, out: str, allowed: int) -> None:
    """Read `source`, of which all arrays together are to have at most `allowed` bytes, into `out`."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    paths: list[str] = []
    with h5py.File(source, "r", locking=False) as file:
        attributes = {"/": _attributes(file)}
        for item in _objects(file, {h5py.h5o.get_info(file.id).addr}):
            attributes[item.name] = _attributes(item)
            if isinstance(item, h5py.Dataset):
                allowed -= item.nbytes
                if allowed < 0:
                    _refuse(item.name, "is one too many: together they are far larger than the file")
                arrays[str(len(paths))] = _array(item)
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
        sys.stderr.write("")  # Windows has no limits of this kind
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
