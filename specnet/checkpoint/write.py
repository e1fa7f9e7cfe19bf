"""Saving: HDF5 builds the file's skeleton in memory, plain writes bring it and the arrays to the disk.

The library itself never touches the disk: it would end in a segmentation fault where that is full.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from specnet import __version__
from specnet.checkpoint import format as layout
from specnet.checkpoint.durable import NotDurableError, replace_file, write_at
from specnet.checkpoint.plugins import plugin_records
from specnet.errors import CheckpointError
from specnet.jsontext import parse_json
from specnet.model import Model

ALIGNMENT = 64
PAGE = 4096
YEAR_10000 = 253_402_300_800


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to `path`: document, weights, cached gradients, and the state of its run where there is one.

    Atomic and durable: at every instant the path holds the old checkpoint or the new one, whole. Changes nothing in
    the model. Two saves of one model differ in the time alone; SOURCE_DATE_EPOCH sets that. Raises CheckpointError.
    """
    if not isinstance(model, Model):
        msg = f"save(path, model): expected a Model, got {type(model).__name__}"
        raise CheckpointError(msg)
    try:
        datasets = list(_datasets(model))
        skeleton = _skeleton(datasets, _root_attributes(model, datasets))
    except (ValueError, OverflowError) as error:
        msg = f"{os.fspath(path)}: not saved: {error}"
        raise CheckpointError(msg) from error

    def write(descriptor: int) -> None:
        os.ftruncate(descriptor, skeleton.size)
        for offset, page in skeleton.pages.items():
            write_at(descriptor, offset, memoryview(page)[: skeleton.size - offset])
        for entry, offset in zip(datasets, skeleton.offsets, strict=True):
            data = entry.value if isinstance(entry.value, bytes) else entry.value.reshape(-1).data
            write_at(descriptor, offset, data)

    try:
        replace_file(path, write)
    except NotDurableError as error:
        msg = f"{os.fspath(path)}: saved, but its folder could not be synced: {error.strerror}; a power cut may undo it"
        raise CheckpointError(msg) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"{os.fspath(path)}: not saved: {reason}; what was there before is intact"
        raise CheckpointError(msg) from error


def _datasets(model: Model) -> Iterator[layout.Dataset]:
    text = model.spec.to_json()
    parse_json(text.encode())  # what load would not read is not saved
    yield layout.dataset(layout.MODEL_SPEC, text)
    for name, value in model.parameters.items():
        yield layout.dataset(layout.array_path(name, "parameters"), value)
    for name, value in model.gradients.items():
        yield layout.dataset(layout.array_path(name, "gradients"), value)
    for name, buffer in model.buffers.items():
        yield layout.dataset(layout.array_path(name, "buffers"), buffer)
    yield from layout.run_datasets(model.run_state or {})
    plugins = plugin_records(model.spec.layers)
    if plugins:
        yield layout.dataset(layout.PLUGINS, plugins)


def _root_attributes(model: Model, datasets: Sequence[layout.Dataset]) -> dict[str, int | str]:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given and not (given.isdecimal() and int(given) < YEAR_10000):
        msg = f"SOURCE_DATE_EPOCH: expected seconds since 1970, before the year 10000, got {given!r:.40}"
        raise ValueError(msg)
    seconds = int(given) if given else time.time()
    attributes: dict[str, int | str] = {
        "format": layout.FORMAT,
        "format_version": layout.VERSION,
        "specnet_version": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        "model_sha256": model.spec.identity,
        "content_sha256": layout.content_digest((d.path, d.dtype, d.shape, d.sha256) for d in datasets),
    }
    if _has_history(datasets):
        attributes |= layout.HISTORY_DEFAULT
    return attributes


def _has_history(datasets: Sequence[layout.Dataset]) -> bool:
    return any(entry.path.startswith(f"{layout.HISTORY}/") for entry in datasets)


class _Skeleton(NamedTuple):
    pages: dict[int, bytearray]  # offset -> metadata; zeros where data will lie
    offsets: list[int]  # of the datasets' bytes, in their order
    size: int


class _Memory(io.RawIOBase):
    """What HDF5 takes for the file: keeps the pages that it writes to. Data are never written, so they are few."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.end = 0
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        written = memoryview(data).cast("B")
        for page, start, at, length in self._spans(len(written)):
            self.pages.setdefault(page, bytearray(PAGE))[start : start + length] = written[at : at + length]
        self._position += len(written)
        self.end = max(self.end, self._position)
        return len(written)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for page, start, at, length in self._spans(len(view)):
            view[at : at + length] = self.pages.get(page, bytes(PAGE))[start : start + length]
        self._position += len(view)
        return len(view)

    def _spans(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Cut the next `length` bytes at page borders: (page, start in it, start in the data, length)."""
        at = 0
        while at < length:
            start = (self._position + at) % PAGE
            step = min(PAGE - start, length - at)
            yield self._position + at - start, start, at, step
            at += step

    def truncate(self, size: int | None = None) -> int:
        self.end = self._position if size is None else size
        return self.end

    def flush(self) -> None:
        """Nothing is held back."""


def _skeleton(datasets: Sequence[layout.Dataset], root_attributes: Mapping[str, int | str]) -> _Skeleton:
    memory = _Memory()
    with h5py.File(memory, "w", libver=("v108", "v108"), alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_layout(h5d.CONTIGUOUS)
        creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)  # the place is known at once
        creation.set_fill_time(h5d.FILL_TIME_NEVER)  # and not written to
        creation.set_obj_track_times(False)
        groups: dict[str, h5g.GroupID] = {"": h5g.open(file.id, b"/")}
        offsets = []
        for entry in datasets:
            folder, _, name = entry.path.rpartition("/")
            space = h5s.create_simple(entry.shape) if entry.shape else h5s.create(h5s.SCALAR)
            made = h5d.create(_group(groups, folder), name.encode(), _type(entry), space, creation)
            _attribute(made, layout.DATASET_DIGEST, entry.sha256)
            offsets.append(made.get_offset())
        for name, value in root_attributes.items():
            _attribute(file.id, name, value)
        if _has_history(datasets):
            for name, text in layout.HISTORY_ATTRIBUTES.items():
                _attribute(groups[layout.HISTORY], name, text)
    if any(offset is None or offset % ALIGNMENT for offset in offsets):
        msg = "HDF5 placed a dataset off its alignment"
        raise CheckpointError(msg)
    return _Skeleton(memory.pages, offsets, memory.end)


def _group(groups: dict[str, h5g.GroupID], path: str) -> h5g.GroupID:
    """Give the group at `path`, made with its parents where they are not there yet; without times of day."""
    if path not in groups:
        folder, _, name = path.rpartition("/")
        creation = h5p.create(h5p.GROUP_CREATE)
        creation.set_obj_track_times(False)
        groups[path] = h5g.create(_group(groups, folder), name.encode(), gcpl=creation)
    return groups[path]


def _type(entry: layout.Dataset) -> h5t.TypeID:
    return _text_type(len(entry.value)) if isinstance(entry.value, bytes) else h5t.py_create(entry.value.dtype)


def _text_type(length: int) -> h5t.TypeID:
    made = h5t.C_S1.copy()
    made.set_size(length)
    made.set_strpad(h5t.STR_NULLPAD)
    made.set_cset(h5t.CSET_UTF8)
    return made


def _attribute(owner: Any, name: str, value: int | str) -> None:
    scalar = h5s.create(h5s.SCALAR)
    if isinstance(value, int):
        h5a.create(owner, name.encode(), h5t.STD_I64LE, scalar).write(np.array(value, "<i8"))
    else:
        data = value.encode()
        text = _text_type(len(data))
        h5a.create(owner, name.encode(), text, scalar).write(np.array(data, f"S{len(data)}"), text)
