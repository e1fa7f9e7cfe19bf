"""An open checkpoint, whose structure is checked against its document before any array is read."""

from __future__ import annotations

import hashlib
import mmap as memory_map
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.checkpoint import format as layout
from specnet.checkpoint.digests import Digests
from specnet.checkpoint.fast_plan import read_plan
from specnet.checkpoint.hdf5.structure import StoredDataset, Structure, read_structure
from specnet.document.diff import differences
from specnet.document.json_text import MAX_BYTES
from specnet.errors import CheckpointCorruptError, CheckpointMismatchError, CheckpointUnsupportedError
from specnet.model import Model, assemble
from specnet.plan import NOTES, ModelPlan

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

PIECE = 2**22
"""Bytes that a check reads at a time."""


_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)


_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class DatasetCheck(NamedTuple):
    """Result of checking one dataset. `intact`: its bytes match `sha256`, the digest that the file states."""

    path: str
    dtype: str
    shape: ShapeTuple
    size: int
    sha256: str
    intact: bool


class Contents(NamedTuple):
    """Contents of a checked file: plan of its network, its document, and full name -> path for each kind of array."""

    plan: ModelPlan
    document: Callable[[], ModelSpec]
    parameters: dict[str, str]
    gradients: dict[str, str]
    buffers: dict[str, str]


class CheckedFile:
    """An open checkpoint. The constructor reads its structure and, with `mmap`, maps the file."""

    def __init__(self, file: BinaryIO, name: str, mmap: bool, verify: bool) -> None:
        self.file = file
        self.name = name
        self.verify = verify
        self.structure: Structure = read_structure(file, name)
        self.mapping = memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_COPY) if mmap else None

    def checks(self) -> Iterator[DatasetCheck]:
        """Check what `model` checks, then read every dataset in pieces and yield whether it matches its digest."""
        self._check_file(None)
        for path, stored in sorted(self.structure.datasets.items(), key=lambda item: item[1].offset):
            hasher = hashlib.sha256()
            self.file.seek(stored.offset)
            piece = memoryview(bytearray(min(stored.size, PIECE)))
            for at in range(0, stored.size, PIECE):
                part = piece[: min(PIECE, stored.size - at)]
                self._read_exactly(part)
                hasher.update(part)
            sha256 = self._stated_digest(stored)
            intact = hasher.hexdigest() == sha256
            yield DatasetCheck(path, stored.dtype, stored.shape, stored.size, sha256, intact)

    def _check_file(self, pinned: str | None) -> Contents:
        """Check everything except the bytes of the arrays, and return the contents of the file."""
        root = self.root_attributes()
        source = f"{self.name}:{layout.MODEL_SPEC}"
        plan, document = read_plan(self._document_text(), str(root["model_sha256"]), source, self._plugin_record())
        parameters, gradients, buffers = self._match_arrays(plan)
        self._check_content(str(root["content_sha256"]), pinned)
        return Contents(plan, document, parameters, gradients, buffers)

    def model(self, pinned: str | None, spec: ModelSpec | None) -> Model:
        """Check the file, and `pinned` and `spec` if they are not None, and build the model."""
        plan, document, parameters, gradients, buffers = self._check_file(pinned)
        if spec is not None:
            self._require_document(document(), spec)
        with Digests() as digests:
            if self.mapping is None:
                model = assemble(plan, document)
                for full, path in parameters.items():
                    self._read_into(path, model.parameters[full], digests)
            else:
                model = assemble(
                    plan, document, {full: self._load_array(path, digests) for full, path in parameters.items()}
                )
            for full, path in gradients.items():
                self._read_into(path, model.store.gradients[full], digests)
            for full, path in buffers.items():
                self._read_into(path, model.buffers[full], digests)
            model.run_state = dict(self._run_state(digests)) or None
            if self.verify:
                self._check_digests(digests.finish())
        if gradients:
            model.adopt_gradients()
        return model

    def _require_document(self, stored: ModelSpec, spec: ModelSpec) -> None:
        if stored.identity == spec.identity:
            return
        ignored = [(key,) for key in NOTES]
        changes = differences(spec.model_dump(mode="json"), stored.model_dump(mode="json"), ignored)
        msg = f"{self.name}: its model document differs: {'; '.join(text for _, text in changes)}"
        raise CheckpointMismatchError(msg)

    def root_attributes(self) -> dict[str, Any]:
        """Check the attributes of the file, and return them."""
        root = self.structure.groups.get("", {})
        if root.get("format") != layout.FORMAT:
            self._unsupported(f'its attribute format is not "{layout.FORMAT}": it is not a specnet checkpoint')
        version = root.get("format_version")
        if version != layout.VERSION:
            message = f"this specnet reads format_version {layout.VERSION}, the file has {version}"
            newer = isinstance(version, int) and version > layout.VERSION
            self._unsupported(f"{message}; install a newer specnet" if newer else message)
        expected = {
            *layout.ROOT_ATTRIBUTES,
            *(layout.HISTORY_DEFAULT if layout.HISTORY in self.structure.groups else ()),
        }
        if set(root) != expected:
            self._corrupt(f"the attributes of / are {sorted(root)}, expected {sorted(expected)}")
        if not _DATE.match(str(root["created"])):
            self._corrupt("the attribute created is not a date")
        if any(root[name] != value for name, value in layout.HISTORY_DEFAULT.items() if name in root):
            self._corrupt("the attribute default does not point at the history")
        return root

    def _document_text(self) -> bytes:
        stored = self.structure.datasets.get(layout.MODEL_SPEC)
        if stored is None or stored.dtype != layout.TEXT:
            self._corrupt(f"{layout.MODEL_SPEC}, the model document, is missing")
        if stored.size > MAX_BYTES:
            self._corrupt(f"{layout.MODEL_SPEC} has {stored.size} bytes, expected at most {MAX_BYTES}")
        return self._read_text(layout.MODEL_SPEC)

    def _plugin_record(self) -> bytes:
        """Return the record of the packages that define the layers; empty if the file has none."""
        stored = self.structure.datasets.get(layout.PLUGINS)
        if stored is None:
            return b""
        if stored.dtype != layout.TEXT:
            self._corrupt(f"{layout.PLUGINS} is not text")
        return self._read_text(layout.PLUGINS)

    def _match_arrays(self, plan: ModelPlan) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Compare names, dtypes and shapes with the document; return the paths of parameters, gradients and buffers."""
        dtype = np.dtype(plan.dtype)
        shapes = {full: (shape, dtype) for full, shape in plan.parameter_shapes().items()}
        parameters = self._require_arrays("parameters", shapes)
        has_gradients = any(layout.array_path(full, "gradients") in self.structure.datasets for full in shapes)
        gradients = self._require_arrays("gradients", shapes if has_gradients else {})
        buffers = self._require_arrays("buffers", plan.buffer_shapes())
        self._check_names({layout.MODEL_SPEC, *parameters.values(), *gradients.values(), *buffers.values()})
        return parameters, gradients, buffers

    def _require_arrays(self, kind: str, expected: Mapping[str, tuple[ShapeTuple, np.dtype[Any]]]) -> dict[str, str]:
        paths = {full: layout.array_path(full, kind) for full in expected}
        for full, path in paths.items():
            shape, dtype = expected[full]
            stored = self.structure.datasets.get(path)
            if stored is None:
                self._corrupt(f"{path} is missing")
            if (stored.dtype, stored.shape) != (dtype.str, shape):
                actual = f"{stored.dtype} of shape {stored.shape}"
                self._corrupt(f"{path}: expected {dtype.str} of shape {shape}, got {actual}")
        return paths

    def _check_names(self, model_paths: set[str]) -> None:
        datasets, groups = self.structure.datasets, self.structure.groups
        optional = (path for path in datasets if path.startswith(f"{layout.TRAINING}/") or path == layout.PLUGINS)
        expected = model_paths.union(optional)
        for path in datasets.keys() - expected:
            self._corrupt(f"{path} is not a part of this model")
        parents = {"", *(path[:at] for path in expected for at, c in enumerate(path) if c == "/")}
        for path in groups.keys() - parents:
            self._corrupt(f"the group {path} is empty")
        for path, attributes in groups.items():
            required = layout.HISTORY_ATTRIBUTES if path == layout.HISTORY else {}
            if path and attributes != required:
                self._corrupt(f"the attributes of {path} are {attributes}, expected {required}")
        for path, stored in datasets.items():
            if list(stored.attributes) != [layout.DATASET_DIGEST] or not _HEX_DIGEST.match(self._stated_digest(stored)):
                self._corrupt(f"{path} must have exactly one attribute, {layout.DATASET_DIGEST}")

    def _check_content(self, content: str, pinned: str | None) -> None:
        rows = ((path, d.dtype, d.shape, self._stated_digest(d)) for path, d in self.structure.datasets.items())
        if layout.content_digest(rows) != content:
            self._corrupt("content_sha256 does not match its datasets")
        if pinned is not None and pinned.lower() != content:
            msg = f"{self.name}: its content_sha256 is {content}, expected {pinned}; it is a different checkpoint"
            raise CheckpointMismatchError(msg)

    def _run_state(self, digests: Digests) -> Iterator[tuple[str, Any]]:
        """Yield the values below /training, in the order in which they were written."""
        prefix = f"{layout.TRAINING}/"
        paths = [path for path in self.structure.datasets if path.startswith(prefix)]
        for path in sorted(paths, key=lambda path: self.structure.datasets[path].offset):
            if self.structure.datasets[path].dtype == layout.TEXT:
                try:
                    yield path.removeprefix(prefix), self._read_text(path).decode()
                except UnicodeDecodeError:
                    self._corrupt(f"{path} is not UTF-8 text")
                continue
            value = self._load_array(path, digests)
            if value.shape == () and value.dtype.str in ("<i8", "<f8"):
                yield path.removeprefix(prefix), value.item()
            else:
                yield path.removeprefix(prefix), value

    def _read_text(self, path: str) -> bytes:
        """Read a text and verify it at once, because its content decides how the rest is read."""
        stored = self.structure.datasets[path]
        text = bytearray(stored.size)
        self.file.seek(stored.offset)
        self._read_exactly(memoryview(text))
        self._check_digests({path: layout.digest(memoryview(text))})
        return bytes(text)

    def _load_array(self, path: str, digests: Digests) -> npt.NDArray[Any]:
        """Return an array: a view of the mapping if the file is mapped, otherwise a new array."""
        stored = self.structure.datasets[path]
        if self.mapping is None:
            array = np.empty(stored.shape, stored.dtype)
            self._read_into(path, array, digests)
        else:
            flat = np.frombuffer(self.mapping, stored.dtype, size_of(stored.shape), stored.offset)
            array = flat.reshape(stored.shape)
            if self.verify:
                digests.add(path, flat.data)
        return array

    def _read_into(self, path: str, array: npt.NDArray[Any], digests: Digests) -> None:
        view = array.reshape(-1).data.cast("B")
        self.file.seek(self.structure.datasets[path].offset)
        self._read_exactly(view)
        if self.verify:
            digests.add(path, view)

    def _read_exactly(self, view: memoryview) -> None:
        while view:
            count = self.file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                self._corrupt("it became shorter while it was read")
            view = view[count:]

    def _check_digests(self, digests: Mapping[str, str]) -> None:
        for path, stored in self.structure.datasets.items():
            if path in digests and digests[path] != self._stated_digest(stored):
                self._corrupt(f"the bytes of {path} do not match their sha256")

    def _stated_digest(self, stored: StoredDataset) -> str:
        return str(stored.attributes.get(layout.DATASET_DIGEST))

    def _corrupt(self, what: str) -> NoReturn:
        msg = f"{self.name}: {what}; the file is damaged"
        raise CheckpointCorruptError(msg)

    def _unsupported(self, what: str) -> NoReturn:
        msg = f"{self.name}: {what}"
        raise CheckpointUnsupportedError(msg)
