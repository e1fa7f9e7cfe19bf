"""The experiment document: model, data and training, checked together before anything is read or built."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from specnet.errors import DataError, Problem, SpecError, SpecnetError
from specnet.jsontext import Finding, JsonText, parse_json
from specnet.layerspec import LayerSpec
from specnet.layertree import PLACEHOLDER, CompositeSpec
from specnet.migrations import check_format, format_of, migrated
from specnet.paths import user_path
from specnet.randomness import permutation
from specnet.spec import ModelSpec
from specnet.training import data as files
from specnet.training.data import Dataset
from specnet.training.losses import Loss, LossChoice
from specnet.training.optimizers import AdamSpec, OptimizerChoice
from specnet.validation import (
    Document,
    Flag,
    PositiveInteger,
    Seed,
    Text,
    expecting,
    findings,
    read_document,
    without_places,
)
from specnet.wording import fault, mismatch

FAMILY = "specnet-experiment"
EXPERIMENT_FORMAT = format_of(FAMILY)

METRICS = {"validation_loss": "val_loss", "validation_accuracy": "val_accuracy", "training_loss": "loss"}
"""Long names of metrics and the short ones under which the history keeps them."""

RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100),
    expecting("a name of letters, digits, ., _ and - (it becomes a folder) that begins with a letter or digit"),
]


def _columns(value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and value and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, str):
        return value
    raise mismatch("a name, or an array of column names", value, "wrong_type")


Columns = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_columns),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class DataEntry(Document):
    """One set of rows: a file and the names of its arrays or columns, or one file each for inputs and targets."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "digits.npz", "inputs": "x", "targets": "y"},
                {"inputs": "images.npy", "targets": "labels.npy"},
                {"path": "iris.csv", "targets": "species"},
            ]
        }
    )

    path: Text = ""
    """The file (.npz, .csv, .h5), relative to the document. Left out where inputs and targets are files."""
    inputs: Columns | None = None
    """Name of the inputs' array or columns, or, without path, their own file (.npy, IDX). Default: "x"; in a CSV all
    columns but the targets."""
    targets: Columns | None = None
    """Name of the targets' array or column, or, without path, their own file. Default: "y"."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.path and (self.inputs is None or self.targets is None):
            message = "expected the key path, or files under inputs and targets; add one"
            raise fault(message, "missing")
        return self

    def files(self) -> list[str]:
        """List the paths of the files, as they are written."""
        return [self.path] if self.path else [str(self.inputs), str(self.targets)]

    def read(self, folder: Path, spec: ModelSpec, loss: Loss) -> Dataset:
        """Read the rows and fit them to a model and its loss. Raises DataError."""
        if self.path:
            raw, raw_targets = files.read_columns(folder / self.path, self.inputs, self.targets or "y")
            source = target_source = self.path
        else:
            source, target_source = str(self.inputs), str(self.targets)
            raw, raw_targets = files.read_array(folder / source), files.read_array(folder / target_source)
        x = files.fit_inputs(raw, spec, source)
        if raw_targets is None:
            raise AssertionError
        return Dataset(x, files.fit_targets(raw_targets, spec, loss, len(x), target_source))


class Fraction(Document):
    """A share of the training rows, drawn by the training's seed and held out."""

    fraction: Annotated[float, Field(gt=0, lt=1), expecting("a number between 0 and 1")]
    """Share of the rows, between 0 and 1."""


def _validation(value: Any) -> Any:
    if isinstance(value, (Fraction, DataEntry)) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise mismatch("an object with a fraction or a path", value, "wrong_type")
    return Fraction.nested(value) if "fraction" in value else DataEntry.nested(value)


class DataSpec(Document):
    """The rows to train on, and those to validate on."""

    train: DataEntry
    """The training rows."""
    validation: Annotated[Fraction | DataEntry | None, BeforeValidator(_validation)] = None
    """A fraction of the training rows, or rows of their own."""


Monitor = Literal["validation_loss", "validation_accuracy", "training_loss", "val_loss", "val_accuracy", "loss"]


class CheckpointPolicy(Document):
    """When checkpoints are written."""

    every_steps: PositiveInteger | None = None
    """Write last.h5 after so many steps."""
    every_epochs: PositiveInteger | None = 1
    """Write last.h5 after so many epochs; it is always written at the end."""
    keep_best: Monitor | None = None
    """Keep the epoch that is best by this metric in best.h5. Default: validation_loss where there is validation."""

    @property
    def monitored(self) -> str | None:
        """The short name of keep_best."""
        return None if self.keep_best is None else METRICS.get(self.keep_best, self.keep_best)


class TrainingSpec(Document):
    """How to train."""

    loss: LossChoice = Field(examples=["softmax_cross_entropy", {"type": "huber", "delta": 2.0}])
    """What is minimized."""
    optimizer: OptimizerChoice = Field(AdamSpec(), examples=[{"type": "adam", "learning_rate": 0.001}])
    """How the parameters move."""
    epochs: PositiveInteger = 10
    """Passes over the training rows."""
    batch_size: PositiveInteger = 32
    """Rows of a step; the last batch of an epoch may be shorter."""
    shuffle: Flag = True
    """Whether each epoch has an order of its own."""
    seed: Seed = 0
    """Decides the split, the shuffling and dropout; the model's own seed decides the initial weights."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """When checkpoints are written."""


def _model(value: Any) -> Any:
    if isinstance(value, (str, ModelSpec)):
        return value
    if isinstance(value, Mapping):
        return ModelSpec.nested(value)
    raise mismatch("a path or a model document", value, "wrong_type")


class ExperimentSpec(Document):
    """An experiment document, normalized. `load_experiment` reads one; its model is inline from then on."""

    model_config = ConfigDict(
        title="specnet experiment",
        json_schema_extra={"description": "A training run: the model, the data and how to train."},
    )

    schema_: Text = Field("", alias="$schema")
    """Where the JSON Schema of this document lies, for editors."""
    format: Annotated[
        str,
        BeforeValidator(lambda value: check_format(value, FAMILY)),
        WithJsonSchema({"const": EXPERIMENT_FORMAT, "type": "string"}),
    ] = EXPERIMENT_FORMAT
    """Kind and version of the document."""
    name: RunName = "experiment"
    """Names the run's folder, runs/<name>."""
    model: Annotated[
        ModelSpec | str,
        BeforeValidator(_model),
        WithJsonSchema({"anyOf": [{"type": "string"}, {PLACEHOLDER: "model"}]}),
    ]
    """The model document, or the path of its file, relative to this one."""
    data: DataSpec
    """The rows."""
    training: TrainingSpec
    """How to train."""

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, data: Any) -> Any:
        return migrated(data, FAMILY)

    @field_validator("training")
    @classmethod
    def _monitors_validation(cls, training: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        data = info.data.get("data")
        if data is None:
            return training
        policy = training.checkpoint
        if data.validation is not None and "keep_best" not in policy.model_fields_set:
            policy = policy.model_copy(update={"keep_best": "validation_loss"})
            return training.model_copy(update={"checkpoint": policy})
        return training

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value or key not in ("$schema", "schema_")}

    @property
    def built_model(self) -> ModelSpec:
        """The inline model document. Raises SpecnetError where it is still a path."""
        if isinstance(self.model, str):
            msg = "the experiment names its model by path; read it with load_experiment(path)"
            raise SpecnetError(msg)
        return self.model

    def to_json(self) -> str:
        """Write the normalized document, indented, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"


def load_experiment(
    source: str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec,
    overrides: Mapping[str, str] | None = None,
    *,
    check_data: bool = False,
) -> tuple[ExperimentSpec, Path]:
    """Read and check an experiment, its model inline; give it with the folder that its paths start from.

    `source` is a path, or a document in Python, whose paths start from the working directory. `overrides` maps paths
    in the document, "training.epochs", to JSON values. `check_data` reads the data files that are there, too. Raises
    SpecError, which lists every problem with its place.
    """
    if isinstance(source, ExperimentSpec):
        source = source.model_dump(mode="json")
    if isinstance(source, Mapping):
        try:
            text = JsonText("", copy.deepcopy(dict(source)))
        except RecursionError:
            raise SpecError([Problem("", "is nested too deeply", "too_deep")]) from None
        folder = Path()
    else:
        text = parse_json(read_document(source), os.fspath(source))
        text.require_text()
        folder = user_path(source).parent
    changed = [_override(text.value, path, value) for path, value in (overrides or {}).items()]
    if isinstance(text.value, dict) and "layers" in text.value and "training" not in text.value:
        message = "this is a model document, expected an experiment, which names a model, data and training"
        raise _error(text, [Finding((), message, "wrong_document")], [])
    try:
        spec = ExperimentSpec.nested(text.value)
    except ValidationError as error:
        raise _error(text, findings(error), changed) from None
    if isinstance(spec.model, str):
        spec = spec.model_copy(update={"model": ModelSpec.from_file(folder / spec.model)})
    faults = [*text.findings, *_cross_faults(spec)]
    if check_data and not faults:
        faults += _data_faults(spec, folder)
    if faults:
        raise _error(text, faults, changed)
    return spec, folder


def _error(text: JsonText, faults: list[Finding], changed: list[tuple[str, ...]]) -> SpecError:
    """Make one SpecError; what was changed by an override has no place in the file."""
    if not text.text:
        return without_places(faults, text.value)
    outside = [f for f in faults if any(f.path[: len(path)] == path for path in changed)]
    if not outside:
        return text.error(faults)
    inside = [f for f in faults if f not in outside]
    problems = list(text.error(inside).problems) if inside or text.findings else []
    return SpecError([*problems, *without_places(outside, text.value).problems], text.source)


def _override(value: Any, path: str, text: str) -> tuple[str, ...]:
    """Set one value of the document, given as JSON, or as plain text where that is no JSON."""
    *parents, last = path.split(".")
    for key in parents:
        value = value.setdefault(key, {}) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not last:
        problem = Problem(path, "expected the path of a value in the document, as training.epochs", "unknown_key")
        raise SpecError([problem], "--set")
    try:
        value[last] = json.loads(text)
    except ValueError:
        value[last] = text
    return (*parents, last)


def _cross_faults(spec: ExperimentSpec) -> Iterator[Finding]:
    """Find what no part of the document shows alone."""
    model, loss = spec.built_model, spec.training.loss.build()
    last = _last(model.layers)
    if last.type in loss.doubled_by:
        message = f"{loss.name} takes logits and the model ends in {last.type}; remove that layer, predict adds it"
        yield Finding(("training", "loss"), message, "doubled_activation")
    if loss.takes_classes() and (len(model.output_shape) != 1 or model.output_shape[0] < 2):
        message = (
            f"{loss.name} needs one output a class, at least 2; the model's outputs have shape {model.output_shape}"
        )
        yield Finding(("training", "loss"), message, "output_width")
    monitored = spec.training.checkpoint.monitored or ""
    if monitored.startswith("val_") and spec.data.validation is None:
        named = spec.training.checkpoint.keep_best
        message = f'there is no data.validation to take {named} from; add it, or write "training_loss"'
        yield Finding(("training", "checkpoint", "keep_best"), message, "wrong_value")
    if monitored.endswith("accuracy") and loss.correct(np.zeros((1, 2)), np.zeros((1, 2))) is None:
        message = f"{loss.name} has no accuracy to monitor; monitor the loss"
        yield Finding(("training", "checkpoint", "keep_best"), message, "wrong_value")


def _last(layers: Sequence[LayerSpec]) -> LayerSpec:
    """Give the layer that computes the outputs, also where it stands in a sequential."""
    last = layers[-1]
    while isinstance(last, CompositeSpec) and len(last.lists()) == 1 and last.inside:
        last = last.inside[-1]
    return last


def _data_faults(spec: ExperimentSpec, folder: Path) -> Iterator[Finding]:
    """Find what training would refuse in the data files, as far as they are there."""
    missing = missing_files(spec, folder)
    sets: dict[str, Dataset] = {}
    for key, entry in (("train", spec.data.train), ("validation", spec.data.validation)):
        try:
            if isinstance(entry, DataEntry) and not set(entry.files()) & set(missing):
                sets[key] = entry.read(folder, spec.built_model, loss_of(spec))
            elif isinstance(entry, Fraction) and "train" in sets:
                _split(spec, sets["train"], entry)
        except DataError as error:
            yield Finding(("data", key), str(error), "data")


def missing_files(spec: ExperimentSpec, folder: Path) -> list[str]:
    """List the data files that are not there."""
    entries = [entry for entry in (spec.data.train, spec.data.validation) if isinstance(entry, DataEntry)]
    return [path for entry in entries for path in entry.files() if not (folder / path).exists()]


def load_data(spec: ExperimentSpec, folder: Path) -> tuple[Dataset, Dataset | None]:
    """Read the training and the validation rows. Raises DataError."""
    model, loss = spec.built_model, loss_of(spec)
    train = spec.data.train.read(folder, model, loss)
    validation = spec.data.validation
    if validation is None:
        return train, None
    if isinstance(validation, DataEntry):
        return train, validation.read(folder, model, loss)
    return _split(spec, train, validation)


def _split(spec: ExperimentSpec, train: Dataset, validation: Fraction) -> tuple[Dataset, Dataset]:
    """Hold out a fraction of the rows, drawn by the training's seed."""
    held_out = max(1, round(len(train) * validation.fraction))
    if held_out >= len(train):
        msg = f"{spec.data.train.files()[0]}: {len(train)} rows are too few to hold some out"
        raise DataError(msg)
    order = permutation(spec.training.seed, "validation split", 0, len(train))
    return train.rows(np.sort(order[held_out:])), train.rows(np.sort(order[:held_out]))


def loss_of(spec: ExperimentSpec) -> Loss:
    """Make the experiment's loss."""
    return spec.training.loss.build()
