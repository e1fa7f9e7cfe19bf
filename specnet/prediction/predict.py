"""Predict for the rows of a data file: outputs, probabilities and classes for a classifier, metrics, warnings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from specnet.arrays.frames import canonical, trained_names
from specnet.data.conform import conform_weights, store_inputs
from specnet.data.dataset import Conversion, Dataset, converted
from specnet.data.files import array_name, read_array, read_rows
from specnet.data.image_folder import read_images
from specnet.data.labels import index_note, reads_text
from specnet.data.raw import TABLES, Columns, NotThereError, RawArray, RawRows, kind_by_name, kind_of
from specnet.data.sequences.ragged import conform_step_targets, padded
from specnet.data.sequences.text import tokenized
from specnet.data.sequences.windows import Windows, cut_targets, cut_windows
from specnet.data.spec import DataEntry
from specnet.errors import DataError, SpecError
from specnet.files.paths import user_path
from specnet.model import Model
from specnet.prediction.out_of_range import OutOfRange
from specnet.training.epoch_metrics import evaluate, evaluation_rows
from specnet.training.losses.base import Loss
from specnet.training.spec.checks import metric_specs
from specnet.training.spec.experiment_spec import ExperimentSpec


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
    their order does not matter. For a .npy or IDX file, `targets` names a second file; for a folder of images, any
    `targets` mean the names of its folders, for a text file the tokens that follow. Of a model trained on windows, the
    rows are all windows over the file; with `targets`, those whose targets are in the file. Raises DataError.
    """
    rows = file_rows(model, path, inputs, targets)
    metrics = {}
    if rows.targets is not None and rows.loss is not None and rows.experiment is not None:
        dataset = Dataset(rows.stored, rows.targets, conversion=rows.conversion)
        metrics = evaluate(model, rows.loss, dataset, metric_specs(rows.experiment.training)).values()
    outputs, classes, out_of_range = _answer_all(model, rows, logits=logits)
    raw_note = "the checkpoint holds no training run, so these are the model's own outputs, not probabilities"
    raw_notes = [raw_note] if rows.loss is None and model.spec.labels and not logits else []
    notes = (*rows.notes, *raw_notes, *out_of_range.notes(model, len(rows.stored), rows.names))
    return Prediction(outputs, _names(model), classes, metrics, notes)


def _answer_all(model: Model, rows: FileRows, *, logits: bool) -> tuple[RawArray, RawArray | None, OutOfRange]:
    """Return outputs, classes and out-of-range rows of a file; its rows are converted and predicted in parts."""
    step = evaluation_rows(model)
    outputs, classes, out_of_range = [], [], OutOfRange()
    for start in range(0, len(rows.stored), step):
        x = rows.part(start, start + step)
        part, part_classes = answers(model, rows.loss, x, logits=logits)
        outputs.append(part)
        classes += [] if part_classes is None else [part_classes]
        out_of_range = out_of_range.add(model, x, start)
    return np.concatenate(outputs), np.concatenate(classes) if classes else None, out_of_range


def answers(model: Model, loss: Loss | None, x: RawArray, *, logits: bool) -> tuple[RawArray, RawArray | None]:
    """Return the outputs (probabilities for a classifier unless `logits`) and the classes, None without classes."""
    outputs: RawArray = model.predict(x, batch_size=evaluation_rows(model))
    if loss is not None and not logits:
        outputs = loss.probabilities(outputs)
    return outputs, _classes(model, loss, outputs, logits)


@dataclass(frozen=True)
class FileRows:
    """Rows of a file for a model; experiment and loss are None if no training run saved the model.

    `stored` and `conversion` are those of a Dataset. `notes` tell what the reader left out.
    """

    stored: RawArray
    conversion: Conversion | None
    targets: RawArray | None
    names: tuple[str, ...]
    experiment: ExperimentSpec | None
    loss: Loss | None
    notes: tuple[str, ...]
    weights: RawArray | None

    @cached_property
    def inputs(self) -> RawArray:
        """The inputs of all rows."""
        return self.part(0, len(self.stored))

    def part(self, start: int, stop: int) -> RawArray:
        """Return the inputs of rows [start, stop)."""
        return converted(np.ascontiguousarray(self.stored[start:stop]), self.conversion)


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
    source = os.fspath(path)
    raw = _read(model, experiment, user_path(path), inputs, targets, weights, notes, text_targets=text_targets)
    if targets is not None and loss is None:
        msg = f"{source}: targets need the loss of a run, and the checkpoint holds no training run"
        raise DataError(msg)
    windows, scale = trained_windows(experiment), input_scale(experiment)
    if windows is None:
        raw = padded(tokenized(raw, model.spec, source), model.spec, source, scale)
        names = raw.names if raw.lengths is None else ()
        x, conversion = store_inputs(raw.inputs, model.spec, source, scale, trained=True, names=names)
    else:
        _, x, conversion = cut_windows(raw, model.spec, windows, source, scale, targets=targets is not None)
    y = None
    if targets is not None and loss is not None:
        if windows is None:
            y = conform_step_targets(raw, model.spec, loss, len(x), source)
        elif raw.targets is not None:
            y = cut_targets(raw.targets, model.spec, loss, windows, len(raw.inputs), source)
        notes += filter(None, [index_note(raw.targets, model.spec, loss)])
    w = conform_weights(raw.weights, model.spec, len(x), source)
    return FileRows(x, conversion, y, raw.names, experiment, loss, tuple(notes), w)


def input_scale(experiment: ExperimentSpec | None) -> float | None:
    """Return the number by which the run divided its inputs, so that files are divided too."""
    return None if experiment is None else experiment.data.train.scale


def trained_windows(experiment: ExperimentSpec | None) -> Windows | None:
    """Return the windows that were the rows of the run, so that files are windowed too; None without windows."""
    return None if experiment is None else experiment.data.train.windows


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
    if kind == "images":
        return read_images(source, model.input_shape, labelled=targets is not None)
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
    lengths = entry.lengths if kind_by_name(entry.path) == kind else None
    not_inputs = [name for name in (entry.targets or "y", entry.weights) if isinstance(name, str)]
    read = partial(
        read_rows,
        source,
        inputs,
        targets,
        weights,
        beside=not_inputs,
        fill=entry.fill,
        missing=entry.missing,
        text_targets=text_targets,
        text_inputs=model.spec.tokenizer is not None and kind in TABLES,
        shared=entry.window is not None,
        note=lambda text: notes.append(text.removeprefix(f"{source}: ")),
    )
    try:
        return read(lengths=lengths)
    except NotThereError:
        if lengths is None:
            raise
        return read()  # rows that are padded already need no lengths


def trained_inputs(experiment: ExperimentSpec, source: Path) -> Columns:
    """Return the name of the training inputs if `source` has the format of the training file, else None."""
    entry = experiment.data.train
    return entry.inputs if entry.path and kind_by_name(entry.path) == kind_of(source) else None


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
