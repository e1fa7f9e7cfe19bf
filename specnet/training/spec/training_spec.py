"""The part of an experiment document that says how to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, field_validator
from pydantic_core import core_schema

from specnet.document.base import Document, JsonSchema
from specnet.document.messages import mismatch, problem, suggestion
from specnet.fields import Flag, NonNegativeReal, PositiveInteger, PositiveReal, Seed, Text, as_tuple
from specnet.training.losses.spec import LossChoice
from specnet.training.metrics import MONITORS, MetricChoice, short_name
from specnet.training.optimizers.spec import AdamSpec, OptimizerChoice
from specnet.training.schedules import ConstantSpec, ScheduleChoice


def _monitor(value: Any) -> Any:
    if isinstance(value, str) and value not in MONITORS:
        message = f'expected the name of a metric, got "{value:.40}"{suggestion(value, MONITORS)}'
        raise problem(message, "wrong_value")
    return value


Monitor = Annotated[Text, BeforeValidator(_monitor), WithJsonSchema({"enum": list(MONITORS), "type": "string"})]


class CheckpointPolicy(Document):
    """When checkpoints are written."""

    every_steps: PositiveInteger | None = None
    """Write last.h5 after so many steps."""
    every_epochs: PositiveInteger | None = 1
    """Write last.h5 after so many epochs; it is always written at the end."""
    keep_last: PositiveInteger = 1
    """How many of the last checkpoints stay: last.h5, and those before it as step-<n>.h5."""
    keep_best: Monitor | None = None
    """Keep the epoch that is best by this metric in best.h5. Default: what early_stopping monitors and restores, or
    else validation_loss where there is validation."""

    @property
    def monitored(self) -> str | None:
        """The short name of keep_best."""
        return None if self.keep_best is None else short_name(self.keep_best)


class EarlyStoppingSpec(Document):
    """Ends a run that does not get better."""

    monitor: Monitor = "validation_loss"
    """The metric that has to improve."""
    patience: PositiveInteger = 10
    """Epochs in a row without improvement after which the run ends."""
    min_delta: NonNegativeReal = 0.0
    """What counts as an improvement: more than this."""
    restore_best: Flag = True
    """Whether the run's result is the best epoch's model (that of best.h5), not the last one's."""

    @property
    def monitored(self) -> str:
        """The short name of the metric."""
        return short_name(self.monitor)


class InitializeFrom(Document):
    """A checkpoint whose arrays are taken over before the first step, as far as names and shapes match."""

    path: Text
    """The checkpoint, relative to the document."""
    names: Text = "*"
    """A pattern that the names of arrays have to match, "block.*" say."""


def _initialize_from(value: Any) -> Any:
    if isinstance(value, InitializeFrom) or value is None:
        return value
    if isinstance(value, str):
        return InitializeFrom.nested({"path": value})
    if not isinstance(value, Mapping):
        raise mismatch("a path, or an object with one", value, "wrong_type")
    return InitializeFrom.nested(value)


class _OrText:
    """Adds a string to what a field's JSON Schema accepts."""

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [{"type": "string"}, *handler(schema)["anyOf"]]}


def _patterns(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(entry, str) and entry for entry in value):
        return as_tuple(value)
    raise mismatch("an array of names or patterns", value, "wrong_type")


class TrainingSpec(Document):
    """How to train."""

    loss: LossChoice = Field(examples=["softmax_cross_entropy", {"type": "huber", "delta": 2.0}])
    """What is minimized."""
    optimizer: OptimizerChoice = Field(default=AdamSpec(), examples=[{"type": "adam", "learning_rate": 0.001}])
    """How the parameters move."""
    schedule: ScheduleChoice = Field(
        default=ConstantSpec(), examples=["cosine", {"type": "cosine", "warmup_steps": 100}]
    )
    """How the learning rate changes during the run."""
    clip_norm: PositiveReal | None = None
    """Greatest norm of all gradients together; longer ones are made shorter."""
    epochs: PositiveInteger = 10
    """Passes over the training rows."""
    batch_size: PositiveInteger = 32
    """Rows of a batch; the last one of an epoch may be shorter."""
    accumulate: PositiveInteger = 1
    """Batches whose gradients make one step, as a batch of all their rows would."""
    shuffle: Flag = True
    """Whether each epoch has an order of its own."""
    seed: Seed = 0
    """Decides the split, the shuffling and dropout; the model's own seed decides the initial weights."""
    freeze: Annotated[
        tuple[str, ...],
        BeforeValidator(_patterns),
        WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
    ] = ()
    """Parameters that do not move, by name or pattern: "hidden.*"."""
    initialize_from: Annotated[
        InitializeFrom | None,
        BeforeValidator(_initialize_from),
        _OrText(),
    ] = None
    """A checkpoint to begin from, its path or an object."""
    metrics: Annotated[tuple[MetricChoice, ...], BeforeValidator(as_tuple)] | None = Field(
        default=None, examples=[["accuracy", "f1"], [{"type": "top_k_accuracy", "k": 3}]]
    )
    """What is measured beside the loss. Default: accuracy, where there are classes."""
    early_stopping: EarlyStoppingSpec | None = None
    """When a run that does not get better ends."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """When checkpoints are written."""

    @field_validator("metrics")
    @classmethod
    def _different(cls, metrics: Any) -> Any:
        names = [metric.type for metric in metrics or ()]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise problem(f'"{twice[0]}" stands here twice', "duplicate_name")
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
        """Rows of a step."""
        return self.batch_size * self.accumulate
