"""Read an experiment document, and check model, data and training together before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from specnet.document.base import findings, read_document, without_places
from specnet.document.json_places import Finding
from specnet.document.json_text import JsonText, parse_json
from specnet.document.python_values import plain
from specnet.errors import PathKey, Problem, SpecError
from specnet.files.paths import user_path
from specnet.spec.model_spec import ModelSpec
from specnet.training.loading import data_faults
from specnet.training.spec.checks import training_faults
from specnet.training.spec.experiment_spec import ExperimentSpec
from specnet.training.spec.overrides import apply_overrides


def load_experiment(
    source: str | os.PathLike[str] | Mapping[str, Any] | ExperimentSpec,
    overrides: Mapping[str, str] | None = None,
    *,
    check_data: bool = False,
) -> tuple[ExperimentSpec, Path]:
    """Read and check an experiment; return it with its model inline, and the folder to which its paths are relative.

    `source` is a path, or a document in Python, whose paths are relative to the working directory. `overrides` maps
    paths in the document (for example "training.epochs") to JSON values. `check_data` also reads the data files that
    exist. Raises SpecError, which lists every problem with its place.
    """
    if isinstance(source, ExperimentSpec):
        source = source.model_dump(mode="json")
    if isinstance(source, Mapping):
        try:
            text = JsonText("", plain(source))
        except RecursionError:
            raise SpecError([Problem("", "is nested too deeply", "too_deep")]) from None
        folder = Path()
    else:
        text = parse_json(read_document(source), os.fspath(source))
        text.require_text()
        folder = user_path(source).parent
    changed = apply_overrides(text.value, overrides or {}, folder)
    if isinstance(text.value, dict) and "layers" in text.value and "training" not in text.value:
        message = "this is a model document, expected an experiment document with model, data and training"
        raise _error(text, [Finding((), message, "wrong_document")], [])
    try:
        spec = ExperimentSpec.nested(text.value)
    except ValidationError as error:
        raise _error(text, findings(error), changed) from None
    if isinstance(spec.model, str):
        spec = spec.model_copy(update={"model": ModelSpec.from_file(folder / spec.model)})
    training_problems = training_faults(spec.built_model, spec.training, validates=spec.data.validation is not None)
    faults = [*text.findings, *(fault._replace(path=("training", *fault.path)) for fault in training_problems)]
    if check_data and not faults:
        faults += data_faults(spec, folder)
    if faults:
        raise _error(text, faults, changed)
    return spec, folder


def _error(text: JsonText, faults: list[Finding], changed: list[tuple[PathKey, ...]]) -> SpecError:
    """Return one SpecError; problems of values that an override changed get no place in the file."""
    if not text.text:
        return without_places(faults, text.value)
    outside = [f for f in faults if any(f.path[: len(path)] == path for path in changed)]
    if not outside:
        return text.error(faults)
    inside = [f for f in faults if f not in outside]
    problems = list(text.error(inside).problems) if inside or text.findings else []
    return SpecError([*problems, *without_places(outside, text.value).problems], text.source)
