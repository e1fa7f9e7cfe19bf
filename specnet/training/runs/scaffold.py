"""Write a model document and an experiment document for a data file, ready to be trained and edited."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from specnet.data.conform import finite, refuse_lost_digits
from specnet.data.files import read_rows
from specnet.data.labels import class_names, few_rows, index_labels, near_equal
from specnet.data.raw import TABLES, RawArray, kind_of
from specnet.errors import DataError, SpecnetError
from specnet.files.atomic import write_file
from specnet.files.paths import exists, relative_path, user_path
from specnet.training.experiment import load_experiment

FEW_CLASSES = 20
"""Integer targets with at most this number of different values are treated as classes."""

WANTED_STEPS = 2000

LEAST_ROWS = 10

SMALL_SPREAD = 0.1
"""Targets with a smaller standard deviation are learned badly: a step of the usual size overshoots them."""


@dataclass
class Scaffold:
    """The documents that `scaffold` wrote, their paths, and notes on its decisions."""

    model: dict[str, Any]
    experiment: dict[str, Any]
    model_path: Path = field(default_factory=Path)
    experiment_path: Path = field(default_factory=Path)
    notes: list[str] = field(default_factory=list)


def scaffold(
    data: str | os.PathLike[str],
    target: str,
    *,
    inputs: Sequence[str] | str | None = None,
    out: str | os.PathLike[str] = ".",
    force: bool = False,
) -> Scaffold:
    """Read a data file and write `<stem>.model.json` and `<stem>.experiment.json` into the folder `out`.

    `target` and `inputs` name columns of a table (by default, all other columns are inputs), or arrays. Targets of
    text, integers with few values or yes-or-no make a classifier, other numbers a regression. Raises DataError, and
    SpecnetError if the documents exist, unless `force`.
    """
    source, folder = user_path(data), user_path(out)
    if kind_of(source) == "txt":
        msg = f"{source}: is text, and init reads numbers; docs/training.md has an experiment for text to begin with"
        raise DataError(msg)
    draft = Scaffold({}, {})
    entry: dict[str, Any] = {"path": relative_path(source, folder), "targets": target}
    if kind_of(source) in TABLES:
        from specnet.training.runs.columns import choose_columns  # noqa: PLC0415 - needs an extra

        rows = choose_columns(source, target, inputs, draft.notes)
        entry |= {"inputs": list(rows.names), **({"fill": rows.fill} if rows.fill else {})}
        x, y = rows.inputs, rows.targets
    else:
        entry["inputs"] = inputs if isinstance(inputs, str) else "x"
        x, y = read_rows(source, entry["inputs"], target)[:2]  # type: ignore[assignment]
    if x.ndim < 2 or len(x) < LEAST_ROWS:
        msg = f"{source}: expected at least {LEAST_ROWS} rows of inputs, got an array of shape {x.shape}"
        raise DataError(msg)
    if y.shape[:1] != x.shape[:1] or y.ndim > 2 or y.dtype.kind not in "biufUS" or not _is_finite(y):
        msg = f"{source}: expected one target per row, finite numbers or text, got {y.dtype} of shape {y.shape}"
        raise DataError(msg)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.") or "data"
    _choose_model(draft, name, source, x, y)
    _choose_dtype(draft, source, x, entry["inputs"] if isinstance(entry["inputs"], list) else ())
    _choose_training(draft, name, entry, len(x))
    draft.model_path, draft.experiment_path = folder / f"{name}.model.json", folder / f"{name}.experiment.json"
    train = {**entry, "path": str(source)}  # checked before anything is written
    experiment = {**draft.experiment, "model": draft.model, "data": {**draft.experiment["data"], "train": train}}
    load_experiment(experiment, check_data=True)
    existing = [str(path) for path in (draft.model_path, draft.experiment_path) if exists(path)]
    if existing and not force:
        msg = f"{' and '.join(existing)}: already present; force (--force) overwrites"
        raise SpecnetError(msg)
    _write_document(draft.model_path, draft.model)
    _write_document(draft.experiment_path, draft.experiment)
    return draft


def _is_finite(y: RawArray) -> bool:
    return y.dtype.kind != "f" or bool(np.isfinite(y).all())


def _choose_dtype(draft: Scaffold, source: Path, x: RawArray, names: Sequence[str]) -> None:
    """Choose float64 if inputs differ in digits that float32 cannot represent."""
    float32 = np.dtype(np.float32)
    finite(x, float32, f"{source}: inputs", names=names if x.ndim == 2 else ())
    try:
        refuse_lost_digits(x, float32, str(source))
    except DataError:
        draft.model["dtype"] = "float64"
        draft.notes.append("dtype float64, because some inputs differ in digits that float32 cannot represent")


def _choose_model(draft: Scaffold, name: str, source: Path, x: RawArray, y: RawArray) -> None:
    """Choose the output layer, the loss, the labels and the sizes of the hidden layers."""
    named, inputs = y.dtype.kind in "US", int(np.prod(x.shape[1:]))
    values: Sequence[Any] = class_names(y, str(source)) if named else np.unique(y).tolist()
    classes = _are_classes(y, len(values))
    if classes and len(values) < 2:
        msg = f"{source}: every row has the target {values[0]}; there is nothing to learn"
        raise DataError(msg)
    if classes and len(values) > len(y) / 2:
        msg = f"{source}: the target has {len(values)} values in {len(y)} rows; names of rows cannot be learned"
        raise DataError(msg)
    kind = f"{len(values)} classes" if classes else "a number"
    draft.notes.insert(0, f"{len(x)} rows of {inputs} inputs; the target is {kind}")
    layers: list[dict[str, Any]] = [{"type": "standardize"}, *([{"type": "flatten"}] if x.ndim > 2 else [])]
    width = int(2 ** np.clip(round(np.log2(2 * inputs + 8)), 4, 8 if len(x) > 1000 else 6))
    for units in (width, width // 2)[: 2 if len(x) > 500 else 1]:
        layers += [{"type": "affine", "units": units}, {"type": "relu"}]
    if classes:
        layers.append({"type": "affine", "name": "output", "units": len(values)})
    else:
        layers.append(_regression_output(draft, y, layers[-2]["units"]))
    draft.model = {
        "format": "specnet-model/1",
        "name": name,
        "dtype": "float32",
        "seed": 0,
        "input_shape": list(x.shape[1:]),
        "layers": layers,
    }
    if classes and values != list(range(len(values))):
        labels = [f"{value:.0f}" if isinstance(value, float) else str(value) for value in values]
        draft.model["labels"] = labels
        draft.notes += [
            *near_equal(labels),
            *few_rows(index_labels(y, labels, str(source)), labels, len(labels), what="in the file"),
        ]
    draft.experiment["training"] = {
        "loss": "softmax_cross_entropy" if classes else "mean_squared_error",
        "metrics": ["accuracy", "f1"] if classes else ["mae", "r2"],
    }


def _are_classes(y: RawArray, count: int) -> bool:
    integers = y.dtype.kind in "biu" or (y.dtype.kind == "f" and bool((np.floor(y) == y).all()))
    return y.dtype.kind in "US" or (y.ndim == 1 and integers and count <= FEW_CLASSES and count < len(y) / 2)


def _regression_output(draft: Scaffold, y: RawArray, width: int) -> dict[str, Any]:
    """Return the last layer; for large targets it starts at their mean and spread, so that few steps suffice."""
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
        draft.notes.append(f"the last layer starts at the targets' mean {mean:.4g} and spread {spread:.4g}")
    elif spread < SMALL_SPREAD:
        factor = 10.0 ** np.ceil(-np.log10(spread)) if spread else 1.0
        draft.notes.append(
            f"the targets differ by little (spread {spread:.2g}): multiply them by {factor:g} to learn them"
        )
    return last


def _choose_training(draft: Scaffold, name: str, entry: dict[str, Any], rows: int) -> None:
    batch = 16 if rows < 1000 else 32 if rows < 20_000 else 128
    epochs = int(np.clip(WANTED_STEPS * batch / rows, 20, 300))
    draft.experiment = {
        "format": "specnet-experiment/1",
        "name": name,
        "model": f"{name}.model.json",
        "data": {"train": entry, "validation": {"fraction": 0.2}},
        "training": {
            **draft.experiment["training"],
            "optimizer": {"type": "adam", "learning_rate": 0.003},
            "epochs": epochs,
            "batch_size": batch,
            "early_stopping": {"monitor": "validation_loss", "patience": max(epochs // 5, 10)},
        },
    }


def _write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a document as indented JSON, with one layer per line."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    for layer in document.get("layers", ()):
        text = text.replace(_indented(layer), json.dumps(layer, ensure_ascii=False))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise SpecnetError(msg) from error
    write_file(path, f"{text}\n".encode(), SpecnetError)


def _indented(layer: dict[str, Any]) -> str:
    return json.dumps(layer, indent=2, ensure_ascii=False).replace("\n", "\n    ")
