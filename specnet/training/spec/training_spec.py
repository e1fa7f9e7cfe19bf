"""The training settings of an experiment document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, field_validator
from pydantic_core import core_schema

from specnet.document.base import Document, JsonSchema
from specnet.document.messages import first_duplicate, mismatch, problem, suggestion
from specnet.fields import Flag, NonNegativeReal, PositiveInteger, PositiveReal, Seed, Text, as_tuple, at_most
from specnet.training.augmentation import AugmentChoice
from specnet.training.losses.spec import LossChoice
from specnet.training.metrics import MONITORS, MetricChoice, short_name
from specnet.training.optimizers.spec import AdamSpec, OptimizerChoice
from specnet.training.schedules import ConstantSpec, ScheduleChoice


def _known_metric(value: Any) -> Any:
    if isinstance(value, str) and value not in MONITORS:
        message = f'expected the name of a metric, got "{value:.40}"{suggestion(value, MONITORS)}'
        raise problem(message, "wrong_value")
    return value


Monitor = Annotated[Text, BeforeValidator(_known_metric), WithJsonSchema({"enum": list(MONITORS), "type": "string"})]


class CheckpointPolicy(Document):
    """When checkpoints are written."""

    every_steps: PositiveInteger | None = None
    """Number of steps between two writes of last.h5."""
    every_epochs: PositiveInteger | None = 1
    """Number of epochs between two writes of last.h5; it is always written at the end."""
    keep_last: PositiveInteger = 1
    """Number of recent checkpoints to keep: last.h5, and the ones before it as step-<n>.h5."""
    keep_best: Monitor | None = None
    """Metric that selects the best epoch, which is kept in best.h5. Default: what early_stopping monitors and restores,
    or else validation_loss if there are validation rows."""

    @property
    def monitored(self) -> str | None:
        """The short name of keep_best."""
        return None if self.keep_best is None else short_name(self.keep_best)


class EarlyStoppingSpec(Document):
    """Ends a run whose monitored metric no longer improves."""

    monitor: Monitor = "validation_loss"
    """The metric that must improve."""
    patience: PositiveInteger = 10
    """Number of consecutive epochs without improvement after which the run ends."""
    min_delta: NonNegativeReal = 0.0
    """An improvement must be greater than this."""
    restore_best: Flag = True
    """Whether the result of the run is the model of the best epoch (best.h5) instead of the last one."""

    @property
    def monitored(self) -> str:
        """The short name of the metric."""
        return short_name(self.monitor)


class InitializeFrom(Document):
    """A checkpoint whose arrays are copied into the model before the first step, if names and shapes match."""

    path: Text
    """Path of the checkpoint, relative to this document."""
    names: Text = "*"
    """Pattern of the names of arrays to copy, for example "block.*"."""


def _initialize_from(value: Any) -> Any:
    if isinstance(value, InitializeFrom) or value is None:
        return value
    if isinstance(value, str):
        return InitializeFrom.nested({"path": value})
    if not isinstance(value, Mapping):
        raise mismatch("a path, or an object with a path", value, "wrong_type")
    return InitializeFrom.nested(value)


class _AllowString:
    """Adds a string to what a field's JSON Schema accepts."""

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [{"type": "string"}, *handler(schema)["anyOf"]]}


def _pattern_tuple(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(entry, str) and entry for entry in value):
        return as_tuple(value)
    raise mismatch("an array of names or patterns", value, "wrong_type")


class TrainingSpec(Document):
    """How to train."""

    loss: LossChoice = Field(examples=["softmax_cross_entropy", {"type": "huber", "delta": 2.0}])
    """The loss to minimize."""
    optimizer: OptimizerChoice = Field(default=AdamSpec(), examples=[{"type": "adam", "learning_rate": 0.001}])
    """How the parameters are updated."""
    schedule: ScheduleChoice = Field(
        default=ConstantSpec(), examples=["cosine", {"type": "cosine", "warmup_steps": 100}]
    )
    """How the learning rate changes during the run."""
    clip_norm: PositiveReal | None = None
    """Greatest allowed norm of all gradients together; greater norms are scaled down to it."""
    epochs: PositiveInteger = 10
    """Passes over the training rows."""
    batch_size: PositiveInteger = 32
    """Rows per batch; the last batch of an epoch may be smaller."""
    accumulate: PositiveInteger = 1
    """Number of batches whose gradients are accumulated for one step, which equals one step on all their rows."""
    shuffle: Flag = True
    """Whether to shuffle the rows anew in each epoch."""
    seed: Seed = 0
    """Seed of the validation split, the shuffling, augmentation and dropout; the model's seed determines the initial
    weights."""
    augment: Annotated[tuple[AugmentChoice, ...], at_most(10)] = Field(
        default=(), examples=[["random_crop", "flip"], [{"type": "shift", "pixels": 2}]]
    )
    """Random changes of the training rows, in this order and anew in each step. Validation rows are not changed."""
    freeze: Annotated[
        tuple[str, ...],
        BeforeValidator(_pattern_tuple),
        at_most(1000),
        WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
    ] = ()
    """Parameters to leave unchanged, by name or pattern, for example "hidden.*"."""
    initialize_from: Annotated[
        InitializeFrom | None,
        BeforeValidator(_initialize_from),
        _AllowString(),
    ] = None
    """A checkpoint from which to take initial values: its path, or an object."""
    metrics: Annotated[tuple[MetricChoice, ...], at_most(100)] | None = Field(
        default=None, examples=[["accuracy", "f1"], [{"type": "top_k_accuracy", "k": 3}]]
    )
    """Metrics beside the loss. Default: accuracy if the loss has classes."""
    early_stopping: EarlyStoppingSpec | None = None
    """When to end a run that no longer improves."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """When to write checkpoints."""

    @field_validator("metrics")
    @classmethod
    def _reject_duplicates(cls, metrics: Any) -> Any:
        duplicate = first_duplicate([metric.type for metric in metrics or ()])
        if duplicate is not None:
            raise problem(f'"{duplicate}" appears twice', "duplicate_name")
        return metrics

    def keeping_best(self, *, validates: bool) -> Self:
        """Return the settings with `checkpoint.keep_best` filled in: what early stopping monitors, or validation_loss.

        `validates` says whether there are validation rows.
        """
        policy = self.checkpoint
        best = "validation_loss" if validates else None
        if self.early_stopping is not None and self.early_stopping.restore_best:
            best = self.early_stopping.monitor
        if best is None or "keep_best" in policy.model_fields_set:
            return self
        return self.model_copy(update={"checkpoint": policy.model_copy(update={"keep_best": best})})

    @property
    def step_rows(self) -> int:
        """Rows per step."""
        return self.batch_size * self.accumulate
