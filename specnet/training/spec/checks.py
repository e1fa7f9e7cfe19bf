"""Faults of an experiment that no part of its document shows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from specnet.document.json_text import Finding
from specnet.document.messages import suggestion
from specnet.layerspec import LayerSpec
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec
from specnet.training.losses.base import Loss
from specnet.training.losses.spec import SoftmaxCrossEntropySpec
from specnet.training.metrics import AccuracySpec, MetricSpec, short_name

if TYPE_CHECKING:
    from specnet.training.spec.experiment_spec import ExperimentSpec
    from specnet.training.spec.training_spec import TrainingSpec


def metric_specs(training: TrainingSpec) -> tuple[MetricSpec, ...]:
    """List what is measured beside the loss: what the document says, or accuracy where there are classes."""
    if training.metrics is not None:
        return training.metrics
    return (AccuracySpec(),) if training.loss.build().has_classes() else ()


def frozen_names(model: ModelSpec, patterns: Sequence[str]) -> set[str]:
    """List the parameters whose names match one of the patterns."""
    return {name for name in model.plan().parameter_shapes() if any(fnmatchcase(name, p) for p in patterns)}


def cross_faults(spec: ExperimentSpec) -> Iterator[Finding]:
    """Find what does not fit together: model and loss, metrics and loss, what is monitored and what is measured."""
    loss = spec.training.loss.build()
    yield from _loss_faults(spec, loss)
    yield from _metric_faults(spec, loss)
    yield from _monitor_faults(spec)
    yield from _freeze_faults(spec)


def _loss_faults(spec: ExperimentSpec, loss: Loss) -> Iterator[Finding]:
    model = spec.built_model
    last = _last(model.layers)
    if last.type in loss.doubled_by:
        message = f"{loss.name} takes logits and the model ends in {last.type}; remove that layer, predict adds it"
        yield Finding(("training", "loss"), message, "doubled_activation")
    if loss.takes_classes() and (len(model.output_shape) != 1 or model.output_shape[0] < 2):
        message = (
            f"{loss.name} needs one output a class, at least 2; the model's outputs have shape {model.output_shape}"
        )
        yield Finding(("training", "loss"), message, "output_width")
    if isinstance(spec.training.loss, SoftmaxCrossEntropySpec) and spec.training.loss.class_weights:
        given, width = len(spec.training.loss.class_weights), model.output_shape[-1]
        if given != width:
            message = f"expected {width} weights, one a class of the output, got {given}"
            yield Finding(("training", "loss", "class_weights"), message, "wrong_value")


def _metric_faults(spec: ExperimentSpec, loss: Loss) -> Iterator[Finding]:
    width = spec.built_model.output_shape[-1]
    for index, metric in enumerate(spec.training.metrics or ()):
        path = ("training", "metrics", index)
        if metric.needs_classes == "one" and not loss.takes_classes():
            yield Finding(path, f"{metric.type} needs classes, and {loss.name} has none", "wrong_value")
        elif metric.needs_classes and not loss.has_classes():
            yield Finding(
                path, f"{metric.type} needs classes, and {loss.name} has none; mse, mae and r2 do not", "wrong_value"
            )
        elif not metric.needs_classes and loss.has_classes():
            yield Finding(
                path,
                f"{metric.type} compares numbers, and {loss.name} has classes; accuracy compares those",
                "wrong_value",
            )
        elif getattr(metric, "k", 1) > width:
            yield Finding((*path, "k"), f"the model has {width} outputs", "wrong_value")


def _monitor_faults(spec: ExperimentSpec) -> Iterator[Finding]:
    training = spec.training
    named = {}
    if training.early_stopping is not None:
        named[training.early_stopping.monitor] = ("training", "early_stopping", "monitor")
    if training.checkpoint.keep_best is not None:
        named.setdefault(training.checkpoint.keep_best, ("training", "checkpoint", "keep_best"))
    measured = ["loss", *(metric.type for metric in metric_specs(training))]
    for name, path in named.items():
        short = short_name(name)
        if short.startswith("val_") and spec.data.validation is None:
            message = f'there is no data.validation to take {name} from; add it, or write "training_loss"'
            yield Finding(path, message, "wrong_value")
        if short.removeprefix("val_") not in measured:
            there = ", ".join(measured)
            message = f"{short.removeprefix('val_')} is not measured; there are {there}; add it to training.metrics"
            yield Finding(path, message, "wrong_value")
    stopping = training.early_stopping
    if stopping is not None and stopping.restore_best and stopping.monitored != training.checkpoint.monitored:
        message = (
            f"restore_best takes the model of best.h5, which keeps the best by {training.checkpoint.keep_best}; "
            "monitor the same, or write restore_best: false"
        )
        yield Finding(("training", "early_stopping"), message, "wrong_value")


def _freeze_faults(spec: ExperimentSpec) -> Iterator[Finding]:
    names = list(spec.built_model.plan().parameter_shapes())
    for index, pattern in enumerate(spec.training.freeze):
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"no parameter is called so{suggestion(pattern, names)}"
            yield Finding(("training", "freeze", index), message, "wrong_value")
    if names and len(frozen_names(spec.built_model, spec.training.freeze)) == len(names):
        yield Finding(("training", "freeze"), "all parameters are frozen, nothing is left to train", "wrong_value")


def _last(layers: Sequence[LayerSpec]) -> LayerSpec:
    """Give the layer that computes the outputs, also where it stands in a sequential."""
    last = layers[-1]
    while isinstance(last, CompositeSpec) and len(last.lists()) == 1 and last.inside:
        last = last.inside[-1]
    return last
