"""Read the rows of a run from an experiment's data entries, and find the problems in the data files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.randomness import permutation
from specnet.data.labels import few_rows, index_note, near_equal, reads_text
from specnet.data.raw import Note, NotThereError, ignore
from specnet.data.raw_entry import RawEntry
from specnet.data.sequences.windows import WindowedDataset
from specnet.data.spec import DataEntry, Fraction
from specnet.data.streaming import AnyDataset
from specnet.document.json_places import Finding
from specnet.errors import DataError
from specnet.files.paths import exists
from specnet.training.spec.experiment_spec import ExperimentSpec
from specnet.training.spec.training_spec import TrainingSpec


def data_digest(train: AnyDataset, validation: AnyDataset | None) -> str:
    """Return the digest of a run's data, by which a checkpoint recognizes them."""
    return train.fingerprint() + ("" if validation is None else validation.fingerprint())


class RunData(NamedTuple):
    """The rows of a run, and its experiment; if targets are names, these are the labels of its model."""

    experiment: ExperimentSpec
    train: AnyDataset
    validation: AnyDataset | None


def load_data(spec: ExperimentSpec, folder: Path, note: Note = ignore) -> RunData:
    """Read the training and the validation rows; call `note` with what a user may not expect. Raises DataError."""
    spec, train, names = _training_rows(spec, folder, note)
    source, validation = spec.data.train.files()[0], spec.data.validation
    held_out = None
    if isinstance(validation, DataEntry):
        held_out = _rows_like(spec, folder, validation, names, note)
    elif validation is not None:
        train, held_out = split(spec.training, train, validation, source)
    classes = classes_in(spec.training, train)
    if classes is not None:
        for text in few_rows(classes, spec.built_model.labels, max(spec.built_model.output_shape[-1], 2)):
            note(f"{source}: {text}")
    return RunData(spec, train, held_out)


def _training_rows(
    spec: ExperimentSpec, folder: Path, note: Note = ignore
) -> tuple[ExperimentSpec, AnyDataset, tuple[str, ...]]:
    """Read the training rows; return the experiment with the model's labels and tokens, the rows, and their columns."""
    loss = spec.training.loss.build()
    model = spec.built_model
    raw = spec.data.train.read(folder, model, note, reads_text(model, loss))
    labels, tokenizer = raw.labels(model, loss), raw.tokenizer(model, note)
    for text in near_equal(labels):
        note(f"{raw.target_source}: {text}")
    _note_indices(raw, spec, note)
    if labels != model.labels or tokenizer != model.tokenizer:
        model = model.model_copy(update={"labels": labels, "tokenizer": tokenizer})
        spec = spec.model_copy(update={"model": model})
    return spec, raw.fit(spec.built_model, loss), raw.rows.names


def _rows_like(
    spec: ExperimentSpec, folder: Path, entry: DataEntry, names: tuple[str, ...], note: Note = ignore
) -> AnyDataset:
    """Read rows with the same columns as the training rows."""
    loss = spec.training.loss.build()
    full, text_targets = entry.like(spec.data.train, names), reads_text(spec.built_model, loss)
    model = spec.built_model
    notes: list[str] = []
    try:
        raw = full.read(folder, model, notes.append, text_targets)
    except NotThereError:
        if full.weights == entry.weights:
            raise
        full = full.model_copy(update={"weights": None})
        raw = full.read(folder, model, text_targets=text_targets)
        notes.append(
            f'{raw.target_source}: there are no weights "{spec.data.train.weights}"; every validation row counts alike'
        )
    for text in notes:
        note(text)
    _note_indices(raw, spec, note)
    return raw.fit(spec.built_model, loss)


def _note_indices(raw: RawEntry, spec: ExperimentSpec, note: Note) -> None:
    text = index_note(raw.rows.targets, spec.built_model, spec.training.loss.build())
    if text:
        note(f"{raw.target_source}: {text}")


def split(
    training: TrainingSpec, train: AnyDataset, validation: Fraction, source: str
) -> tuple[AnyDataset, AnyDataset]:
    """Hold out a fraction of the rows; return training and validation rows. Raises DataError as `held_out_rows`.

    Of windows over a series, those of the last part are held out.
    """
    if isinstance(train, WindowedDataset):
        return train.split(validation.fraction, source)
    held_out = held_out_rows(training, train, validation, source)
    return train.rows(np.flatnonzero(~held_out)), train.rows(np.flatnonzero(held_out))


def held_out_rows(training: TrainingSpec, rows: AnyDataset, validation: Fraction, source: str) -> npt.NDArray[np.bool_]:
    """Choose a fraction of the rows with the training seed; with `stratify`, the same fraction of each class.

    At least one row of each class stays to train on. Raises DataError, which names `source`, if too few rows would be
    left.
    """
    count = len(rows)
    held_out = max(1, round(count * validation.fraction))
    if held_out >= count:
        msg = f"{source}: {count} rows are too few for a validation split"
        raise DataError(msg)
    order = permutation(training.seed, "validation split", 0, count)
    classes = classes_in(training, rows)
    if validation.stratify and classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
        # evenly spaced over the rows sorted by class
        positions = np.arange(held_out) * count // held_out + count // held_out // 2
        order = order[positions]
    chosen = np.zeros(count, bool)
    chosen[order[:held_out]] = True
    if classes is not None:
        _keep_every_class(classes, chosen)
    return chosen


def classes_in(training: TrainingSpec, rows: AnyDataset) -> npt.NDArray[np.int64] | None:
    """Return the class of each row, None if rows do not have one class each."""
    loss, targets = training.loss.build(), rows.targets
    if loss.takes_classes():
        return targets if targets.ndim == 1 else None
    if loss.yes_or_no and targets.shape[1:] == (1,) and bool(((targets == 0) | (targets == 1)).all()):
        return targets[:, 0].astype(np.int64)
    return None


def _keep_every_class(classes: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> None:
    """Exchange chosen rows, so that each class keeps a row that is not chosen; in place.

    The row chosen instead is of the class that has most rows left.
    """
    left = np.bincount(classes[~chosen], minlength=int(classes.max()) + 1)
    for lost in np.flatnonzero((left == 0) & (np.bincount(classes, minlength=len(left)) > 0)).tolist():
        if left.max() < 2:
            return
        largest = int(left.argmax())
        chosen[np.flatnonzero(~chosen & (classes == largest))[0]] = True
        chosen[np.flatnonzero(chosen & (classes == lost))[0]] = False
        left[largest], left[lost] = left[largest] - 1, 1


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
    return [path for path in spec.data.files() if not exists(folder / path)]
