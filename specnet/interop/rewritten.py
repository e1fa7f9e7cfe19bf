"""A checkpoint that another program has rewritten (h5repack, a viewer): read through HDF5, in a process of its own.

The HDF5 library crashes or hangs on forged files, so a child reads, within limits of time and memory, and hands over
plain arrays; what it says is held against the document and the digests, as for any checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import format as layout
from specnet.errors import CheckpointCorruptError, CheckpointError, CheckpointUnsupportedError, SpecError
from specnet.model import Model, assemble
from specnet.paths import user_path
from specnet.spec import ModelSpec

SECONDS = 120
"""How long the child may read."""

_CHILD = """
import sys
try:
    import resource
    size = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass  # Windows has no limits of this kind
import h5py, numpy as np
arrays = {}
def visit(name, item):
    if not isinstance(item, h5py.Dataset):
        return
    if item.external or item.is_virtual or item.dtype.kind not in "iufSO":
        raise SystemExit(f"{name} is stored in a way that specnet does not know")
    value = item[()]
    value = value.encode() if isinstance(value, str) else value
    arrays[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    digest = item.attrs.get("sha256", b"")
    arrays[name + "@sha256"] = np.array(digest.decode() if isinstance(digest, bytes) else str(digest))
with h5py.File(sys.argv[1], "r", locking=False) as file:
    kind = file.attrs.get("format", b"")
    if (kind.decode() if isinstance(kind, bytes) else kind) != "specnet-checkpoint":
        raise SystemExit("its attribute format is not specnet-checkpoint")
    if file.attrs.get("format_version") != 1:
        raise SystemExit("its format_version is not 1")
    file.visititems(visit)
np.savez(sys.argv[2], **arrays)
"""


def import_rewritten(path: str | os.PathLike[str]) -> Model:
    """Read the model, gradients, buffers and run of a checkpoint whose structures another program has rewritten.

    Every dataset has to have the bytes of its digest. Raises CheckpointError.
    """
    name = os.fspath(path)
    arrays = _read_apart(user_path(path), name)
    for key in [key for key in arrays if not key.endswith("@sha256")]:
        if layout.digest(np.ascontiguousarray(arrays[key]).data) != str(arrays.pop(f"{key}@sha256", "")):
            msg = f"{name}: the bytes of /{key} do not match their sha256; the file is damaged"
            raise CheckpointCorruptError(msg)
    document = arrays.pop(layout.MODEL_SPEC.strip("/"), None)
    if document is None:
        msg = f"{name}: {layout.MODEL_SPEC}, the model document, is missing"
        raise CheckpointCorruptError(msg)
    try:
        spec = ModelSpec.from_text(document.tobytes(), f"{name}:{layout.MODEL_SPEC}")
    except SpecError as error:
        raise CheckpointUnsupportedError("; ".join(error.lines())) from None
    arrays.pop(layout.PLUGINS.strip("/"), None)
    model = assemble(spec.plan())
    _fill(name, "parameters", model.parameters, arrays)
    if any("/gradients/" in key for key in arrays):
        _fill(name, "gradients", model.store.gradients, arrays)
        model.adopt_gradients()
    _fill(name, "buffers", model.buffers, arrays)
    prefix = layout.TRAINING.strip("/") + "/"
    state = {key.removeprefix(prefix): _plain(arrays.pop(key)) for key in list(arrays) if key.startswith(prefix)}
    if arrays:
        msg = f"{name}: /{next(iter(arrays))} is not a part of this model"
        raise CheckpointCorruptError(msg)
    model.run_state = state or None
    return model


def _read_apart(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    try:
        size = path.stat().st_size
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "arrays.npz"
            memory = 2**30 + 8 * size
            command = [sys.executable, "-I", "-c", _CHILD, os.path.realpath(path), str(out), str(memory)]
            environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}  # no plugin is ever loaded
            made = subprocess.run(  # noqa: S603 - this very interpreter, and code from above
                command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment
            )
            if made.returncode or not out.exists():
                told = (made.stderr.strip().splitlines() or [f"the reader ended with {made.returncode}"])[-1]
                msg = f"{name}: HDF5 cannot read it: {told[:200]}"
                raise CheckpointUnsupportedError(msg)
            with np.load(out, allow_pickle=False) as stored:
                return dict(stored)
    except subprocess.TimeoutExpired:
        msg = f"{name}: HDF5 has not read it within {SECONDS} seconds; it is damaged or hostile"
        raise CheckpointUnsupportedError(msg) from None
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error


def _fill(name: str, kind: str, targets: Any, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for full, target in targets.items():
        key = layout.array_path(full, kind).strip("/")
        found = arrays.pop(key, None)
        if found is None or (found.dtype, found.shape) != (target.dtype, target.shape):
            told = "is missing" if found is None else f"is {found.dtype} of shape {found.shape}"
            msg = f"{name}: expected {target.dtype} of shape {target.shape} in /{key}, it {told}"
            raise CheckpointCorruptError(msg)
        target[...] = found


def _plain(value: npt.NDArray[Any]) -> Any:
    """Give a run's value as load gives it: text, a number, or an array."""
    if value.dtype == np.uint8:
        return value.tobytes().decode()
    return value.item() if value.shape == () and value.dtype.str in ("<i8", "<f8") else value
