"""Predictions for the rows of a file: outputs, probabilities for a classifier, classes by name, and their files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specnet.checkpoint.durable import replace_file, write_at
from specnet.errors import DataError, SpecError
from specnet.model import Model
from specnet.paths import user_path
from specnet.training import data as files
from specnet.training.data import Columns, RawArray
from specnet.training.experiment import DataEntry, ExperimentSpec, loss_of
from specnet.training.loop import EVALUATION_ROWS, evaluate
from specnet.training.losses import Loss


@dataclass(frozen=True)
class Prediction:
    """What a model says of some rows.

    outputs: (rows, *output_shape), probabilities for a classifier trained on logits; classes: names or indices,
    None where the model is no classifier; metrics: of the targets that were given, empty without.
    """

    outputs: RawArray
    names: tuple[str, ...]
    classes: RawArray | None
    metrics: dict[str, float]


def predict_file(
    model: Model,
    path: str | os.PathLike[str],
    inputs: Columns = None,
    targets: str | None = None,
    *,
    logits: bool = False,
) -> Prediction:
    """Predict for the rows of a data file; `inputs` and `targets` name its arrays or columns.

    Inputs are named as the run's training data were, by default; in a CSV the column of the targets is passed over.
    For a .npy or IDX file, `targets` is a file of its own. Raises DataError.
    """
    source = user_path(path)
    kind = files.kind_of(source)
    separate = kind in ("npy", "idx")
    experiment = _experiment(model)
    entry = experiment.data.train if experiment is not None else DataEntry(path=os.fspath(path))
    beside = entry.targets if isinstance(entry.targets, str) else "y"
    alike = entry.path and files.kind_of(Path(entry.path)) == kind
    named = inputs or (entry.inputs if alike else None)
    raw, raw_targets = files.read_columns(source, named, None if separate else targets, beside)
    if separate and targets is not None:
        raw_targets = files.read_array(user_path(targets))
    x = files.fit_inputs(raw, model.spec, os.fspath(path), trained=True)
    loss = None if experiment is None else loss_of(experiment)
    metrics = {}
    if raw_targets is not None:
        if loss is None:
            msg = f"{os.fspath(path)}: the checkpoint holds no training run, so there is no loss to measure targets by"
            raise DataError(msg)
        fitted = files.fit_targets(raw_targets, model.spec, loss, len(x), os.fspath(path))
        metrics = evaluate(model, loss, files.Dataset(x, fitted)).metrics()
    outputs = model.predict(x, batch_size=EVALUATION_ROWS)
    if loss is not None and not logits:
        outputs = loss.probabilities(outputs)
    return Prediction(outputs, _names(model, outputs), _classes(model, loss, outputs, logits), metrics)


def _experiment(model: Model) -> ExperimentSpec | None:
    text = (model.run_state or {}).get("experiment")
    if not isinstance(text, str):
        return None
    try:
        return ExperimentSpec.from_text(text)
    except SpecError as error:
        msg = f"the experiment in the checkpoint is not valid: {error}"
        raise DataError(msg) from None


def _names(model: Model, outputs: RawArray) -> tuple[str, ...]:
    width = int(np.prod(outputs.shape[1:]))
    labels = model.spec.labels
    if len(labels) == width:
        return labels
    return tuple(f"output_{index}" for index in range(width)) if width > 1 else ("output",)


def _classes(model: Model, loss: Loss | None, outputs: RawArray, logits: bool) -> RawArray | None:
    labels = model.spec.labels
    classifier = bool(labels) or (loss is not None and loss.takes_classes())
    binary = loss is not None and loss.name == "binary_cross_entropy" and outputs.shape[1:] == (1,)
    if outputs.ndim != 2 or not (classifier or binary):
        return None
    if outputs.shape[1] == 1:
        indices = (outputs[:, 0] > (0 if logits else 0.5)).astype(np.int64)
    else:
        indices = outputs.argmax(axis=1)
    return np.array(labels)[indices] if labels else indices


def write_prediction(prediction: Prediction, path: str | os.PathLike[str]) -> None:
    """Write outputs (and classes) to a .csv, .npz or .h5 file, outputs alone to .npy. Raises DataError."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        msg = f"{os.fspath(path)}: expected a file name that ends in {', '.join(_WRITERS)}"
        raise DataError(msg)
    data = _WRITERS[suffix](prediction)
    try:
        replace_file(path, lambda descriptor: write_at(descriptor, 0, data))
    except OSError as error:
        msg = f"{os.fspath(path)}: cannot be written: {error.strerror or error}"
        raise DataError(msg) from error


def _arrays(prediction: Prediction) -> dict[str, Any]:
    classes = prediction.classes
    return {"outputs": prediction.outputs} | ({} if classes is None else {"class": classes})


def _csv(prediction: Prediction) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = prediction.classes
    writer.writerow([*prediction.names, *(["class"] if classes is not None else [])])
    for index, row in enumerate(prediction.outputs.reshape(len(prediction.outputs), -1)):
        writer.writerow([*(str(value) for value in row), *([classes[index]] if classes is not None else [])])
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
    with h5py.File(file, "w") as made:
        for name, array in _arrays(prediction).items():
            made[name] = array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array
    return file.getvalue()


_WRITERS: dict[str, Callable[[Prediction], bytes]] = {".csv": _csv, ".npy": _npy, ".npz": _npz, ".h5": _hdf5}
