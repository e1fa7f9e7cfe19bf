"""From a data file to documents: a model and an experiment with sensible sizes, ready to be trained and changed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from specnet.checkpoint.durable import replace_file, write_at
from specnet.errors import DataError, SpecnetError
from specnet.paths import user_path
from specnet.training.datafiles import TABLES, RawArray, kind_of, read_rows
from specnet.training.experiment import load_experiment

FEW_CLASSES = 20
"""Whole numbers of up to so many different values are taken for classes."""

WANTED_STEPS = 2000


@dataclass
class Start:
    """The documents that `start` made, where they were written, and what it decided on the way, in words."""

    model: dict[str, Any]
    experiment: dict[str, Any]
    model_path: Path = field(default_factory=Path)
    experiment_path: Path = field(default_factory=Path)
    notes: list[str] = field(default_factory=list)


def start(
    data: str | os.PathLike[str],
    target: str,
    *,
    inputs: Sequence[str] | str | None = None,
    out: str | os.PathLike[str] = ".",
    force: bool = False,
) -> Start:
    """Look at a data file and write `<stem>.model.json` and `<stem>.experiment.json` into the folder `out`.

    `target` and `inputs` name columns of a table (all other columns by default), or arrays. Text, whole numbers of a
    few values and yes-or-no make a classifier, other numbers a regression. Raises DataError, and SpecnetError for
    documents that are there already, unless `force`.
    """
    source, folder = user_path(data), user_path(out)
    made = Start({}, {})
    entry: dict[str, Any] = {"path": Path(os.path.relpath(source, folder)).as_posix(), "targets": target}
    if kind_of(source) in TABLES:
        x, y = _table(made, source, target, inputs, entry)
    else:
        entry["inputs"] = inputs if isinstance(inputs, str) else "x"
        x, y = read_rows(source, entry["inputs"], target)[:2]  # type: ignore[assignment]
    if x.ndim < 2 or len(x) < 10:
        msg = f"{source}: expected at least 10 rows of inputs, got an array of shape {x.shape}"
        raise DataError(msg)
    _model(made, source.stem, x, y)
    _experiment(made, source.stem, entry, len(x))
    made.model_path, made.experiment_path = (
        folder / f"{source.stem}.model.json",
        folder / f"{source.stem}.experiment.json",
    )
    there = [str(path) for path in (made.model_path, made.experiment_path) if path.exists()]
    if there and not force:
        msg = f"{' and '.join(there)}: there already; force (--force) overwrites"
        raise SpecnetError(msg)
    _write(made.model_path, made.model)
    _write(made.experiment_path, made.experiment)
    load_experiment(made.experiment_path, check_data=True)
    return made


def _table(
    made: Start, source: Path, target: str, inputs: Sequence[str] | str | None, entry: dict[str, Any]
) -> tuple[RawArray, RawArray]:
    """Choose the columns of a table that are numbers, and what to take for values that are missing."""
    from specnet.training.tables import read_frame  # noqa: PLC0415 - needs an extra

    frame = read_frame(source)
    wanted = [inputs] if isinstance(inputs, str) else list(inputs or (c for c in frame.columns if c != target))
    numbers = [name for name in wanted if name in frame.columns and _holds_numbers(frame[name].dtype)]
    if inputs is None:
        constant = [name for name in numbers if frame[name].n_unique() == 1]
        text = [name for name in wanted if name not in numbers]
        if text:
            made.notes.append(f"left out, as they are no numbers: {', '.join(text)}")
        if constant:
            made.notes.append(f"left out, as they are the same in every row: {', '.join(constant)}")
        entry["inputs"] = [name for name in numbers if name not in constant]
    else:
        entry["inputs"] = wanted
    missing = {name: frame[name].median() for name in entry["inputs"] if name in numbers and frame[name].null_count()}
    if missing:
        entry["fill"] = missing
        told = ", ".join(f"{name} ({frame[name].null_count()} rows)" for name in missing)
        made.notes.append(f"missing values are filled with the column's median: {told}")
    found = read_rows(source, entry["inputs"], target, fill=missing or None)
    assert found.targets is not None
    return found.inputs, found.targets


def _holds_numbers(dtype: Any) -> bool:
    return bool(dtype.is_numeric()) or str(dtype) == "Boolean"


def _model(made: Start, stem: str, x: RawArray, y: RawArray) -> None:
    """Choose output, loss, labels and the sizes of the hidden layers."""
    values, inputs = np.unique(y), int(np.prod(x.shape[1:]))
    classes = _are_classes(y, len(values))
    if classes and len(values) < 2:
        msg = f"{stem}: every row has the target {values[0]}; there is nothing to learn"
        raise DataError(msg)
    what = f"{len(values)} classes" if classes else "a number, to be predicted"
    made.notes.insert(0, f"{len(x)} rows of {inputs} inputs; the target is {what}")
    layers: list[dict[str, Any]] = [{"type": "standardize"}, *([{"type": "flatten"}] if x.ndim > 2 else [])]
    width = int(2 ** np.clip(round(np.log2(2 * inputs + 8)), 4, 8 if len(x) > 1000 else 6))
    for units in (width, width // 2)[: 2 if len(x) > 500 else 1]:
        layers += [{"type": "affine", "units": units}, {"type": "relu"}]
    if classes:
        layers.append({"type": "affine", "name": "output", "units": len(values)})
    else:
        layers.append(_regression_output(made, y, layers[-2]["units"]))
    made.model = {
        "format": "specnet-model/1",
        "name": stem,
        "dtype": "float32",
        "seed": 0,
        "input_shape": list(x.shape[1:]),
        "layers": layers,
    }
    if classes and not (y.dtype.kind in "iu" and values.tolist() == list(range(len(values)))):
        made.model["labels"] = [str(value) for value in values.tolist()]
    made.experiment["training"] = {
        "loss": "softmax_cross_entropy" if classes else "mean_squared_error",
        "metrics": ["accuracy", "f1"] if classes else ["mae", "r2"],
    }


def _are_classes(y: RawArray, count: int) -> bool:
    whole = y.dtype.kind in "biu"
    return y.dtype.kind in "US" or (y.ndim == 1 and whole and count <= FEW_CLASSES and count < len(y) / 2)


def _regression_output(made: Start, y: RawArray, width: int) -> dict[str, Any]:
    """Make the last layer such that the first predictions are of the targets' size, so that few steps lead there."""
    last: dict[str, Any] = {
        "type": "affine",
        "name": "output",
        "units": 1 if y.ndim == 1 else int(np.prod(y.shape[1:])),
    }
    mean, spread = float(np.mean(y)), float(np.std(y))
    if abs(mean) > 2 or spread > 2:
        std = float(f"{spread / width**0.5 or 1:.3g}")
        last["weight_init"] = {"type": "normal", "std": std}
        last["bias_init"] = {"type": "constant", "value": float(f"{mean:.4g}")}
        made.notes.append(f"the last layer begins at the targets' mean {mean:.4g} and spread {spread:.4g}")
    return last


def _experiment(made: Start, stem: str, entry: dict[str, Any], rows: int) -> None:
    batch = 16 if rows < 1000 else 32 if rows < 20_000 else 128
    epochs = int(np.clip(WANTED_STEPS * batch / rows, 20, 300))
    made.experiment = {
        "format": "specnet-experiment/1",
        "name": stem,
        "model": f"{stem}.model.json",
        "data": {"train": entry, "validation": {"fraction": 0.2}},
        "training": {
            **made.experiment["training"],
            "optimizer": {"type": "adam", "learning_rate": 0.003},
            "epochs": epochs,
            "batch_size": batch,
            "early_stopping": {"monitor": "validation_loss", "patience": max(epochs // 5, 10)},
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a document as people would: one layer a line."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    for layer in document.get("layers", ()):
        text = text.replace(_indented(layer), json.dumps(layer, ensure_ascii=False))
    data = f"{text}\n".encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda descriptor: write_at(descriptor, 0, data))
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise SpecnetError(msg) from error


def _indented(layer: dict[str, Any]) -> str:
    return json.dumps(layer, indent=2, ensure_ascii=False).replace("\n", "\n    ")
