"""Import and export of numpy's .npz archives, which hold one array for each parameter and buffer."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.foreign_file import open_archive
from specnet.interop.imported_model import (
    MODEL_KEY,
    Arrays,
    Imported,
    arrays_of,
    document_of,
    fill_model,
    put_once,
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
    name, names = os.fspath(path), names or {}
    with open_archive(path, name, ".npz") as archive:
        others = [member for member in archive.members if not member.endswith(".npy")]
        if others:
            raise unsupported(name, f"the archive contains {others[0]!r:.80}, which numpy does not write")
        arrays = {member.removesuffix(".npy"): _read_array(archive.read(member)) for member in archive.members}
    document = arrays.pop(MODEL_KEY, None)
    spec = spec or document_of(name, None if document is None else _text(name, document))
    notes: list[str] = []
    renamed: Arrays = {}
    for key, array in arrays.items():
        put_once(name, renamed, _rename_module(key, names), array)
    return Imported(fill_model(name, spec, renamed, notes), tuple(notes))


def _read_array(data: bytes) -> npt.NDArray[Any]:
    return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def _text(name: str, array: npt.NDArray[Any]) -> str:
    """Return the text in an array. Its code points are checked here, because numpy does not check them."""
    if array.shape or array.dtype.kind != "U":
        raise unsupported(name, f"{MODEL_KEY} is {array.dtype} of shape {array.shape}, expected one text")
    try:
        return array.astype(array.dtype.newbyteorder("<")).tobytes().decode("utf-32-le").rstrip("\0")
    except UnicodeDecodeError:
        raise unsupported(name, f"{MODEL_KEY} is not text: it has invalid code points") from None


def _rename_module(key: str, names: Mapping[str, str]) -> str:
    module, dot, short = key.rpartition(".")
    return f"{names.get(module, module)}{dot}{short}"
