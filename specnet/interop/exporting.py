"""Models for other programs; what was written is read back and predicts a random batch before it counts as written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.files.atomic import write_file
from specnet.interop.imported_model import Imported
from specnet.interop.keras.reader import from_keras, from_keras_h5
from specnet.interop.keras.writer import to_keras, to_keras_h5
from specnet.interop.npz import from_npz, to_npz
from specnet.interop.onnx.writer import run_onnx, to_onnx
from specnet.interop.safetensors import from_safetensors, to_safetensors
from specnet.model import Model

Array = npt.NDArray[Any]
ROWS = 16
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


class Exported(NamedTuple):
    """What was written: the kind of file, its size in bytes, and the largest difference of a prediction from it."""

    kind: str
    size: int
    difference: float


class _Kind(NamedTuple):
    write: Callable[[Model], bytes]
    predict: Callable[[bytes, Array], Array]


def export(path: str | os.PathLike[str], model: Model, kind: str | None = None) -> Exported:
    """Write a model as "onnx", "keras", "safetensors", "npz" or "h5", Keras's legacy format; as the suffix says.

    Raises SpecnetError for another kind, for what the kind cannot express, and where what was written predicts
    anything else than the model, by more than 1e-5 of the largest output in float32, 1e-12 in float64, or what ten last
    bits of the inputs would change. Then no file has been written.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    kind = kind or suffix
    if kind == "keras" and suffix in ("h5", "hdf5"):
        kind = "h5"
    if kind not in KINDS:
        msg = f"{os.fspath(path)}: expected one of {', '.join(KINDS)}, got {kind!r:.20}"
        raise SpecnetError(msg)
    data = KINDS[kind].write(model)
    x = _sample(model)
    expected = model.predict(x)
    if not np.isfinite(expected).all():
        told = "the model's own answers to random inputs are not finite; look at its weights"
        msg = f"{os.fspath(path)}: not written: {told}"
        raise SpecnetError(msg)
    difference = float(np.abs(KINDS[kind].predict(data, x) - expected).max())
    allowed = max(TOLERANCE[model.dtype.name] * max(1.0, float(np.abs(expected).max())), _unrest(model, x, expected))
    if not difference <= allowed:
        msg = f"{os.fspath(path)}: not written: read back, it predicts what differs by {difference:.3g}"
        raise SpecnetError(msg)
    write_file(path, data, SpecnetError)
    return Exported(kind, len(data), difference)


def _unrest(model: Model, x: Array, expected: Array) -> float:
    """Give what ten last bits of the inputs change in the outputs.

    Other programs round otherwise, and a norm over features that hardly differ makes much of that.
    """
    if x.dtype.kind != "f":
        return 0.0
    moved = model.predict(x * (1 + 10 * np.finfo(x.dtype).eps))
    return float(np.abs(moved - expected).max())


def _sample(model: Model) -> Array:
    rng = np.random.default_rng(0)
    limit = model.plan.layers[0].input_limit
    shape = (ROWS, *model.input_shape)
    return rng.integers(0, limit, shape) if limit is not None else rng.normal(size=shape).astype(model.dtype)


def _reading(read: Callable[[str], Imported]) -> Callable[[bytes, Array], Array]:
    def predict(data: bytes, x: Array) -> Array:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "exported"
            path.write_bytes(data)
            return read(os.fspath(path)).model.predict(x)

    return predict


KINDS: dict[str, _Kind] = {
    "onnx": _Kind(to_onnx, run_onnx),
    "keras": _Kind(to_keras, _reading(lambda path: from_keras(path, own=False))),
    "safetensors": _Kind(to_safetensors, _reading(from_safetensors)),
    "npz": _Kind(to_npz, _reading(from_npz)),
    "h5": _Kind(to_keras_h5, _reading(from_keras_h5)),
}
