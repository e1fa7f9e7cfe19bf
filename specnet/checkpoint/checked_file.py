"""An open checkpoint: its structure is checked against its document before any array is read."""

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
"""Bytes read at a time by a check."""


_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)


_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class DatasetCheck(NamedTuple):
    """What a check found of one dataset: whether its bytes have the digest that the file gives for them."""

    path: str
    dtype: str
    shape: ShapeTuple
    size: int
    sha256: str
    intact: bool


class Contents(NamedTuple):
    """What a checked file holds: the plan of its network, its document, and full name -> path of each kind of array."""

    plan: ModelPlan
    document: Callable[[], ModelSpec]
    parameters: dict[str, str]
    gradients: dict[str, str]
    buffers: dict[str, str]


class CheckedFile:
    """An open checkpoint whose structure is known."""

    def __init__(self, file: BinaryIO, name: str, mmap: bool, verify: bool) -> None:
        self.file = file
        self.name = name
        self.verify = verify
        self.structure: Structure = read_structure(file, name)
        self.mapping = memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_COPY) if mmap else None

    def checks(self) -> Iterator[DatasetCheck]:
        """Check what `model` checks, and read every dataset's bytes in pieces."""
        self._checked(None)
        for path, stored in sorted(self.structure.datasets.items(), key=lambda item: item[1].offset):
            hasher = hashlib.sha256()
            self.file.seek(stored.offset)
            piece = memoryview(bytearray(min(stored.size, PIECE)))
            for at in range(0, stored.size, PIECE):
                part = piece[: min(PIECE, stored.size - at)]
                self._fill(part)
                hasher.update(part)
            promised = self._digest(stored)
            intact = hasher.hexdigest() == promised
            yield DatasetCheck(path, stored.dtype, stored.shape, stored.size, promised, intact)

    def _checked(self, pinned: str | None) -> Contents:
        """Check everything but the arrays' bytes; return what the file holds."""
        root = self.root_attributes()
        source = f"{self.name}:{layout.MODEL_SPEC}"
        plan, document = read_plan(self._text(), str(root["model_sha256"]), source, self._plugins())
        parameters, gradients, buffers = self._arrays(plan)
        self._check_content(str(root["content_sha256"]), pinned)
        return Contents(plan, document, parameters, gradients, buffers)

    def model(self, pinned: str | None, spec: ModelSpec | None) -> Model:
        """Check everything that was promised and make the model."""
        plan, document, parameters, gradients, buffers = self._checked(pinned)
        if spec is not None:
            self._require_document(document(), spec)
        with Digests() as digests:
            if self.mapping is None:
                model = assemble(plan, document)
                for full, path in parameters.items():
                    self._read_into(path, model.parameters[full], digests)
            else:
                model = assemble(
                    plan, document, {full: self._array(path, digests) for full, path in parameters.items()}
                )
            for full, path in gradients.items():
                self._read_into(path, model.store.gradients[full], digests)
            for full, path in buffers.items():
                self._read_into(path, model.buffers[full], digests)
            model.run_state = dict(self._run_state(digests)) or None
            if self.verify:
                self._compare(digests.finish())
        if gradients:
            model.adopt_gradients()
        return model

    def _require_document(self, written: ModelSpec, spec: ModelSpec) -> None:
        if written.identity == spec.identity:
            return
        notes = [(key,) for key in NOTES]
        told = differences(spec.model_dump(mode="json"), written.model_dump(mode="json"), notes)
        msg = f"{self.name}: its document is another one: {'; '.join(text for _, text in told)}"
        raise CheckpointMismatchError(msg)

    def root_attributes(self) -> dict[str, Any]:
        """Check the attributes of the file, and give them."""
        root = self.structure.groups.get("", {})
        if root.get("format") != layout.FORMAT:
            self._unsupported(f'its attribute format is not "{layout.FORMAT}": it is no specnet checkpoint')
        version = root.get("format_version")
        if version != layout.VERSION:
            wanted = f"this specnet reads format_version {layout.VERSION}, the file has {version}"
            newer = isinstance(version, int) and version > layout.VERSION
            self._unsupported(f"{wanted}; install a newer specnet" if newer else wanted)
        expected = {
            *layout.ROOT_ATTRIBUTES,
            *(layout.HISTORY_DEFAULT if layout.HISTORY in self.structure.groups else ()),
        }
        if set(root) != expected:
            self._corrupt(f"the attributes of / are {sorted(root)}, expected {sorted(expected)}")
        if not _DATE.match(str(root["created"])):
            self._corrupt("the attribute created is no date")
        if any(root[name] != value for name, value in layout.HISTORY_DEFAULT.items() if name in root):
            self._corrupt("the attribute default does not point at the history")
        return root

    def _text(self) -> bytes:
        stored = self.structure.datasets.get(layout.MODEL_SPEC)
        if stored is None or stored.dtype != layout.TEXT:
            self._corrupt(f"{layout.MODEL_SPEC}, the model document, is missing")
        if stored.size > MAX_BYTES:
            self._corrupt(f"{layout.MODEL_SPEC} has {stored.size} bytes, expected at most {MAX_BYTES}")
        return self._stored_text(layout.MODEL_SPEC)

    def _plugins(self) -> bytes:
        """Give the record of the packages that the layers come from, empty where there is none."""
        stored = self.structure.datasets.get(layout.PLUGINS)
        if stored is None:
            return b""
        if stored.dtype != layout.TEXT:
            self._corrupt(f"{layout.PLUGINS} is no text")
        return self._stored_text(layout.PLUGINS)

    def _arrays(self, plan: ModelPlan) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Hold names, types and shapes in the file against the document's; give the paths of the three kinds."""
        dtype = np.dtype(plan.dtype)
        shapes = {full: (shape, dtype) for full, shape in plan.parameter_shapes().items()}
        parameters = self._expect("parameters", shapes)
        there = any(layout.array_path(full, "gradients") in self.structure.datasets for full in shapes)
        gradients = self._expect("gradients", shapes if there else {})
        buffers = self._expect("buffers", plan.buffer_shapes())
        self._check_names({layout.MODEL_SPEC, *parameters.values(), *gradients.values(), *buffers.values()})
        return parameters, gradients, buffers

    def _expect(self, kind: str, expected: Mapping[str, tuple[ShapeTuple, np.dtype[Any]]]) -> dict[str, str]:
        paths = {full: layout.array_path(full, kind) for full in expected}
        for full, path in paths.items():
            shape, dtype = expected[full]
            stored = self.structure.datasets.get(path)
            if stored is None:
                self._corrupt(f"{path} is missing")
            if (stored.dtype, stored.shape) != (dtype.str, shape):
                found = f"{stored.dtype} of shape {stored.shape}"
                self._corrupt(f"{path}: expected {dtype.str} of shape {shape}, got {found}")
        return paths

    def _check_names(self, known: set[str]) -> None:
        datasets, groups = self.structure.datasets, self.structure.groups
        more = (path for path in datasets if path.startswith(f"{layout.TRAINING}/") or path == layout.PLUGINS)
        expected = known.union(more)
        for path in datasets.keys() - expected:
            self._corrupt(f"{path} is not a part of this model")
        parents = {"", *(path[:at] for path in expected for at, c in enumerate(path) if c == "/")}
        for path in groups.keys() - parents:
            self._corrupt(f"the group {path} is empty")
        for path, attributes in groups.items():
            wanted = layout.HISTORY_ATTRIBUTES if path == layout.HISTORY else {}
            if path and attributes != wanted:
                self._corrupt(f"the attributes of {path} are {attributes}, expected {wanted}")
        for path, stored in datasets.items():
            if list(stored.attributes) != [layout.DATASET_DIGEST] or not _HEX_DIGEST.match(self._digest(stored)):
                self._corrupt(f"{path} has not its one attribute {layout.DATASET_DIGEST}")

    def _check_content(self, content: str, pinned: str | None) -> None:
        rows = ((path, d.dtype, d.shape, self._digest(d)) for path, d in self.structure.datasets.items())
        if layout.content_digest(rows) != content:
            self._corrupt("content_sha256 is not the hash over its datasets")
        if pinned is not None and pinned.lower() != content:
            msg = f"{self.name}: its content_sha256 is {content}, expected {pinned}; it is another checkpoint"
            raise CheckpointMismatchError(msg)

    def _run_state(self, digests: Digests) -> Iterator[tuple[str, Any]]:
        """Read what stands below /training, in the order in which it was written."""
        prefix = f"{layout.TRAINING}/"
        paths = [path for path in self.structure.datasets if path.startswith(prefix)]
        for path in sorted(paths, key=lambda path: self.structure.datasets[path].offset):
            if self.structure.datasets[path].dtype == layout.TEXT:
                try:
                    yield path.removeprefix(prefix), self._stored_text(path).decode()
                except UnicodeDecodeError:
                    self._corrupt(f"{path} is not UTF-8 text")
                continue
            value = self._array(path, digests)
            if value.shape == () and value.dtype.str in ("<i8", "<f8"):
                yield path.removeprefix(prefix), value.item()
            else:
                yield path.removeprefix(prefix), value

    def _stored_text(self, path: str) -> bytes:
        """Read a text, verified at once: what it says decides how the rest is read."""
        stored = self.structure.datasets[path]
        text = bytearray(stored.size)
        self.file.seek(stored.offset)
        self._fill(memoryview(text))
        self._compare({path: layout.digest(memoryview(text))})
        return bytes(text)

    def _array(self, path: str, digests: Digests) -> npt.NDArray[Any]:
        """Give an array, as a view of the mapping or a new one."""
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
        self._fill(view)
        if self.verify:
            digests.add(path, view)

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self.file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                self._corrupt("it became shorter while it was read")
            view = view[count:]

    def _compare(self, digests: Mapping[str, str]) -> None:
        for path, stored in self.structure.datasets.items():
            if path in digests and digests[path] != self._digest(stored):
                self._corrupt(f"the bytes of {path} do not match their sha256")

    def _digest(self, stored: StoredDataset) -> str:
        return str(stored.attributes.get(layout.DATASET_DIGEST))

    def _corrupt(self, what: str) -> NoReturn:
        msg = f"{self.name}: {what}; the file is damaged"
        raise CheckpointCorruptError(msg)

    def _unsupported(self, what: str) -> NoReturn:
        msg = f"{self.name}: {what}"
        raise CheckpointUnsupportedError(msg)
