"""Inspect a checkpoint: its metadata, statistics of every parameter and gradient, and warnings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specnet.checkpoint import load
from specnet.checkpoint.read import Origin, origin
from specnet.errors import DataError, SpecnetError
from specnet.files.paths import user_path
from specnet.inspection.statistics import ArrayStatistics, array_statistics
from specnet.model import Model
from specnet.prediction.predict import run_experiment
from specnet.training.runs.run_state import below
from specnet.training.runs.train import optimizer_of
from specnet.training.spec.checks import frozen_names
from specnet.training.spec.experiment_spec import ExperimentSpec

FAR_APART = 1e4  # ratio of gradient sizes from which on gradients vanish or explode
LARGE_STEP = 0.1  # norm of an update over the norm of the values

Progress = Callable[[int, int], object]
"""Called with the number of processed elements and the number of all elements."""


@dataclass(frozen=True)
class ParameterReport:
    """One parameter: statistics of its values and of its saved gradient (None without one), and its next update.

    `update` is the norm of the next optimizer step, computed from the saved gradient, divided by the norm of the
    values; about 0.001 is usual. It is None without the state of a run, or if the norm of the values is 0.
    """

    name: str
    values: ArrayStatistics
    gradient: ArrayStatistics | None
    update: float | None


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint: metadata of the file, state of its run, statistics of its arrays, and warnings as text.

    `metrics` are those of the last finished epoch. `step` and `epoch` are None if no run saved the file.
    """

    path: str
    size: int
    origin: Origin
    name: str
    identity: str
    dtype: str
    parameter_count: int
    step: int | None
    epoch: int | None
    metrics: dict[str, float]
    parameters: tuple[ParameterReport, ...]
    buffers: dict[str, ArrayStatistics]
    warnings: tuple[str, ...]


def inspect(path: str | os.PathLike[str], progress: Progress | None = None) -> CheckpointReport:
    """Inspect a checkpoint. The file is memory-mapped; digests are not verified (see `specnet.checkpoint.check`).

    Checks the structure of the file. Raises CheckpointError.
    """
    return look_into(path, progress)[1]


def look_into(
    path: str | os.PathLike[str], progress: Progress | None = None
) -> tuple[Model, CheckpointReport, ExperimentSpec | None]:
    """Inspect a checkpoint, and return the memory-mapped model, the report, and the experiment of its run."""
    model = load(path, mmap=True)
    experiment = experiment_of(model)
    steps = _next_steps(model, experiment)
    parameters: list[ParameterReport] = []
    done = 0
    for name, value in model.parameters.items():
        values = array_statistics(value)
        gradient = array_statistics(model.gradients[name]) if model.has_gradients else None
        update = steps[name] / values.norm if name in steps and values.norm > 0 else None
        parameters.append(ParameterReport(name, values, gradient, update))
        done += value.size
        if progress is not None:
            progress(done, model.parameter_count)
    state = model.run_state or {}
    report = CheckpointReport(
        path=os.fspath(path),
        size=user_path(path).stat().st_size,
        origin=origin(path),
        name=model.plan.name,
        identity=model.spec.identity,
        dtype=model.plan.dtype,
        parameter_count=model.parameter_count,
        step=state.get("step"),
        epoch=state.get("epoch"),
        metrics=last_metrics(model),
        parameters=tuple(parameters),
        buffers={name: array_statistics(buffer) for name, buffer in model.buffers.items()},
        warnings=tuple(_warnings(model, experiment, parameters)),
    )
    return model, report, experiment


def experiment_of(model: Model) -> ExperimentSpec | None:
    """Return the experiment whose run saved the model, None without one or if it is not valid."""
    try:
        return run_experiment(model)
    except DataError:
        return None


def history_of(model: Model) -> dict[str, list[float]]:
    """Return the metrics of every finished epoch of the run that saved the model."""
    history = below(model.run_state or {}, "history/")
    return {
        name: value.tolist() for name, value in history.items() if isinstance(value, np.ndarray) and value.ndim == 1
    }


def last_metrics(model: Model) -> dict[str, float]:
    """Return the metrics of the last finished epoch."""
    return {name: values[-1] for name, values in history_of(model).items() if values and name != "epoch"}


def _next_steps(model: Model, experiment: ExperimentSpec | None) -> dict[str, float]:
    """Return the norm of the next optimizer step for each parameter for which it is finite; empty if unknown."""
    state = model.run_state or {}
    if experiment is None or not model.has_gradients:
        return {}
    before = {name: value.copy() for name, value in model.parameters.items()}
    try:
        optimizer = optimizer_of(experiment.training, model)
        optimizer.restore(below(state, "optimizer/"))
        rate = _next_rate(experiment, state, optimizer.learning_rate)
        if rate is None:
            return {}
        optimizer.learning_rate = rate
        with np.errstate(all="ignore"):
            optimizer.step()
    except (SpecnetError, KeyError, TypeError, ValueError):  # the state is missing, or belongs to another optimizer
        return {}
    norms = {}
    for name, value in model.parameters.items():
        np.subtract(value, before[name], value)
        step = array_statistics(value)
        if not step.not_finite:
            norms[name] = step.norm
        value[...] = before[name]
    return norms


def _next_rate(experiment: ExperimentSpec, state: Mapping[str, Any], full: float) -> float | None:
    """Return the learning rate of the next step; None before the end of the first epoch, unless it is constant."""
    schedule, epoch = experiment.training.schedule, state["epoch"]
    if schedule.is_constant:
        return full
    if not epoch:
        return None
    return schedule.rate(full, state["step"], (state["step"] - state["batch"]) // epoch, experiment.training.epochs)


def _warnings(model: Model, experiment: ExperimentSpec | None, parameters: Sequence[ParameterReport]) -> Iterator[str]:
    for parameter in parameters:
        for prefix, array in (("", parameter.values), ("the gradient of ", parameter.gradient)):
            if array is not None and array.not_finite:
                yield f"{prefix}{parameter.name}: {array.not_finite:,} of {array.size:,} values are NaN or infinite"
        is_weight = len(parameter.values.shape) > 1  # biases start at 0, so their first steps are relatively large
        if is_weight and parameter.update is not None and parameter.update > LARGE_STEP:
            share = f"{parameter.update:.2g} of its norm"
            yield f"{parameter.name}: the next step would change it by {share}; a lower learning rate may help"
    yield from _depth_warnings(parameters)
    yield from _unchanged_warnings(model, experiment, parameters)


def _depth_warnings(parameters: Sequence[ParameterReport]) -> Iterator[str]:
    """Warn about vanishing or exploding gradients: compare the first and the last weight matrix."""
    matrices = [p for p in parameters if len(p.values.shape) == 2 and p.gradient is not None]
    sizes = [p.gradient.norm / math.sqrt(p.gradient.size) for p in matrices if p.gradient is not None]
    if len(sizes) < 3 or not sizes[-1] > 0:
        return
    if sizes[0] == 0:
        yield f"gradients vanish towards the input: that of {matrices[0].name} is 0; a norm or residual layers may help"
        return
    ratio = sizes[0] / sizes[-1]
    if ratio < 1 / FAR_APART:
        comparison = f"{1 / ratio:.1e} times smaller in {matrices[0].name} than in {matrices[-1].name}"
        yield f"gradients vanish towards the input: {comparison}; a norm, residuals or another initializer may help"
    elif ratio > FAR_APART:
        comparison = f"{ratio:.1e} times larger in {matrices[0].name} than in {matrices[-1].name}"
        yield f"gradients explode towards the input: {comparison}; clip_norm or another initializer may help"


def _unchanged_warnings(
    model: Model, experiment: ExperimentSpec | None, parameters: Sequence[ParameterReport]
) -> Iterator[str]:
    """Warn about trainable parameters that equal their initial values, and whose gradient is 0 or missing."""
    if experiment is None or experiment.training.initialize_from is not None or not (model.run_state or {}).get("step"):
        return
    frozen = frozen_names(model.spec, experiment.training.freeze)
    specs = model.spec.parameter_specs()
    for parameter in parameters:
        name = parameter.name
        if name in frozen or (parameter.gradient is not None and parameter.gradient.norm > 0):
            continue
        initial = specs[name].draw(model.plan.seed, name, parameter.values.shape)
        if np.array_equal(initial.astype(model.dtype), model.parameters[name]):
            yield f"{name}: unchanged since initialization; no gradient has reached it"
