"""Files of other programs become models: which reader a file is for, by its suffix, and inside HDF5 by its content."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from specnet.checkpoint import format as layout
from specnet.errors import SpecnetError
from specnet.files.paths import user_path
from specnet.interop.caffe import from_caffe
from specnet.interop.hdf5.rewritten_checkpoint import from_rewritten
from specnet.interop.hdf5.sandbox import read_hdf5
from specnet.interop.imported_model import Imported, unsupported
from specnet.interop.keras.reader import LAYER_GROUPS, from_keras, from_keras_h5
from specnet.interop.keras.weights import from_keras_weights
from specnet.interop.npz import from_npz
from specnet.interop.onnx.reader import from_onnx
from specnet.interop.safetensors import from_safetensors
from specnet.spec.model_spec import ModelSpec

Names = Mapping[str, str]
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin")


def import_model(path: str | os.PathLike[str], spec: ModelSpec | None = None, names: Names | None = None) -> Imported:
    """Read a model from a file of Keras, ONNX, torch (safetensors), Caffe or numpy, or a rewritten checkpoint.

    `spec` is the document of a file that holds none (weights alone); `names` maps the file's names of layers to ours.
    No pickle is opened and no code in a file is run. Raises CheckpointError, with what to do, for what is not taken.
    """
    suffix = Path(path).suffix.lower()
    name = os.fspath(path)
    if suffix in _PICKLES:
        raise unsupported(
            name, "is a pickle by its name, and opening one runs its code; save it as .safetensors or .onnx"
        )
    if user_path(path).is_dir():
        raise unsupported(name, "is a folder, expected a file")
    try:
        return READERS.get(suffix, _from_hdf5)(path, spec, names)
    except SpecnetError:
        raise
    except MemoryError:
        raise unsupported(name, "needs more memory than there is") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        what = str(error).splitlines()[0][:120] if str(error) else ""
        raise unsupported(name, f"is not put together as such a file is ({type(error).__name__}: {what})") from error


def _from_hdf5(path: str | os.PathLike[str], spec: ModelSpec | None, names: Names | None) -> Imported:
    """Read an HDF5 file: a whole model, or weights alone."""
    name, content = os.fspath(path), read_hdf5(path)
    root = content.attributes["/"]
    whole = from_keras_h5 if "model_config" in root else from_rewritten if root.get("format") == layout.FORMAT else None
    if whole is not None:
        _alone(path, spec, names)
        return whole(path, content)
    is_keras = bool({"layer_names", "layer_names0"} & root.keys())
    is_keras |= any(
        path.startswith(f"/{g}/") and path.endswith("/vars") for g in LAYER_GROUPS for path in content.attributes
    )
    if not is_keras and "/data" not in content.attributes:
        raise unsupported(name, "is HDF5, but neither Keras's, nor Caffe's, nor a specnet checkpoint")
    if spec is None:
        raise unsupported(name, "holds weights and no architecture; name a document of the same layers: --model FILE")
    return (from_keras_weights if is_keras else from_caffe)(path, content, spec, names)


def _alone(path: str | os.PathLike[str], spec: ModelSpec | None, names: Names | None) -> None:
    if spec is not None or names:
        msg = f"{os.fspath(path)}: --model and --map are for weights alone; this file holds its architecture"
        raise SpecnetError(msg)


_Reader = Callable[[str | os.PathLike[str], ModelSpec | None, Names | None], Imported]


def _whole(read: Callable[[str | os.PathLike[str]], Imported]) -> _Reader:
    """Make the reader of files that hold their architecture."""

    def reader(path: str | os.PathLike[str], spec: ModelSpec | None, names: Names | None) -> Imported:
        _alone(path, spec, names)
        return read(path)

    return reader


READERS: dict[str, _Reader] = {
    ".keras": _whole(from_keras),
    ".npz": from_npz,
    ".onnx": _whole(from_onnx),
    ".safetensors": from_safetensors,
}
