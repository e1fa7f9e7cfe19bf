"""Schedules: the learning rate as a function of the step, so that there is nothing to save. The formulas are torch's.

Every schedule takes a warm-up: `warmup_steps` steps over which the rate grows in a line from `warmup_from` times its
full value, after which the schedule begins as if at step 0 (torch's SequentialLR of LinearLR and the schedule).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specnet.document.base import Document
from specnet.document.tagged_union import Tagged
from specnet.fields import NonNegativeReal, PositiveInteger, PositiveReal, expecting

PositiveShare = Annotated[float, Field(gt=0, le=1), expecting("a number above 0, at most 1")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1), expecting("an integer of at least 0")]


class ScheduleSpec(Document):
    """Base of the documents of schedules; being functions, they need no object beside."""

    needs_total: ClassVar[bool] = False
    """Whether the rate depends on how long the whole run is: then the number of epochs cannot change on the way."""

    warmup_steps: Count = 0
    """Steps over which the rate grows to its full value."""
    warmup_from: PositiveShare = 0.01
    """Share of the rate that the first step of a warm-up has."""

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same rate."""
        return isinstance(self, ConstantSpec) and not self.warmup_steps

    def rate(self, full: float, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Give the learning rate of a step, counted from 0; `full` is the optimizer's own."""
        warmup = self.warmup_steps
        if step < warmup:
            return full * (self.warmup_from + (1 - self.warmup_from) * step / warmup)
        return self.after_warmup(full, step - warmup, steps_per_epoch, max(steps_per_epoch * epochs - warmup, 1))

    @abstractmethod
    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        """Give the rate `step` steps after the warm-up; `total` steps follow it in all."""


class ConstantSpec(ScheduleSpec):
    """The optimizer's own rate throughout."""

    type: Literal["constant"] = "constant"

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full


class StepSpec(ScheduleSpec):
    """The rate times `factor` after every so many epochs (torch's StepLR)."""

    type: Literal["step"] = "step"
    every_epochs: PositiveInteger
    """Epochs between two changes."""
    factor: PositiveReal = 0.1
    """What the rate is multiplied by."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * self.factor ** (step // steps_per_epoch // self.every_epochs)


class ExponentialSpec(ScheduleSpec):
    """The rate times `factor` after every epoch (torch's ExponentialLR)."""

    type: Literal["exponential"] = "exponential"
    factor: PositiveReal
    """What the rate is multiplied by."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * self.factor ** (step // steps_per_epoch)


class CosineSpec(ScheduleSpec):
    """Half a cosine from the full rate, at the first step, towards `minimum` (torch's CosineAnnealingLR)."""

    needs_total = True
    type: Literal["cosine"] = "cosine"
    minimum: NonNegativeReal = 0.0
    """The rate that the step after the last would have."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return self.minimum + (full - self.minimum) * (1 + math.cos(math.pi * step / total)) / 2


class LinearSpec(ScheduleSpec):
    """A line from `start` to `end` times the full rate over the whole run (torch's LinearLR)."""

    needs_total = True
    type: Literal["linear"] = "linear"
    start: PositiveShare = 1.0
    """Share of the rate at the first step."""
    end: Annotated[float, Field(ge=0, le=1), expecting("a number from 0 to 1")] = 0.0
    """Share of the rate that the step after the last would have."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * (self.start + (self.end - self.start) * min(step, total) / total)


class OneCycleSpec(ScheduleSpec):
    """Up to the full rate and down again (Smith and Topin 2018; torch's OneCycleLR, whose momentum is not moved)."""

    needs_total = True
    type: Literal["one_cycle"] = "one_cycle"
    rise: Annotated[float, Field(gt=0, lt=1), expecting("a number between 0 and 1")] = 0.3
    """Share of the run in which the rate grows."""
    start_divisor: PositiveReal = 25.0
    """The first rate is the full one divided by this."""
    end_divisor: PositiveReal = 10000.0
    """The last rate is the first one divided by this."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Shape of rise and fall."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        first = full / self.start_divisor
        top, end = self.rise * total - 1, total - 1  # torch's phases end there; the first may end between two steps
        if step <= top:
            return self._between(first, full, step / top if top else 1.0)
        return self._between(full, first / self.end_divisor, min((step - top) / (end - top), 1.0) if end > top else 1.0)

    def _between(self, start: float, end: float, share: float) -> float:
        if self.shape == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, type[ScheduleSpec]] = {
    "constant": ConstantSpec,
    "step": StepSpec,
    "exponential": ExponentialSpec,
    "cosine": CosineSpec,
    "linear": LinearSpec,
    "one_cycle": OneCycleSpec,
}

ScheduleChoice = Annotated[ScheduleSpec, Tagged("schedule", lambda: SCHEDULES, shorthand=True)]
