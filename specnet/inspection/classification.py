"""Evaluate a classifier on labelled rows: accuracy, confusion matrix, and the worst misclassified rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.data.dataset import Dataset
from specnet.data.raw import Columns, NotThereError
from specnet.errors import DataError
from specnet.inspection.held_out import rows_to_evaluate
from specnet.inspection.inspect import experiment_of
from specnet.inspection.vision import View, Views, look
from specnet.model import Model
from specnet.prediction.predict import file_rows
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
    experiment = experiment_of(model)
    if targets is None and experiment is not None and experiment.data.train.forecasts:
        return None
    if targets is None:
        targets = (experiment.data.train.targets if experiment is not None else None) or "y"
    weights = None if experiment is None or not experiment.data.train.path else experiment.data.train.weights
    try:
        rows = file_rows(model, path, inputs, targets, weights)
    except NotThereError:
        if weights is None:
            raise
        rows = file_rows(model, path, inputs, targets)  # weights only help to recognize the data of the run
    if rows.loss is None or rows.experiment is None or rows.targets is None or not rows.loss.has_classes():
        return None
    if rows.loss.takes_classes() and len(model.output_shape) > 1:  # a class for each time step
        return None
    if not len(rows.inputs):
        msg = f"{os.fspath(path)}: expected at least one row, got none"
        raise DataError(msg)
    chosen, note = rows_to_evaluate(model, rows.experiment, Dataset(rows.inputs, rows.targets, rows.weights), folder)
    x, truth = rows.inputs[chosen], np.asarray(rows.targets)[chosen]
    p = rows.loss.probabilities(model.predict(x, batch_size=evaluation_rows(model)))
    if not rows.loss.takes_classes():
        if p.shape[1:] != (1,):
            return None
        p, truth = np.hstack([1 - p, p]), (truth.reshape(-1) > 0.5).astype(np.int64)
    elif truth.ndim == 2:  # targets are distributions over the classes
        truth = truth.argmax(axis=1)
    classes = p.shape[1]
    labels = model.spec.labels or tuple(map(str, range(classes)))
    predicted = p.argmax(axis=1)
    counts = None
    if classes <= MOST_CLASSES:
        counts = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    true_probability = p[np.arange(len(p)), truth]
    misclassified = np.flatnonzero(predicted != truth)
    order = misclassified[np.argsort(true_probability[misclassified], kind="stable")][:WORST]
    seen = look(model, x[order], predicted[order]) or Views(())
    worst = tuple(
        Sample(
            int(chosen[i]) + 1,
            labels[truth[i]],
            labels[predicted[i]],
            float(true_probability[i]),
            float(p[i, predicted[i]]),
            x[i].copy(),
            view,
        )
        for i, view in zip_longest(order, seen.views)
    )
    accuracy = float(np.mean(predicted == truth))
    return Classified(os.fspath(path), tuple(labels), len(p), accuracy, counts, worst, note, seen.layer, seen.channels)
