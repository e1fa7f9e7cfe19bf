"""Which rows of a file a run was trained on, so that a report does not measure a model on them without saying so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.data.dataset import Dataset
from specnet.data.raw import RawArray
from specnet.data.sequences.windows import last_part
from specnet.data.spec import DataEntry, Fraction
from specnet.errors import DataError, SpecnetError
from specnet.model import Model
from specnet.training.experiment import load_experiment
from specnet.training.loading import data_digest, held_out_rows, load_data
from specnet.training.runs.run_folder import EXPERIMENT
from specnet.training.spec.experiment_spec import ExperimentSpec


class Evaluated(NamedTuple):
    """The rows of a file that count, as indices, and what a reader has to know about them."""

    rows: npt.NDArray[np.intp]
    note: str


def rows_to_evaluate(model: Model, experiment: ExperimentSpec, data: Dataset, folder: Path | None) -> Evaluated:
    """Choose the rows of a file to evaluate a model on: those held out if the file is the run's, else all.

    The file is recognized by the digest of the run's data in the checkpoint. Any other file is compared with the
    training rows if experiment.json in `folder` leads to them.
    """
    everything = np.arange(len(data))
    digest = (model.run_state or {}).get("data_sha256")
    validation = experiment.data.validation
    if isinstance(validation, Fraction):
        held_out = _held_out(experiment, data, validation, digest)
        if held_out is not None:
            part = f"{np.count_nonzero(held_out):,} of {len(data):,}"
            note = f"These are the rows held out for validation, {part}; the others were trained on"
            return Evaluated(np.flatnonzero(held_out), note)
    elif isinstance(digest, str):
        own = data.fingerprint()
        if digest == own or (isinstance(validation, DataEntry) and digest.startswith(own)):
            return Evaluated(everything, "All of these rows were trained on: the figures say nothing about new rows")
        if isinstance(validation, DataEntry) and digest.endswith(own):
            return Evaluated(everything, "These are the validation rows of the run; none of them was trained on")
    trained = _trained_rows(folder, digest)
    if trained is None:
        return Evaluated(everything, "Whether rows were trained on is not known: the data of the run are not there")
    count = sum(key in trained for key in _keys(data.inputs))
    return Evaluated(everything, f"{count:,} of these rows were trained on" if count else "None of them was trained on")


def _held_out(
    experiment: ExperimentSpec, data: Dataset, fraction: Fraction, digest: Any
) -> npt.NDArray[np.bool_] | None:
    """Return which rows of the run's own data were held out; None for other data."""
    windows = experiment.data.train.windows
    try:
        if windows is None:
            held_out = held_out_rows(experiment.training, data, fraction, "")
            trained = ~held_out
        else:
            stop, first = last_part(len(data), windows, fraction.fraction, "")
            held_out, trained = np.arange(len(data)) >= first, np.arange(len(data)) < stop
    except DataError:
        return None
    train, validation = data.rows(np.flatnonzero(trained)), data.rows(np.flatnonzero(held_out))
    return held_out if digest == data_digest(train, validation) else None


def _trained_rows(folder: Path | None, digest: Any) -> set[bytes] | None:
    """Return the keys of the training rows of the run in a folder; None if they are not there, or have changed."""
    if folder is None:
        return None
    try:
        _, train, validation = load_data(*load_experiment(folder / EXPERIMENT))
    except SpecnetError:  # the document or its data are somewhere else
        return None
    if digest != data_digest(train, validation):
        return None
    return set(_keys(train.inputs)) if isinstance(train, Dataset) else None


def _keys(inputs: RawArray) -> list[bytes]:
    """Return a short key for each row; equal rows have equal keys."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in inputs]
