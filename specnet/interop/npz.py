"""Import and export of numpy's .npz archives, which hold one array for each parameter and buffer."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.files.paths import user_path
from specnet.interop.imported_model import (
    MODEL_KEY,
    Imported,
    arrays_of,
    document_of,
    fill_model,
    one_line,
    unsupported,
)
from specnet.model import Model
from specnet.spec.model_spec import ModelSpec


def to_npz(model: Model) -> bytes:
    """Return an .npz file of the parameters, the buffers, and the document as text under "specnet.model"."""
    document: npt.NDArray[Any] = np.array(model.spec.to_json())
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_of(model), **{MODEL_KEY: document})  # type: ignore[arg-type]  # names with dots
    return buffer.getvalue()


def from_npz(
    path: str | os.PathLike[str], spec: ModelSpec | None = None, names: Mapping[str, str] | None = None
) -> Imported:
    """Read a model from an .npz file; its document is `spec` or, without it, the one in the file.

    Arrays have full names, for example "hidden.weight"; `names` maps a module of the file to a layer of the document.
    Raises CheckpointError.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(user_path(path)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        arrays = {}
        is_bomb = unpacked > 1000 * user_path(path).stat().st_size
        if not is_bomb:
            with np.load(user_path(path), allow_pickle=False) as file:
                arrays = dict(file)
    except Exception as error:
        raise unsupported(name, f"cannot be read as .npz: {one_line(error)}") from error
    if is_bomb:
        raise unsupported(name, f"unpacks to {unpacked:,} bytes, more than 1,000 times its size")
    document = arrays.pop(MODEL_KEY, None)
    spec = spec or document_of(name, None if document is None else str(document))
    notes: list[str] = []
    renamed = {_rename_module(key, names or {}): array for key, array in arrays.items()}
    return Imported(fill_model(name, spec, renamed, notes), tuple(notes))


def _rename_module(key: str, names: Mapping[str, str]) -> str:
    module, dot, short = key.rpartition(".")
    return f"{names.get(module, module)}{dot}{short}"
