"""What is in a checkpoint: what the file says of itself, a line for each parameter, and what looks wrong in it."""

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

FAR_APART = 1e4
LARGE_STEP = 0.1

Progress = Callable[[int, int], object]
"""Called with the elements that are done and all there are."""


@dataclass(frozen=True)
class ParameterReport:
    """One parameter: its values, its cached gradient, None where there is none, and the step it would make.

    `update` is the norm of what the optimizer would add next, for the cached gradient, over the norm of the values:
    about 0.001 is usual. None without a run's state, or where nothing can be divided by.
    """

    name: str
    values: ArrayStatistics
    gradient: ArrayStatistics | None
    update: float | None


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint: what the file says of itself, its run, its arrays, and warnings in words.

    `metrics` are those of the last finished epoch; `step` and `epoch` are None where no run saved the file.
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
    """Look into a checkpoint. The file is mapped, its structure checked; digests are for `specnet.checkpoint.check`.

    Raises CheckpointError.
    """
    return look_into(path, progress)[1]


def look_into(
    path: str | os.PathLike[str], progress: Progress | None = None
) -> tuple[Model, CheckpointReport, ExperimentSpec | None]:
    """Do the same, and give the mapped model and its run's experiment as well."""
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
    found = CheckpointReport(
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
    return model, found, experiment


def experiment_of(model: Model) -> ExperimentSpec | None:
    """Give the experiment whose run saved a model, None where there is none, or none that can be read."""
    try:
        return run_experiment(model)
    except DataError:
        return None


def history_of(model: Model) -> dict[str, list[float]]:
    """Give the metrics of each finished epoch of the run that saved a model."""
    history = below(model.run_state or {}, "history/")
    return {
        name: value.tolist() for name, value in history.items() if isinstance(value, np.ndarray) and value.ndim == 1
    }


def last_metrics(model: Model) -> dict[str, float]:
    """Give the metrics of the last finished epoch."""
    return {name: values[-1] for name, values in history_of(model).items() if values and name != "epoch"}


def _next_steps(model: Model, experiment: ExperimentSpec | None) -> dict[str, float]:
    """Give the norm of what the optimizer of the model's run would add next to each parameter, where it is finite."""
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
    except (SpecnetError, KeyError, TypeError, ValueError):  # the state of another optimizer, or of none
        return {}
    norms = {}
    for name, value in model.parameters.items():
        np.subtract(value, before[name], value)
        moved = array_statistics(value)
        if not moved.not_finite:
            norms[name] = moved.norm
        value[...] = before[name]
    return norms


def _next_rate(experiment: ExperimentSpec, state: Mapping[str, Any], full: float) -> float | None:
    """Give the learning rate of the next step; None where too little is known, before the first epoch has ended."""
    schedule, epoch = experiment.training.schedule, state["epoch"]
    if schedule.is_constant:
        return full
    if not epoch:
        return None
    return schedule.rate(full, state["step"], (state["step"] - state["batch"]) // epoch, experiment.training.epochs)


def _warnings(model: Model, experiment: ExperimentSpec | None, parameters: Sequence[ParameterReport]) -> Iterator[str]:
    for parameter in parameters:
        for what, found in (("", parameter.values), ("the gradient of ", parameter.gradient)):
            if found is not None and found.not_finite:
                yield f"{what}{parameter.name}: {found.not_finite:,} of {found.size:,} values are NaN or infinite"
        is_weight = len(parameter.values.shape) > 1  # a bias begins at 0: its first steps are large
        if is_weight and parameter.update is not None and parameter.update > LARGE_STEP:
            share = f"{parameter.update:.2g} of its size"
            yield f"{parameter.name}: the next step would move it by {share}; a lower learning rate may help"
    yield from _depth_warnings(parameters)
    yield from _still_warnings(model, experiment, parameters)


def _depth_warnings(parameters: Sequence[ParameterReport]) -> Iterator[str]:
    """Compare the gradients of the first and the last matrix."""
    matrices = [p for p in parameters if len(p.values.shape) == 2 and p.gradient is not None]
    sizes = [p.gradient.norm / math.sqrt(p.gradient.size) for p in matrices if p.gradient is not None]
    if len(sizes) < 3 or not sizes[-1] > 0:
        return
    if sizes[0] == 0:
        yield f"gradients vanish towards the input: that of {matrices[0].name} is 0; a norm or residuals may help"
        return
    ratio = sizes[0] / sizes[-1]
    if ratio < 1 / FAR_APART:
        told = f"{1 / ratio:.1e} times smaller in {matrices[0].name} than in {matrices[-1].name}"
        yield f"gradients vanish towards the input: {told}; a norm, residuals or another initializer may help"
    elif ratio > FAR_APART:
        told = f"{ratio:.1e} times larger in {matrices[0].name} than in {matrices[-1].name}"
        yield f"gradients explode towards the input: {told}; clip_norm or another initializer may help"


def _still_warnings(
    model: Model, experiment: ExperimentSpec | None, parameters: Sequence[ParameterReport]
) -> Iterator[str]:
    """Tell which parameters a run has left as they were drawn. Only those without a gradient come into question."""
    if experiment is None or experiment.training.initialize_from is not None or not (model.run_state or {}).get("step"):
        return
    frozen = frozen_names(model.spec, experiment.training.freeze)
    specs = model.spec.parameter_specs()
    for parameter in parameters:
        name = parameter.name
        if name in frozen or (parameter.gradient is not None and parameter.gradient.norm > 0):
            continue
        drawn = specs[name].draw(model.plan.seed, name, parameter.values.shape)
        if np.array_equal(drawn.astype(model.dtype), model.parameters[name]):
            yield f"{name}: never moved; no gradient has reached it"
