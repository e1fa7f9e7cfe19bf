"""Save a checkpoint: HDF5 builds the file's structures in memory, then plain writes put them and the arrays on disk.

The HDF5 library itself never writes to the disk, because it ends in a segmentation fault when the disk is full.
"""

from __future__ import annotations

import io
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t, version

from specnet.checkpoint import format as layout
from specnet.checkpoint.digests import Digests
from specnet.checkpoint.hdf5.metadata import Reader, lookup3
from specnet.checkpoint.hdf5.structure import walk_structure
from specnet.checkpoint.plugins import plugin_records
from specnet.document.json_text import parse_json
from specnet.errors import CheckpointError
from specnet.files.atomic import NotDurableError, replace_file, reserve, start_writeback, write_at
from specnet.files.hdf5_pages import placed_early, text_type
from specnet.files.sparse import PAGE, SparseFile
from specnet.model import Model
from specnet.version import __version__

ALIGNMENT = 64


LARGE = 2 * PAGE
"""Bytes from which an array is written directly from its memory; smaller arrays are written with their pages."""


HDF5_MEMORY, HDF5_MEMORY_EACH = 2**23, 2**12
"""Most bytes that HDF5 needs, plus those for each dataset; allocated as a test before, as HDF5 does not check."""


SESSION = 4096
"""Datasets after which the file in memory is closed and opened again: HDF5 keeps a list of the gaps that alignment
leaves, and searches all of it for each new dataset."""


WORTH_SYNCING = 2**24
"""Bytes of arrays from which disk space is reserved and writeback starts while the rest is written."""


PLACEHOLDER = "0" * 64
"""Placeholder for a digest until it is computed."""


LEAST_H5PY = 3, 15
"""Older ones record the times of the root group, so that two saves of one model would differ."""


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to `path`: document, weights, cached gradients, and the state of its run if it has one.

    Atomic and durable: at every instant the path holds the complete old checkpoint or the complete new one. The model
    is not changed. Two saves of one model differ only in the time; SOURCE_DATE_EPOCH sets it. Raises CheckpointError.
    """
    if not isinstance(model, Model):
        msg = f"save(path, model): expected a Model, got {type(model).__name__}"
        raise CheckpointError(msg)
    _check_h5py(path)
    try:
        datasets = list(_datasets(model))
        skeleton = _Skeleton(datasets, _root_attributes(model, datasets))
    except (ValueError, OverflowError) as error:
        msg = f"{os.fspath(path)}: not saved: {error}"
        raise CheckpointError(msg) from error
    except MemoryError as error:
        raise _out_of_memory(path) from error

    def write(descriptor: int) -> None:
        large = sum(len(entry.data) for entry in datasets) >= WORTH_SYNCING
        if large:
            reserve(descriptor, max(at + len(entry.data) for entry, at in zip(datasets, skeleton.offsets, strict=True)))
        with Digests() as digests:
            for entry in datasets:
                digests.add(entry.path, entry.data)
            for entry, offset in zip(datasets, skeleton.offsets, strict=True):
                if len(entry.data) >= LARGE:
                    write_at(descriptor, offset, entry.data)
                    if large:  # the disk writes while the rest is written and hashed
                        start_writeback(descriptor, offset, len(entry.data))
            digest_of = digests.finish()
        for offset, page in skeleton.pages(datasets, digest_of):
            write_at(descriptor, offset, page)

    try:
        replace_file(path, write)
    except NotDurableError as error:
        msg = f"{os.fspath(path)}: saved, but its folder could not be synced: {error.strerror}; a power cut may undo it"
        raise CheckpointError(msg) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"{os.fspath(path)}: not saved: {reason}; a previous file is intact"
        raise CheckpointError(msg) from error
    except MemoryError as error:
        raise _out_of_memory(path) from error
    finally:
        skeleton.close()


def _check_h5py(path: str | os.PathLike[str]) -> None:
    if version.version_tuple[:2] < LEAST_H5PY:
        reason = f"h5py {version.version} writes times into the file, which load rejects"
        needed = ".".join(map(str, LEAST_H5PY))
        msg = f"{os.fspath(path)}: not saved: {reason}; pip install 'h5py>={needed}'"
        raise CheckpointError(msg)


def _out_of_memory(path: str | os.PathLike[str]) -> CheckpointError:
    return CheckpointError(f"{os.fspath(path)}: not saved: there is not enough memory; a previous file is intact")


def _datasets(model: Model) -> Iterator[layout.Entry]:
    text = model.spec.to_json()
    parse_json(text.encode())  # rejects what `load` would not read
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


def _root_attributes(model: Model, datasets: Sequence[layout.Entry]) -> dict[str, int | str]:
    attributes: dict[str, int | str] = {
        "format": layout.FORMAT,
        "format_version": layout.VERSION,
        "specnet_version": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(layout.creation_time())),
        "model_sha256": model.spec.identity,
        "content_sha256": PLACEHOLDER,
    }
    if _has_history(datasets):
        attributes |= layout.HISTORY_DEFAULT
    return attributes


def _has_history(datasets: Sequence[layout.Entry]) -> bool:
    return any(entry.path.startswith(f"{layout.HISTORY}/") for entry in datasets)


class _UnusedByteFinder(Reader):
    """Reads a correct file, except that its unused bytes may be nonzero, and records where those are."""

    def __init__(self, file: io.RawIOBase, name: str, size: int) -> None:
        super().__init__(file, name, size)
        self.spans: list[tuple[int, int]] = []
        self._checksummed: dict[int, int] = {}

    def checked(self, offset: int, size: int, signature: bytes, used: int | None = None) -> bytes:
        self._checksummed[offset] = size - 4 if used is None else used
        return super().checked(offset, size, signature, used)

    def unused(self, offset: int, data: bytes, _where: str) -> None:
        if data.strip(b"\0"):
            self.spans.append((offset, offset + len(data)))

    def stale_checksums(self) -> set[tuple[int, int]]:
        """Return offset and checksummed size of each structure whose checksum covers nonzero unused bytes."""
        offsets = sorted(self._checksummed)
        structures = (offsets[bisect_right(offsets, start) - 1] for start, _ in self.spans)
        return {(offset, self._checksummed[offset]) for offset in structures}


class _Skeleton:
    """The file without its arrays, built by HDF5 in memory. Offsets of the arrays are known before their digests."""

    def __init__(self, datasets: Sequence[layout.Entry], root_attributes: Mapping[str, int | str]) -> None:
        bytearray(HDF5_MEMORY + HDF5_MEMORY_EACH * len(datasets))  # raises MemoryError; HDF5 would crash
        self._memory = SparseFile()
        self._created: set[str] = set()  # paths of all groups, also of closed sessions
        self._open("w")
        creation = placed_early()
        self.offsets: list[int] = []
        for index, entry in enumerate(datasets):
            if index and index % SESSION == 0:
                self._file.close()
                self._open("r+")
            folder, _, name = entry.path.rpartition("/")
            space = h5s.create_simple(entry.shape) if entry.shape else h5s.create(h5s.SCALAR)
            dataset = h5d.create(self._group(folder), name.encode(), _element_type(entry), space, creation)
            _create_attribute(dataset, layout.DATASET_DIGEST, PLACEHOLDER)
            self.offsets.append(dataset.get_offset())
        for name, value in root_attributes.items():
            _create_attribute(self._file.id, name, value)
        if _has_history(datasets):
            for name, text in layout.HISTORY_ATTRIBUTES.items():
                _create_attribute(self._group(layout.HISTORY), name, text)
        if any(offset is None or offset % ALIGNMENT for offset in self.offsets):
            msg = "HDF5 did not align a dataset"
            raise CheckpointError(msg)

    def _open(self, mode: str) -> None:
        limits = {"libver": ("v108", "v108"), "alignment_threshold": 1, "alignment_interval": ALIGNMENT}
        self._file = h5py.File(self._memory, mode, **limits)
        self._groups: dict[str, h5g.GroupID] = {"": h5g.open(self._file.id, b"/")}

    def _group(self, path: str) -> h5g.GroupID:
        """Return the group at `path`; create it and its parents, without timestamps, if they are missing."""
        if path not in self._groups:
            folder, _, name = path.rpartition("/")
            parent = self._group(folder)
            if path in self._created:
                self._groups[path] = h5g.open(parent, name.encode())
            else:
                creation = h5p.create(h5p.GROUP_CREATE)
                creation.set_obj_track_times(False)
                self._groups[path] = h5g.create(parent, name.encode(), gcpl=creation)
                self._created.add(path)
        return self._groups[path]

    def pages(self, datasets: Sequence[layout.Entry], digests: Mapping[str, str]) -> Iterator[tuple[int, memoryview]]:
        """Set the digests, and yield (offset, bytes) of everything but the data of LARGE arrays (already written)."""
        for entry in datasets:
            folder, _, name = entry.path.rpartition("/")
            dataset = h5d.open(self._group(folder), name.encode())
            _set_text(h5a.open(dataset, layout.DATASET_DIGEST.encode()), digests[entry.path])
        rows = ((entry.path, entry.dtype, entry.shape, digests[entry.path]) for entry in datasets)
        _set_text(h5a.open(self._file.id, b"content_sha256"), layout.content_digest(rows))
        self.close()
        memory = self._memory
        if len(datasets) > SESSION:
            self._clear_gaps()
        for entry, offset in zip(datasets, self.offsets, strict=True):
            (memory.put_ends if len(entry.data) >= LARGE else memory.put)(offset, entry.data)
        for offset, page in memory.pages.items():
            yield offset, memoryview(page)[: memory.end - offset]

    def _clear_gaps(self) -> None:
        """Zero all bytes outside structures: HDF5 leaves the old bytes of structures that it moves between sessions."""
        memory = self._memory
        finder = _UnusedByteFinder(memory, "the file in memory", memory.end)
        walk_structure(finder)
        for start, stop in [*finder.gaps(), *finder.spans]:
            memory.clear(start, stop)
        for offset, used in finder.stale_checksums():
            memory.put(offset + used, memoryview(lookup3(finder.peek(offset, used)).to_bytes(4, "little")))

    def close(self) -> None:
        """Close HDF5's file; only its pages in memory are kept."""
        self._file.close()


def _element_type(entry: layout.Entry) -> h5t.TypeID:
    return text_type(len(entry.value)) if isinstance(entry.value, bytes) else h5t.py_create(entry.value.dtype)


def _create_attribute(owner: Any, name: str, value: int | str) -> None:
    scalar = h5s.create(h5s.SCALAR)
    if isinstance(value, int):
        h5a.create(owner, name.encode(), h5t.STD_I64LE, scalar).write(np.array(value, "<i8"))
    else:
        _set_text(h5a.create(owner, name.encode(), text_type(len(value.encode())), scalar), value)


def _set_text(attribute: h5a.AttrID, value: str) -> None:
    data = value.encode()
    attribute.write(np.array(data, f"S{len(data)}"), text_type(len(data)))
