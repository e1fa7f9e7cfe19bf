"""Checks of training settings that need the model or several settings at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from specnet.document.json_places import Finding
from specnet.document.messages import suggestion
from specnet.errors import KeyPath
from specnet.layerspec import LayerSpec
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec
from specnet.training.losses.base import Loss
from specnet.training.losses.spec import SoftmaxCrossEntropySpec
from specnet.training.metrics import AccuracySpec, MetricSpec, short_name
from specnet.training.spec.training_spec import TrainingSpec


def metric_specs(training: TrainingSpec) -> tuple[MetricSpec, ...]:
    """Return the metrics beside the loss: those of the document, or accuracy if the loss has classes."""
    if training.metrics is not None:
        return training.metrics
    return (AccuracySpec(),) if training.loss.build().has_classes() else ()


def frozen_names(model: ModelSpec, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that match one of the patterns."""
    return {name for name in model.plan().parameter_shapes() if any(fnmatchcase(name, p) for p in patterns)}


def training_faults(model: ModelSpec, training: TrainingSpec, *, validates: bool) -> Iterator[Finding]:
    """Yield what does not fit together: model, loss, metrics, monitored metrics, frozen parameters and augmentation.

    `validates` says whether there are validation rows. Paths start at the training settings.
    """
    loss = training.loss.build()
    yield from _loss_faults(model, training, loss)
    yield from _metric_faults(model, training, loss)
    yield from _monitor_faults(training, validates=validates)
    yield from _freeze_faults(model, training)
    yield from _augment_faults(model, training)


def _loss_faults(model: ModelSpec, training: TrainingSpec, loss: Loss) -> Iterator[Finding]:
    last = _output_layer(model.layers)
    output_shape = model.output_shape
    if last.type in loss.doubled_by:
        message = f"{loss.name} takes logits, but the model ends in {last.type}; remove that layer, predict applies it"
        yield Finding(("loss",), message, "doubled_activation")
    if loss.takes_classes() and (len(output_shape) > 2 or output_shape[-1] < 2):
        message = f"{loss.name} needs one output per class, at least 2; the model's outputs have shape {output_shape}"
        yield Finding(("loss",), message, "output_width")
    if isinstance(training.loss, SoftmaxCrossEntropySpec) and training.loss.class_weights:
        count, width = len(training.loss.class_weights), output_shape[-1]
        if count != width:
            message = f"expected {width} weights, one per class of the output, got {count}"
            yield Finding(("loss", "class_weights"), message, "wrong_value")


def _metric_faults(model: ModelSpec, training: TrainingSpec, loss: Loss) -> Iterator[Finding]:
    width = model.output_shape[-1]
    for index, metric in enumerate(training.metrics or ()):
        path = ("metrics", index)
        if metric.needs_classes == "one" and not loss.takes_classes():
            yield Finding(path, f"{metric.type} needs classes, but {loss.name} has none", "wrong_value")
        elif metric.needs_classes and not loss.has_classes():
            message = f"{metric.type} needs classes, but {loss.name} has none; use mse, mae or r2"
            yield Finding(path, message, "wrong_value")
        elif not metric.needs_classes and loss.has_classes():
            message = f"{metric.type} compares numbers, but {loss.name} has classes; use accuracy or f1"
            yield Finding(path, message, "wrong_value")
        elif getattr(metric, "k", 1) > width:
            yield Finding((*path, "k"), f"the model has {width} outputs", "wrong_value")


def _monitor_faults(training: TrainingSpec, *, validates: bool) -> Iterator[Finding]:
    paths: dict[str, KeyPath] = {}
    if training.early_stopping is not None:
        paths[training.early_stopping.monitor] = ("early_stopping", "monitor")
    if training.checkpoint.keep_best is not None:
        paths.setdefault(training.checkpoint.keep_best, ("checkpoint", "keep_best"))
    computed = ["loss", *(metric.type for metric in metric_specs(training))]
    for name, path in paths.items():
        short = short_name(name)
        if short.startswith("val_") and not validates:
            message = f'{name} needs validation rows, but there are none; add data.validation, or write "training_loss"'
            yield Finding(path, message, "wrong_value")
        if short.removeprefix("val_") not in computed:
            known = ", ".join(computed)
            message = f"{short.removeprefix('val_')} is not measured, only {known}; add it to training.metrics"
            yield Finding(path, message, "wrong_value")
    stopping = training.early_stopping
    if stopping is not None and stopping.restore_best and stopping.monitored != training.checkpoint.monitored:
        message = (
            f"restore_best loads best.h5, the best epoch by {training.checkpoint.keep_best}; "
            "monitor the same metric, or write restore_best: false"
        )
        yield Finding(("early_stopping",), message, "wrong_value")


def _freeze_faults(model: ModelSpec, training: TrainingSpec) -> Iterator[Finding]:
    names = list(model.plan().parameter_shapes())
    for index, pattern in enumerate(training.freeze):
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"no parameter matches{suggestion(pattern, names)}"
            yield Finding(("freeze", index), message, "wrong_value")
    if names and len(frozen_names(model, training.freeze)) == len(names):
        yield Finding(("freeze",), "all parameters are frozen, nothing is left to train", "wrong_value")


def _augment_faults(model: ModelSpec, training: TrainingSpec) -> Iterator[Finding]:
    shape, first = model.input_shape, model.plan().layers[0]
    for index, spec in enumerate(training.augment):
        if first.input_limit is not None or len(shape) not in (2, 3):
            what = "indices" if first.input_limit is not None else f"input_shape {list(shape)}"
            message = (
                f"expected inputs of images [height, width, channels] or [length, channels], got {what}; remove it"
            )
            yield Finding(("augment", index), message, "wrong_value")
            continue
        plan = model.plan()
        if len(shape) == 2 and (plan.layers[0].marks_padding or plan.keeps_time):
            what = "their padding" if plan.layers[0].marks_padding else "the targets of their steps"
            yield Finding(
                ("augment", index),
                f"it would move the steps of sequences, but not {what}; remove it",
                "wrong_value",
            )
            continue
        key, message = spec.fault(shape)
        if message:
            yield Finding(("augment", index, key) if key else ("augment", index), message, "wrong_value")


def _output_layer(layers: Sequence[LayerSpec]) -> LayerSpec:
    """Return the layer that computes the outputs, also if it is inside a sequential."""
    last = layers[-1]
    while isinstance(last, CompositeSpec) and len(last.lists()) == 1 and last.inside:
        last = last.inside[-1]
    return last
