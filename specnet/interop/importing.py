"""Import of models from other programs: the suffix selects the reader; for HDF5, the content of the file does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from specnet.checkpoint import format as layout
from specnet.errors import CheckpointError, SpecnetError
from specnet.files.paths import user_path
from specnet.interop.caffe import from_caffe
from specnet.interop.hdf5.rewritten_checkpoint import from_rewritten
from specnet.interop.hdf5.sandbox import read_hdf5
from specnet.interop.imported_model import Imported, NameMap, unsupported
from specnet.interop.keras.reader import LAYER_GROUPS, from_keras, from_keras_h5
from specnet.interop.keras.weights import from_keras_weights
from specnet.interop.npz import from_npz
from specnet.interop.onnx.reader import from_onnx
from specnet.interop.safetensors import from_safetensors
from specnet.spec.model_spec import ModelSpec

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin")


def import_model(path: str | os.PathLike[str], spec: ModelSpec | None = None, names: NameMap | None = None) -> Imported:
    """Read a model from a file of Keras, ONNX, torch (safetensors), Caffe or numpy, or from a rewritten checkpoint.

    `spec` is the document for a file that holds only weights; `names` maps layer names of the file to the document's.
    No pickle is opened and no code in a file is run. Raises CheckpointError, with a remedy, for unsupported files.
    """
    suffix = Path(path).suffix.lower()
    name = os.fspath(path)
    if suffix in _PICKLES:
        raise unsupported(
            name, "has the suffix of a pickle, and opening a pickle can run code; save it as .safetensors or .onnx"
        )
    if os.path.isdir(user_path(path)):  # noqa: PTH112 - Path.is_dir raises for a folder that cannot be entered
        raise unsupported(name, "is a folder, expected a file")
    try:
        return READERS.get(suffix, _from_hdf5)(path, spec, names)
    except SpecnetError:
        raise
    except MemoryError:
        raise unsupported(name, "needs more memory than is available") from None
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error
    except Exception as error:
        detail = str(error).splitlines()[0][:120] if str(error) else ""
        raise unsupported(name, f"the file's structure is invalid ({type(error).__name__}: {detail})") from error


def _from_hdf5(path: str | os.PathLike[str], spec: ModelSpec | None, names: NameMap | None) -> Imported:
    """Read an HDF5 file that holds a whole model or only weights."""
    name, content = os.fspath(path), read_hdf5(path)
    root = content.attributes["/"]
    read = from_keras_h5 if "model_config" in root else from_rewritten if root.get("format") == layout.FORMAT else None
    if read is not None:
        _refuse_weight_options(path, spec, names)
        return read(path, content)
    is_keras = bool({"layer_names", "layer_names0"} & root.keys())
    is_keras |= any(
        key.startswith(f"/{group}/") and key.endswith("/vars") for group in LAYER_GROUPS for key in content.attributes
    )
    if not is_keras and "/data" not in content.attributes:
        raise unsupported(name, "is an HDF5 file, but neither from Keras or Caffe, nor a specnet checkpoint")
    if spec is None:
        raise unsupported(
            name, "contains weights but no architecture; pass a document of the same layers: --model FILE"
        )
    return (from_keras_weights if is_keras else from_caffe)(path, content, spec, names)


def _refuse_weight_options(path: str | os.PathLike[str], spec: ModelSpec | None, names: NameMap | None) -> None:
    """Raise SpecnetError for a document or a mapping that is passed with a file that holds its architecture."""
    if spec is not None or names:
        msg = f"{os.fspath(path)}: --model and --map are only for files without an architecture; this file contains one"
        raise SpecnetError(msg)


_Reader = Callable[[str | os.PathLike[str], ModelSpec | None, NameMap | None], Imported]


def _whole_model_reader(read: Callable[[str | os.PathLike[str]], Imported]) -> _Reader:
    """Return a reader for files that hold their architecture; it refuses a document and a mapping."""

    def reader(path: str | os.PathLike[str], spec: ModelSpec | None, names: NameMap | None) -> Imported:
        _refuse_weight_options(path, spec, names)
        return read(path)

    return reader


READERS: dict[str, _Reader] = {
    ".keras": _whole_model_reader(from_keras),
    ".npz": from_npz,
    ".onnx": _whole_model_reader(from_onnx),
    ".safetensors": from_safetensors,
}
