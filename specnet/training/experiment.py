"""The experiment document: model, data and training, checked together before anything is read or built."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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

from specnet.errors import PathKey, Problem, SpecError, SpecnetError
from specnet.jsontext import Finding, JsonText, parse_json
from specnet.layertree import PLACEHOLDER
from specnet.migrations import check_format, format_of, migrated
from specnet.paths import user_path
from specnet.spec import ModelSpec
from specnet.training.consistency import cross_faults
from specnet.training.dataspec import DataSpec
from specnet.training.loading import data_faults
from specnet.training.trainingspec import TrainingSpec
from specnet.validation import Document, Text, expecting, findings, read_document, without_places
from specnet.wording import mismatch

FAMILY = "specnet-experiment"
EXPERIMENT_FORMAT = format_of(FAMILY)

_PART = re.compile(r"([A-Za-z_$][A-Za-z0-9_$-]*)((?:\[\d{1,6}\])*)")
"""Between two dots of a path: a key, and places in lists."""

RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100),
    expecting("a name of letters, digits, ., _ and - (it becomes a folder) that begins with a letter or digit"),
]


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
    def _keeps_the_best(cls, training: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        """Fill in what is kept as the best: what early stopping monitors, or the validation loss."""
        data, policy = info.data.get("data"), training.checkpoint
        if data is None or "keep_best" in policy.model_fields_set:
            return training
        best = "validation_loss" if data.validation is not None else None
        if training.early_stopping is not None and training.early_stopping.restore_best:
            best = training.early_stopping.monitor
        if best is None:
            return training
        return training.model_copy(update={"checkpoint": policy.model_copy(update={"keep_best": best})})

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
    changed = _overridden(text.value, overrides or {}, folder)
    if isinstance(text.value, dict) and "layers" in text.value and "training" not in text.value:
        message = "this is a model document, expected an experiment, which names a model, data and training"
        raise _error(text, [Finding((), message, "wrong_document")], [])
    try:
        spec = ExperimentSpec.nested(text.value)
    except ValidationError as error:
        raise _error(text, findings(error), changed) from None
    if isinstance(spec.model, str):
        spec = spec.model_copy(update={"model": ModelSpec.from_file(folder / spec.model)})
    faults = [*text.findings, *cross_faults(spec)]
    if check_data and not faults:
        faults += data_faults(spec, folder)
    if faults:
        raise _error(text, faults, changed)
    return spec, folder


def _error(text: JsonText, faults: list[Finding], changed: list[tuple[PathKey, ...]]) -> SpecError:
    """Make one SpecError; what was changed by an override has no place in the file."""
    if not text.text:
        return without_places(faults, text.value)
    outside = [f for f in faults if any(f.path[: len(path)] == path for path in changed)]
    if not outside:
        return text.error(faults)
    inside = [f for f in faults if f not in outside]
    problems = list(text.error(inside).problems) if inside or text.findings else []
    return SpecError([*problems, *without_places(outside, text.value).problems], text.source)


def _overridden(value: Any, overrides: Mapping[str, str], folder: Path) -> list[tuple[PathKey, ...]]:
    """Set values of the document; give what is not as the file has it. A model named by its path comes in first."""
    changed: list[tuple[PathKey, ...]] = []
    for path, text in overrides.items():
        keys = _keys(path)
        if keys[0] == "model" and len(keys) > 1 and isinstance(value, dict) and isinstance(value.get("model"), str):
            source = folder / user_path(value["model"])
            ModelSpec.from_file(source)  # tells its faults at their places in its own file
            model = parse_json(read_document(source), os.fspath(source)).value
            value["model"] = {key: entry for key, entry in model.items() if key != "$schema"}
            changed.append(("model",))
        _override(value, path, keys, text)
        changed.append(keys)
    return changed


def _keys(path: str) -> tuple[PathKey, ...]:
    """Cut the path of a value: "model.layers[0].units" -> ("model", "layers", 0, "units"). Raises SpecError."""
    keys: list[PathKey] = []
    for part in path.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            raise _no_path(path)
        keys += [found[1], *(int(index) for index in re.findall(r"\d+", found[2]))]
    return tuple(keys)


def _override(value: Any, path: str, keys: tuple[PathKey, ...], text: str) -> None:
    """Set one value of the document, given as JSON, or as plain text where that is no JSON."""
    *parents, last = keys
    for key in parents:
        if isinstance(value, dict) and isinstance(key, str):
            inner = value.setdefault(key, {})
            if isinstance(inner, str):  # short for an object of this type
                inner = value[key] = {"type": inner}
            value = inner
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            raise _no_path(path)
    fits = isinstance(last, str) if isinstance(value, dict) else isinstance(value, list) and last in range(len(value))
    if not fits:
        raise _no_path(path)
    try:
        value[last] = json.loads(text)
    except ValueError:
        value[last] = text


def _no_path(path: str) -> SpecError:
    message = "expected the path of a value in the document, as training.epochs or model.layers[0].units"
    return SpecError([Problem(path, message, "unknown_key")], "--set")
