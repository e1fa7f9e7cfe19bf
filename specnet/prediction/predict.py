"""Predictions for the rows of a file: outputs, probabilities for a classifier, classes by name, and their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specnet.data.conform import conform_inputs, conform_targets
from specnet.data.dataset import Dataset
from specnet.data.files import array_name, read_array, read_rows
from specnet.data.raw import TABLES, Columns, RawArray, RawRows, kind_of
from specnet.data.spec import DataEntry
from specnet.errors import DataError, SpecError
from specnet.files.paths import user_path
from specnet.model import Model
from specnet.training.epoch_metrics import evaluate, evaluation_rows
from specnet.training.losses.base import Loss
from specnet.training.spec.checks import metric_specs
from specnet.training.spec.experiment_spec import ExperimentSpec

FAR = 3


@dataclass(frozen=True)
class Prediction:
    """What a model says of some rows.

    outputs: (rows, *output_shape), probabilities for a classifier trained on logits; classes: names or indices,
    None where the model is no classifier; metrics: of the targets that were given, empty without; notes: on inputs far
    outside the range of the training rows.
    """

    outputs: RawArray
    names: tuple[str, ...]
    classes: RawArray | None
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()


def predict_file(
    model: Model,
    path: str | os.PathLike[str],
    inputs: Columns = None,
    targets: Columns = None,
    *,
    logits: bool = False,
) -> Prediction:
    """Predict for the rows of a data file; `inputs` and `targets` name its arrays or columns.

    Inputs are named as the run's training data were, by default; in a table the columns are found by their names,
    whatever their order. For a .npy or IDX file, `targets` is a file of its own. Raises DataError.
    """
    rows = file_rows(model, path, inputs, targets)
    metrics = {}
    if rows.targets is not None and rows.loss is not None and rows.experiment is not None:
        dataset = Dataset(rows.inputs, rows.targets)
        metrics = evaluate(model, rows.loss, dataset, metric_specs(rows.experiment.training)).values()
    outputs, classes = answers(model, rows.loss, rows.inputs, logits=logits)
    notes = tuple(_far_out(model, rows.inputs, rows.names))
    return Prediction(outputs, _names(model), classes, metrics, notes)


def answers(model: Model, loss: Loss | None, x: RawArray, *, logits: bool) -> tuple[RawArray, RawArray | None]:
    """Give what a model says of rows, probabilities for a classifier unless `logits`, and the classes, if any."""
    outputs: RawArray = model.predict(x, batch_size=evaluation_rows(model))
    if loss is not None and not logits:
        outputs = loss.probabilities(outputs)
    return outputs, _classes(model, loss, outputs, logits)


class FileRows(NamedTuple):
    """Rows of a file, fitted to a model: its run's experiment and loss are None where no run saved the model."""

    inputs: RawArray
    targets: RawArray | None
    names: tuple[str, ...]
    experiment: ExperimentSpec | None
    loss: Loss | None


def file_rows(model: Model, path: str | os.PathLike[str], inputs: Columns = None, targets: Columns = None) -> FileRows:
    """Read rows as `predict_file` does, targets too where they are named. Raises DataError."""
    experiment = run_experiment(model)
    raw = _read(model, experiment, user_path(path), inputs, targets)
    x = conform_inputs(raw.inputs, model.spec, os.fspath(path), trained=True)
    loss = None if experiment is None else experiment.training.loss.build()
    fitted = None
    if raw.targets is not None:
        if loss is None:
            msg = f"{os.fspath(path)}: the checkpoint holds no training run, so there is no loss to measure targets by"
            raise DataError(msg)
        fitted = conform_targets(raw.targets, model.spec, loss, len(x), os.fspath(path))
    return FileRows(x, fitted, raw.names, experiment, loss)


def _read(model: Model, experiment: ExperimentSpec | None, source: Path, inputs: Columns, targets: Columns) -> RawRows:
    kind = kind_of(source)
    if kind in ("npy", "idx"):
        own = None if targets is None else read_array(user_path(array_name(source, targets)))
        return RawRows(read_array(source), own)
    entry = experiment.data.train if experiment is not None else DataEntry(path=os.fspath(source))
    trained = _trained_columns(model)
    if inputs is not None and trained is not None and list(inputs) != trained and sorted(inputs) == sorted(trained):
        msg = f"{source}: the model was trained on the columns {','.join(trained)}, in this order; leave --inputs out"
        raise DataError(msg)
    if inputs is None and kind in TABLES:
        inputs = trained
    elif inputs is None and experiment is not None:
        inputs = trained_inputs(experiment, source)
    beside = [name for name in (entry.targets or "y", entry.weights) if isinstance(name, str)]
    return read_rows(source, inputs, targets, beside=beside, fill=entry.fill)


def trained_inputs(experiment: ExperimentSpec, source: Path) -> Columns:
    """Give the name of the training inputs, for a file of the same format; None for others."""
    entry = experiment.data.train
    return entry.inputs if entry.path and kind_of(Path(entry.path)) == kind_of(source) else None


def _trained_columns(model: Model) -> list[str] | None:
    """List the columns of the table that the model was trained on. Raises DataError for a checkpoint that lies."""
    written = (model.run_state or {}).get("features/names")
    if written is None:
        return None
    try:
        names = json.loads(written) if isinstance(written, str) else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        msg = "the names of the columns in the checkpoint make no sense"
        raise DataError(msg)
    return names


def _far_out(model: Model, x: RawArray, names: tuple[str, ...]) -> Iterator[str]:
    """Say which inputs lie outside the range of the training rows by more than FAR times its width."""
    far = far_values(model, x)
    if far is not None and far.any():
        yield far_note(model, x, names, far)


def far_values(model: Model, x: RawArray) -> RawArray | None:
    """Tell which inputs lie far outside the range of the training rows: (rows, inputs); None where it is not known."""
    state = model.run_state or {}
    low, high = state.get("features/low"), state.get("features/high")
    if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or {low.shape, high.shape} != {x.shape[1:]}:
        return None
    width = FAR * np.where(high > low, high - low, np.maximum(np.abs(low), 1))
    return ((x < low - width) | (x > high + width)).reshape(len(x), -1)


def far_note(
    model: Model, x: RawArray, names: tuple[str, ...], far: RawArray, first_row: int = 0, count: int = 0, total: int = 0
) -> str:
    """Say how many rows are so, and the first of them; of `total` rows, where x are some, from `first_row` on."""
    state = model.run_state or {}
    rows = np.flatnonzero(far.any(axis=1))
    column = int(far[rows[0]].argmax())
    what = names[column] if column < len(names) else f"input {column + 1}"
    least, most = (state[f"features/{key}"].reshape(-1)[column] for key in ("low", "high"))
    value = x.reshape(len(x), -1)[rows[0], column]
    return (
        f"{count or len(rows)} of {total or len(x)} rows have inputs far outside the range of the training rows: "
        f"row {first_row + rows[0] + 1}, {what} is {value:g}, was {least:g} to {most:g}; "
        "do not trust what is said of them"
    )


def run_experiment(model: Model) -> ExperimentSpec | None:
    """Give the experiment whose run saved a model, None where there is none. Raises DataError for one that lies."""
    text = (model.run_state or {}).get("experiment")
    if not isinstance(text, str):
        return None
    try:
        return ExperimentSpec.from_text(text)
    except SpecError as error:
        msg = f"the experiment in the checkpoint is not valid: {error}"
        raise DataError(msg) from None


def _names(model: Model) -> tuple[str, ...]:
    width = int(np.prod(model.output_shape))
    labels = model.spec.labels
    if len(labels) == width:
        return labels
    return tuple(f"output_{index}" for index in range(width)) if width > 1 else ("output",)


def _classes(model: Model, loss: Loss | None, outputs: RawArray, logits: bool) -> RawArray | None:
    labels = model.spec.labels
    classifier = bool(labels) or (loss is not None and loss.takes_classes())
    binary = loss is not None and loss.yes_or_no and outputs.shape[1:] == (1,)
    if outputs.ndim != 2 or not (classifier or binary):
        return None
    if outputs.shape[1] == 1:
        indices = (outputs[:, 0] > (0 if logits else 0.5)).astype(np.int64)
    else:
        indices = outputs.argmax(axis=1)
    return np.array(labels)[indices] if labels else indices
