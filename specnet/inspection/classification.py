"""How a classifier does on labelled rows: its confusion matrix, and the rows it is most wrong about."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.data.raw import Columns
from specnet.errors import DataError
from specnet.inspection.inspect import experiment_of
from specnet.model import Model
from specnet.prediction.predict import file_rows
from specnet.training.epoch_metrics import evaluation_rows

WORST = 12


MOST_CLASSES = 512


@dataclass(frozen=True)
class Sample:
    """A row of the file, counted from 1: its class, the one predicted, both probabilities, and the inputs."""

    row: int
    label: str
    predicted: str
    probability: float
    predicted_probability: float
    inputs: npt.NDArray[Any]


@dataclass(frozen=True)
class Classified:
    """How many of `rows` are right, which are the worst, and how often a class was taken for another.

    counts: (classes, classes), rows of a class (first axis) that were said to be another (second axis); None above 512
    classes.
    """

    path: str
    labels: tuple[str, ...]
    rows: int
    accuracy: float
    counts: npt.NDArray[np.int64] | None
    worst: tuple[Sample, ...]


def classify(
    model: Model, path: str | os.PathLike[str], inputs: Columns = None, targets: Columns = None
) -> Classified | None:
    """Predict the classes of a file's rows; None for a model that tells no classes. Raises DataError."""
    if targets is None:
        experiment = experiment_of(model)
        targets = (experiment.data.train.targets if experiment is not None else None) or "y"
    rows = file_rows(model, path, inputs, targets)
    if rows.loss is None or rows.targets is None or not rows.loss.has_classes():
        return None
    p = rows.loss.probabilities(model.predict(rows.inputs, batch_size=evaluation_rows(model)))
    truth = np.asarray(rows.targets)
    if not rows.loss.takes_classes():
        if p.shape[1:] != (1,):
            return None
        p, truth = np.hstack([1 - p, p]), (truth.reshape(-1) > 0.5).astype(np.int64)
    elif truth.ndim == 2:  # distributions
        truth = truth.argmax(axis=1)
    if not len(p):
        msg = f"{os.fspath(path)}: holds no rows"
        raise DataError(msg)
    classes = p.shape[1]
    labels = model.spec.labels or tuple(map(str, range(classes)))
    said = p.argmax(axis=1)
    counts = None
    if classes <= MOST_CLASSES:
        counts = np.bincount(truth * classes + said, minlength=classes**2).reshape(classes, classes)
    own = p[np.arange(len(p)), truth]
    wrong = np.flatnonzero(said != truth)
    order = wrong[np.argsort(own[wrong], kind="stable")][:WORST]
    worst = tuple(
        Sample(
            int(i) + 1, labels[truth[i]], labels[said[i]], float(own[i]), float(p[i, said[i]]), rows.inputs[i].copy()
        )
        for i in order
    )
    return Classified(os.fspath(path), tuple(labels), len(p), float(np.mean(said == truth)), counts, worst)
