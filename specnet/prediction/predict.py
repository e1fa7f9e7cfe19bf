"""Predict for the rows of a data file: outputs, probabilities and classes for a classifier, metrics, warnings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specnet.arrays.frames import canonical, trained_names
from specnet.data.conform import conform_inputs, conform_targets, conform_weights
from specnet.data.dataset import Dataset
from specnet.data.files import array_name, read_array, read_rows
from specnet.data.labels import index_note, reads_text
from specnet.data.raw import TABLES, Columns, RawArray, RawRows, kind_of
from specnet.data.spec import DataEntry
from specnet.errors import DataError, SpecError
from specnet.files.paths import user_path
from specnet.model import Model
from specnet.training.epoch_metrics import evaluate, evaluation_rows
from specnet.training.losses.base import Loss
from specnet.training.spec.checks import metric_specs
from specnet.training.spec.experiment_spec import ExperimentSpec

FAR = 3  # range widths outside the training range from which on an input is out of range


@dataclass(frozen=True)
class Prediction:
    """The predictions for some rows.

    outputs: (rows, *output_shape), probabilities for a classifier trained on logits. names: column names of the
    outputs. classes: (rows,) class names or indices, None if the model is no classifier. metrics: computed from the
    targets, empty without targets. notes: what the reader left out, and warnings about inputs far outside the range of
    the training rows.
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

    By default, the inputs have the names of the run's training data. The columns of a table are looked up by name, so
    their order does not matter. For a .npy or IDX file, `targets` names a second file. Raises DataError.
    """
    rows = file_rows(model, path, inputs, targets)
    metrics = {}
    if rows.targets is not None and rows.loss is not None and rows.experiment is not None:
        dataset = Dataset(rows.inputs, rows.targets)
        metrics = evaluate(model, rows.loss, dataset, metric_specs(rows.experiment.training)).values()
    outputs, classes = answers(model, rows.loss, rows.inputs, logits=logits)
    raw_note = "the checkpoint holds no training run, so these are the model's own outputs, not probabilities"
    raw_notes = [raw_note] if rows.loss is None and model.spec.labels and not logits else []
    notes = (*rows.notes, *raw_notes, *_out_of_range_notes(model, rows.inputs, rows.names))
    return Prediction(outputs, _names(model), classes, metrics, notes)


def answers(model: Model, loss: Loss | None, x: RawArray, *, logits: bool) -> tuple[RawArray, RawArray | None]:
    """Return the outputs (probabilities for a classifier unless `logits`) and the classes, None without classes."""
    outputs: RawArray = model.predict(x, batch_size=evaluation_rows(model))
    if loss is not None and not logits:
        outputs = loss.probabilities(outputs)
    return outputs, _classes(model, loss, outputs, logits)


class FileRows(NamedTuple):
    """Rows of a file, converted for a model; experiment and loss are None if no training run saved the model.

    `notes` tell what the reader left out.
    """

    inputs: RawArray
    targets: RawArray | None
    names: tuple[str, ...]
    experiment: ExperimentSpec | None
    loss: Loss | None
    notes: tuple[str, ...]
    weights: RawArray | None


def file_rows(
    model: Model,
    path: str | os.PathLike[str],
    inputs: Columns = None,
    targets: Columns = None,
    weights: str | None = None,
) -> FileRows:
    """Read the rows of a file as `predict_file` does, with targets and weights if these are named. Raises DataError."""
    experiment = run_experiment(model)
    loss = None if experiment is None else experiment.training.loss.build()
    text_targets = loss is not None and reads_text(model.spec, loss)
    notes: list[str] = []
    raw = _read(model, experiment, user_path(path), inputs, targets, weights, notes, text_targets=text_targets)
    x = conform_inputs(raw.inputs, model.spec, os.fspath(path), trained=True, names=raw.names)
    y = None
    if raw.targets is not None:
        if loss is None:
            msg = f"{os.fspath(path)}: targets need the loss of a run, and the checkpoint holds no training run"
            raise DataError(msg)
        y = conform_targets(raw.targets, model.spec, loss, len(x), os.fspath(path))
        notes += filter(None, [index_note(raw.targets, model.spec, loss)])
    return FileRows(
        x,
        y,
        raw.names,
        experiment,
        loss,
        tuple(notes),
        conform_weights(raw.weights, model.spec, len(x), os.fspath(path)),
    )


def _read(
    model: Model,
    experiment: ExperimentSpec | None,
    source: Path,
    inputs: Columns,
    targets: Columns,
    weights: str | None,
    notes: list[str],
    *,
    text_targets: bool,
) -> RawRows:
    kind = kind_of(source)
    if kind in ("npy", "idx"):
        target_array = None if targets is None else read_array(user_path(array_name(source, targets)))
        return RawRows(read_array(source), target_array)
    entry = experiment.data.train if experiment is not None else DataEntry(path=os.fspath(source))
    columns = list(trained_names(model.run_state)) or None
    chosen = [canonical(name) for name in ([inputs] if isinstance(inputs, str) else inputs or ())]
    if chosen and columns is not None and chosen != columns and sorted(chosen) == sorted(columns):
        msg = f"{source}: the model was trained on the columns {','.join(columns)}, in this order; omit --inputs"
        raise DataError(msg)
    trained = list(map(canonical, entry.targets)) if isinstance(entry.targets, tuple) else []
    chosen_targets = [] if targets is None or isinstance(targets, str) else list(map(canonical, targets))
    if chosen_targets != trained and sorted(chosen_targets) == sorted(trained):
        listed = ",".join(trained)
        msg = f"{source}: the model was trained on the targets {listed}, in this order; write --targets {listed}"
        raise DataError(msg)
    if inputs is None and kind in TABLES:
        inputs = columns
    elif inputs is None and experiment is not None:
        inputs = trained_inputs(experiment, source)
    not_inputs = [name for name in (entry.targets or "y", entry.weights) if isinstance(name, str)]
    return read_rows(
        source,
        inputs,
        targets,
        weights,
        beside=not_inputs,
        fill=entry.fill,
        missing=entry.missing,
        text_targets=text_targets,
        note=lambda text: notes.append(text.removeprefix(f"{source}: ")),
    )


def trained_inputs(experiment: ExperimentSpec, source: Path) -> Columns:
    """Return the name of the training inputs if `source` has the format of the training file, else None."""
    entry = experiment.data.train
    return entry.inputs if entry.path and kind_of(Path(entry.path)) == kind_of(source) else None


def _out_of_range_notes(model: Model, x: RawArray, names: tuple[str, ...]) -> Iterator[str]:
    """Yield a note if inputs lie more than FAR range widths outside the training range."""
    far = far_values(model, x)
    if far is not None and far.any():
        yield far_note(model, x, names, far)


def far_values(model: Model, x: RawArray) -> RawArray | None:
    """Return a boolean mask (rows, inputs) of the out-of-range inputs, None if the training range is unknown."""
    state = model.run_state or {}
    low, high = state.get("features/low"), state.get("features/high")
    if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or {low.shape, high.shape} != {x.shape[1:]}:
        return None
    width = FAR * np.where(high > low, high - low, np.maximum(np.abs(low), 1))
    return ((x < low - width) | (x > high + width)).reshape(len(x), -1)


def far_note(
    model: Model, x: RawArray, names: tuple[str, ...], far: RawArray, first_row: int = 0, count: int = 0, total: int = 0
) -> str:
    """Return the warning: the number of out-of-range rows, and the first; x starts at `first_row` of `total` rows."""
    state = model.run_state or {}
    rows = np.flatnonzero(far.any(axis=1))
    column = int(far[rows[0]].argmax())
    input_name = names[column] if column < len(names) else f"input {column + 1}"
    low, high = (state[f"features/{key}"].reshape(-1)[column] for key in ("low", "high"))
    value = x.reshape(len(x), -1)[rows[0], column]
    return (
        f"{count or len(rows)} of {total or len(x)} rows have inputs far outside the range of the training rows: "
        f"row {first_row + rows[0] + 1}, {input_name} is {value:g}, was {low:g} to {high:g} in training; "
        "predictions for these rows are unreliable"
    )


def run_experiment(model: Model) -> ExperimentSpec | None:
    """Return the experiment whose run saved the model, None without one. Raises DataError for an invalid one."""
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
