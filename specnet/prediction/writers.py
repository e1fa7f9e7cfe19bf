"""Write predictions to a .csv, .npy, .npz or .h5 file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specnet.errors import DataError
from specnet.files.atomic import write_file
from specnet.files.csv_cells import csv_cells
from specnet.prediction.predict import Prediction


def write_prediction(prediction: Prediction, path: str | os.PathLike[str]) -> None:
    """Write outputs and classes to a .csv, .npz or .h5 file, or only the outputs to .npy. Raises DataError."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        msg = f"{os.fspath(path)}: expected a file name that ends in {', '.join(_WRITERS)}"
        raise DataError(msg)
    write_file(path, _WRITERS[suffix](prediction), DataError)


def _arrays(prediction: Prediction) -> dict[str, Any]:
    classes = prediction.classes
    return {"outputs": prediction.outputs} | ({} if classes is None else {"class": classes})


def _csv(prediction: Prediction) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = prediction.classes
    writer.writerow(csv_cells([*prediction.names, *(["class"] if classes is not None else [])]))
    names = classes if classes is None or classes.dtype.kind != "U" else csv_cells(classes)
    for index, row in enumerate(prediction.outputs.reshape(len(prediction.outputs), -1)):
        writer.writerow([*(str(value) for value in row), *([names[index]] if names is not None else [])])
    return text.getvalue().encode()


def _npy(prediction: Prediction) -> bytes:
    file = io.BytesIO()
    np.save(file, prediction.outputs, allow_pickle=False)
    return file.getvalue()


def _npz(prediction: Prediction) -> bytes:
    file = io.BytesIO()
    np.savez(file, **_arrays(prediction))
    return file.getvalue()


def _hdf5(prediction: Prediction) -> bytes:
    import h5py  # noqa: PLC0415 - heavy, and needed for this format only

    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        for name, array in _arrays(prediction).items():
            hdf5[name] = np.strings.encode(array, "utf-8") if array.dtype.kind == "U" else array
    return file.getvalue()


_WRITERS: dict[str, Callable[[Prediction], bytes]] = {".csv": _csv, ".npy": _npy, ".npz": _npz, ".h5": _hdf5}
