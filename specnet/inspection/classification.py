"""Evaluate a classifier on labelled rows: accuracy, confusion matrix, and the worst misclassified rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.data.dataset import Dataset
from specnet.data.raw import Columns, NotThereError
from specnet.errors import DataError
from specnet.inspection.attention_maps import count_heads, token_names
from specnet.inspection.held_out import rows_to_evaluate
from specnet.inspection.inspect import experiment_of
from specnet.inspection.trace import AnyArray
from specnet.inspection.vision import View, Views, look
from specnet.model import Model
from specnet.prediction.predict import FileRows, file_rows
from specnet.spec.model_spec import ModelSpec
from specnet.training.epoch_metrics import evaluation_rows

WORST = 12  # misclassified rows that are listed
MOST_CLASSES = 512


@dataclass(frozen=True)
class Sample:
    """A row of the file (counted from 1): true class, predicted class, the probabilities of both, and the inputs."""

    row: int
    label: str
    predicted: str
    probability: float
    predicted_probability: float
    inputs: npt.NDArray[Any]
    view: View | None = None
    """How the model reads the row, if it is an image."""
    step: int | None = None
    """The time step (counted from 1), if there is a class for each step."""


@dataclass(frozen=True)
class Classified:
    """The accuracy on `rows` rows, the confusion matrix, and the misclassified rows with the lowest true probability.

    note: which rows of the file these are, and whether the model was trained on them. counts: (classes, classes), the
    number of rows by true class (first axis) and predicted class (second axis); None for more than 512 classes. The
    feature maps of the rows are the first of `map_count` outputs of `map_layer`, "" if there are none.
    """

    path: str
    labels: tuple[str, ...]
    rows: int
    accuracy: float
    counts: npt.NDArray[np.int64] | None
    worst: tuple[Sample, ...]
    note: str = ""
    map_layer: str = ""
    map_count: int = 0
    unit: str = "rows"
    """What has a class: "rows" or "time steps"; `rows` is their number."""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a file, which of them count, as indices, and a note on them for readers."""

    path: str
    rows: FileRows
    chosen: npt.NDArray[np.intp]
    note: str


def classify(
    model: Model,
    path: str | os.PathLike[str],
    inputs: Columns = None,
    targets: Columns = None,
    *,
    folder: Path | None = None,
) -> Classified | None:
    """Predict the classes of a file's rows; return None if the model is no classifier. Raises DataError.

    Of the file that the model was trained on, only the rows held out for validation count. For any other file, `folder`
    is the folder of the run, in which the training rows are looked up.
    """
    labelled = read_labelled(model, path, inputs, targets, folder=folder)
    return None if labelled is None else classify_rows(model, labelled)


def read_labelled(
    model: Model,
    path: str | os.PathLike[str],
    inputs: Columns = None,
    targets: Columns = None,
    *,
    folder: Path | None = None,
) -> LabelledRows | None:
    """Read a file and choose rows as `classify` does; None if there is nothing to show of them. Raises DataError.

    There is something for a classifier, and for a model with attention.
    """
    experiment = experiment_of(model)
    if targets is None and experiment is not None and experiment.data.train.forecasts:
        return _windows(model, path, inputs) if count_heads(model.spec) else None
    if targets is None:
        targets = (experiment.data.train.targets if experiment is not None else None) or "y"
    weights = None if experiment is None or not experiment.data.train.path else experiment.data.train.weights
    try:
        rows = file_rows(model, path, inputs, targets, weights)
    except NotThereError:
        if weights is None:
            raise
        rows = file_rows(model, path, inputs, targets)  # weights only help to recognize the data of the run
    if rows.loss is None or rows.experiment is None or rows.targets is None:
        return None
    if not rows.loss.has_classes() and not count_heads(model.spec):
        return None
    if not len(rows.inputs):
        msg = f"{os.fspath(path)}: expected at least one row, got none"
        raise DataError(msg)
    chosen, note = rows_to_evaluate(model, rows.experiment, Dataset(rows.inputs, rows.targets, rows.weights), folder)
    return LabelledRows(os.fspath(path), rows, chosen, note)


def _windows(model: Model, path: str | os.PathLike[str], inputs: Columns) -> LabelledRows | None:
    """Return the windows over a series without targets, the last ones first, as those are held out."""
    rows = file_rows(model, path, inputs)
    return LabelledRows(os.fspath(path), rows, np.arange(len(rows.stored))[::-1], "") if len(rows.stored) else None


def classify_rows(model: Model, labelled: LabelledRows) -> Classified | None:
    """Predict the classes of rows, or of the time steps that count if there is a class for each step.

    Returns None if the model is no classifier.
    """
    answers = _answers(model, labelled)
    if answers is None:
        return None
    x = labelled.rows.inputs[labelled.chosen]
    p, truth, row_of, steps = answers
    classes = p.shape[1]
    labels = _class_names(model.spec, classes)
    predicted = p.argmax(axis=1)
    counts = None
    if classes <= MOST_CLASSES:
        counts = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    true_probability = p[np.arange(len(p)), truth]
    misclassified = np.flatnonzero(predicted != truth)
    order = misclassified[np.argsort(true_probability[misclassified], kind="stable")][:WORST]
    seen = look(model, x[row_of[order]], predicted[order]) or Views(())
    worst = tuple(
        Sample(
            int(labelled.chosen[row_of[i]]) + 1,
            labels[truth[i]],
            labels[predicted[i]],
            float(true_probability[i]),
            float(p[i, predicted[i]]),
            x[row_of[i]].copy(),
            view,
            None if steps is None else int(steps[i]) + 1,
        )
        for i, view in zip_longest(order, seen.views)
    )
    return Classified(
        labelled.path,
        labels,
        len(p),
        float(np.mean(predicted == truth)),
        counts,
        worst,
        labelled.note,
        seen.layer,
        seen.channels,
        "rows" if steps is None else "time steps",
    )


class _Answers(NamedTuple):
    """Probabilities (answers, classes) and true classes; the row of each answer, and its step if it is of one."""

    p: AnyArray
    truth: npt.NDArray[np.int64]
    row_of: npt.NDArray[np.intp]
    steps: npt.NDArray[np.intp] | None


def _answers(model: Model, labelled: LabelledRows) -> _Answers | None:
    loss, targets = labelled.rows.loss, labelled.rows.targets
    if loss is None or targets is None or not loss.has_classes():
        return None
    truth = np.asarray(targets)[labelled.chosen]
    x = labelled.rows.inputs[labelled.chosen]
    p = loss.probabilities(model.predict(x, batch_size=evaluation_rows(model)))
    if not loss.takes_classes():
        if p.shape[-1] != 1:
            return None
        p, truth = np.concatenate([1 - p, p], axis=-1), (truth.reshape(p.shape[:-1]) > 0.5).astype(np.int64)
    elif truth.ndim == p.ndim:  # targets are distributions over the classes
        truth = truth.argmax(axis=-1)
    if p.ndim == 2:
        return _Answers(p, truth, np.arange(len(p)), None)
    mask = model.output_mask(x)
    counts = np.ones(p.shape[:2], np.bool_) if mask is None else mask
    if p.ndim != 3 or not counts.any():
        return None
    return _Answers(p[counts], truth[counts], *np.nonzero(counts))


def _class_names(spec: ModelSpec, classes: int) -> tuple[str, ...]:
    """Return the labels, the tokens of a language model, or the indices of the classes."""
    if spec.labels:
        return spec.labels
    names = token_names(spec) if len(spec.output_shape) > 1 else ()
    names = names if len(names) <= classes else ()
    return tuple(names[index] if index < len(names) else str(index) for index in range(classes))
