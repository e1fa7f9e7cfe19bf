"""Export of models to other programs; before a file is written, it is read back and its predictions are checked."""

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
    """A written file: its kind, its size in bytes, and the largest difference of its predictions from the model's."""

    kind: str
    size: int
    difference: float


class _Kind(NamedTuple):
    write: Callable[[Model], bytes]
    predict: Callable[[bytes, Array], Array]


def export(path: str | os.PathLike[str], model: Model, kind: str | None = None) -> Exported:
    """Write a model as "onnx", "keras", "safetensors", "npz" or "h5" (Keras's legacy format); default: the suffix.

    Before writing, the file is read back and predicts a random batch. It may differ from the model by 1e-5 (float32) or
    1e-12 (float64) of the largest output (at least 1), or by what changing the inputs by 10 machine epsilons changes.
    Raises SpecnetError, and writes nothing, for a larger difference, another kind or a layer that it cannot express.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    kind = kind or suffix
    if kind == "keras" and suffix in ("h5", "hdf5"):
        kind = "h5"
    if kind not in KINDS:
        msg = f"{os.fspath(path)}: expected one of {', '.join(KINDS)}, got {kind!r:.20}"
        raise SpecnetError(msg)
    data = KINDS[kind].write(model)
    x = _random_inputs(model)
    expected = model.predict(x)
    if not np.isfinite(expected).all():
        msg = f"{os.fspath(path)}: not written: the model's outputs for random inputs are not finite; check its weights"
        raise SpecnetError(msg)
    difference = float(np.abs(KINDS[kind].predict(data, x) - expected).max())
    tolerance = TOLERANCE[model.dtype.name] * max(1.0, float(np.abs(expected).max()))
    if not difference <= max(tolerance, _rounding_sensitivity(model, x, expected)):
        msg = f"{os.fspath(path)}: not written: when read back, its predictions differ by {difference:.3g}"
        raise SpecnetError(msg)
    write_file(path, data, SpecnetError)
    return Exported(kind, len(data), difference)


def _rounding_sensitivity(model: Model, x: Array, expected: Array) -> float:
    """Return the largest change of the outputs if the inputs change by 10 machine epsilons.

    Other programs round differently, and a normalization over nearly equal features amplifies the difference.
    """
    if x.dtype.kind != "f":
        return 0.0
    perturbed = model.predict(x * (1 + 10 * np.finfo(x.dtype).eps))
    return float(np.abs(perturbed - expected).max())


def _random_inputs(model: Model) -> Array:
    rng = np.random.default_rng(0)
    limit = model.plan.layers[0].input_limit
    shape = (ROWS, *model.input_shape)
    return rng.integers(0, limit, shape) if limit is not None else rng.normal(size=shape).astype(model.dtype)


def _predict_with(read: Callable[[str], Imported]) -> Callable[[bytes, Array], Array]:
    def predict(data: bytes, x: Array) -> Array:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "exported"
            path.write_bytes(data)
            return read(os.fspath(path)).model.predict(x)

    return predict


KINDS: dict[str, _Kind] = {
    "onnx": _Kind(to_onnx, run_onnx),
    "keras": _Kind(to_keras, _predict_with(lambda path: from_keras(path, own=False))),
    "safetensors": _Kind(to_safetensors, _predict_with(from_safetensors)),
    "npz": _Kind(to_npz, _predict_with(from_npz)),
    "h5": _Kind(to_keras_h5, _predict_with(from_keras_h5)),
}
