"""Import of a checkpoint that another program has rewritten (h5repack, a viewer); every digest is checked."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import format as layout
from specnet.errors import CheckpointCorruptError
from specnet.interop.hdf5.sandbox import Hdf5Content, read_hdf5
from specnet.interop.imported_model import Imported, check_size, document_of, unsupported
from specnet.model import assemble


def from_rewritten(path: str | os.PathLike[str], content: Hdf5Content | None = None) -> Imported:
    """Read the model, gradients, buffers and run state of a checkpoint whose HDF5 structures another program rewrote.

    Every dataset must match its digest. Raises CheckpointError.
    """
    name = os.fspath(path)
    content = content or read_hdf5(path)
    root = content.attributes["/"]
    if root.get("format") != layout.FORMAT:
        raise unsupported(name, f"its attribute format is not {layout.FORMAT}")
    if root.get("format_version") != 1:
        raise unsupported(name, "its format_version is not 1")
    arrays = {key.strip("/"): array for key, array in content.arrays.items()}
    for key, array in arrays.items():
        if layout.digest(np.ascontiguousarray(array).data) != content.attributes[f"/{key}"].get("sha256"):
            msg = f"{name}: the bytes of /{key} do not match their sha256; the file is damaged"
            raise CheckpointCorruptError(msg)
    document = arrays.pop(layout.MODEL_SPEC.strip("/"), None)
    if document is None:
        msg = f"{name}: {layout.MODEL_SPEC}, the model document, is missing"
        raise CheckpointCorruptError(msg)
    spec = document_of(name, document.tobytes(), layout.MODEL_SPEC)
    arrays.pop(layout.PLUGINS.strip("/"), None)
    check_size(name, spec, arrays)
    model = assemble(spec.plan(), lambda: spec)
    _fill_arrays(name, "parameters", model.parameters, arrays)
    if any("/gradients/" in key for key in arrays):
        _fill_arrays(name, "gradients", model.store.gradients, arrays)
        model.adopt_gradients()
    _fill_arrays(name, "buffers", model.buffers, arrays)
    prefix = layout.TRAINING.strip("/") + "/"
    state = {key.removeprefix(prefix): _run_value(arrays.pop(key)) for key in list(arrays) if key.startswith(prefix)}
    if arrays:
        msg = f"{name}: /{next(iter(arrays))} is not part of this model"
        raise CheckpointCorruptError(msg)
    model.run_state = state or None
    return Imported(model, ("every digest was checked",))


def _fill_arrays(name: str, kind: str, targets: Any, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for full, target in targets.items():
        key = layout.array_path(full, kind).strip("/")
        array = arrays.pop(key, None)
        if array is None or (array.dtype, array.shape) != (target.dtype, target.shape):
            detail = "but it is missing" if array is None else f"got {array.dtype} of shape {array.shape}"
            msg = f"{name}: /{key}: expected {target.dtype} of shape {target.shape}, {detail}"
            raise CheckpointCorruptError(msg)
        target[...] = array


def _run_value(value: npt.NDArray[Any]) -> Any:
    """Convert a value of the run state to what `load` returns for it: text, a number, or an array."""
    if value.dtype == np.uint8:
        return value.tobytes().decode()
    return value.item() if value.shape == () and value.dtype.str in ("<i8", "<f8") else value
