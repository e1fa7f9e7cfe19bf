"""Read the rows of a run from an experiment's data entries, and find the problems in the data files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specnet.arrays.randomness import permutation
from specnet.data.spec import DataEntry, Fraction
from specnet.data.streaming import AnyDataset
from specnet.document.json_places import Finding
from specnet.errors import DataError
from specnet.training.spec.experiment_spec import ExperimentSpec
from specnet.training.spec.training_spec import TrainingSpec


class RunData(NamedTuple):
    """The rows of a run, and its experiment; if targets are text, their values are the labels of its model."""

    experiment: ExperimentSpec
    train: AnyDataset
    validation: AnyDataset | None


def load_data(spec: ExperimentSpec, folder: Path) -> RunData:
    """Read the training and the validation rows. Raises DataError."""
    spec, train, names = _training_rows(spec, folder)
    validation = spec.data.validation
    if validation is None:
        return RunData(spec, train, None)
    if isinstance(validation, DataEntry):
        return RunData(spec, train, _rows_like(spec, folder, validation, names))
    return RunData(spec, *split(spec.training, train, validation, spec.data.train.files()[0]))


def _training_rows(spec: ExperimentSpec, folder: Path) -> tuple[ExperimentSpec, AnyDataset, tuple[str, ...]]:
    """Read the training rows; return the experiment with the model's labels, the rows, and their column names."""
    loss = spec.training.loss.build()
    raw = spec.data.train.read(folder)
    labels = raw.labels(spec.built_model, loss)
    if labels != spec.built_model.labels:
        spec = spec.model_copy(update={"model": spec.built_model.model_copy(update={"labels": labels})})
    return spec, raw.fit(spec.built_model, loss), raw.rows.names


def _rows_like(spec: ExperimentSpec, folder: Path, entry: DataEntry, names: tuple[str, ...]) -> AnyDataset:
    """Read rows with the same columns as the training rows."""
    return entry.like(spec.data.train, names).read(folder).fit(spec.built_model, spec.training.loss.build())


def split(
    training: TrainingSpec, train: AnyDataset, validation: Fraction, source: str
) -> tuple[AnyDataset, AnyDataset]:
    """Hold out a fraction of the rows, drawn with the training seed; with `stratify`, the same fraction of each class.

    Returns training and validation rows. Raises DataError, which names `source`, if too few rows would be left.
    """
    count = len(train)
    held_out = max(1, round(count * validation.fraction))
    if held_out >= count:
        msg = f"{source}: {count} rows are too few for a validation split"
        raise DataError(msg)
    order = permutation(training.seed, "validation split", 0, count)
    if validation.stratify and training.loss.build().takes_classes():
        order = order[np.argsort(train.targets[order], kind="stable")]
        # evenly spaced over the rows sorted by class
        positions = np.arange(held_out) * count // held_out + count // held_out // 2
        order = order[positions]
    chosen = np.zeros(count, bool)
    chosen[order[:held_out]] = True
    return train.rows(np.flatnonzero(~chosen)), train.rows(np.flatnonzero(chosen))


def data_faults(spec: ExperimentSpec, folder: Path) -> Iterator[Finding]:
    """Yield the errors that training would raise for the data files that exist."""
    missing = set(missing_files(spec, folder))
    train: AnyDataset | None = None
    names: tuple[str, ...] = ()
    for key, entry in (("train", spec.data.train), ("validation", spec.data.validation)):
        try:
            if isinstance(entry, DataEntry) and not set(entry.files()) & missing:
                if key == "train":
                    spec, train, names = _training_rows(spec, folder)
                else:
                    _rows_like(spec, folder, entry, names)
            elif isinstance(entry, Fraction) and train is not None:
                split(spec.training, train, entry, spec.data.train.files()[0])
        except DataError as error:
            yield Finding(("data", key), str(error), "data")


def missing_files(spec: ExperimentSpec, folder: Path) -> list[str]:
    """List the data files that do not exist."""
    return [path for path in spec.data.files() if not (folder / path).exists()]
