"""Schedules: the learning rate as a function of the step, without state to save. The formulas are torch's.

Every schedule has an optional warm-up: over `warmup_steps` steps the rate grows linearly from `warmup_from` times its
full value. Then the schedule starts as if at step 0 (torch's SequentialLR of LinearLR and the schedule).
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
    """Base class of the schedule specs; they compute the rate themselves, so there is no separate class to build."""

    needs_total: ClassVar[bool] = False
    """Whether the rate depends on the total number of steps; if so, a resumed run cannot change its epochs."""

    warmup_steps: Count = 0
    """Steps over which the rate grows to its full value."""
    warmup_from: PositiveShare = 0.01
    """Fraction of the full rate at the first step of the warm-up."""

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same rate."""
        return isinstance(self, ConstantSpec) and not self.warmup_steps

    def rate(self, full: float, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the learning rate of a step, counted from 0; `full` is the optimizer's learning rate."""
        warmup = self.warmup_steps
        if step < warmup:
            return full * (self.warmup_from + (1 - self.warmup_from) * step / warmup)
        return self.after_warmup(full, step - warmup, steps_per_epoch, max(steps_per_epoch * epochs - warmup, 1))

    @abstractmethod
    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        """Return the rate `step` steps after the warm-up; `total` is the number of steps after the warm-up."""


class ConstantSpec(ScheduleSpec):
    """The optimizer's learning rate at every step."""

    type: Literal["constant"] = "constant"

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full


class StepSpec(ScheduleSpec):
    """Multiplies the rate by `factor` after every `every_epochs` epochs (torch's StepLR)."""

    type: Literal["step"] = "step"
    every_epochs: PositiveInteger
    """Number of epochs between two changes."""
    factor: PositiveReal = 0.1
    """Factor by which the rate is multiplied at each change."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * self.factor ** (step // steps_per_epoch // self.every_epochs)


class ExponentialSpec(ScheduleSpec):
    """Multiplies the rate by `factor` after every epoch (torch's ExponentialLR)."""

    type: Literal["exponential"] = "exponential"
    factor: PositiveReal
    """Factor by which the rate is multiplied at each change."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * self.factor ** (step // steps_per_epoch)


class CosineSpec(ScheduleSpec):
    """Half a cosine, from the full rate at the first step down to `minimum` (torch's CosineAnnealingLR)."""

    needs_total = True
    type: Literal["cosine"] = "cosine"
    minimum: NonNegativeReal = 0.0
    """The rate that would be reached one step after the last."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return self.minimum + (full - self.minimum) * (1 + math.cos(math.pi * step / total)) / 2


class LinearSpec(ScheduleSpec):
    """A straight line from `start` to `end` times the full rate over the whole run (torch's LinearLR)."""

    needs_total = True
    type: Literal["linear"] = "linear"
    start: PositiveShare = 1.0
    """Fraction of the full rate at the first step."""
    end: Annotated[float, Field(ge=0, le=1), expecting("a number from 0 to 1")] = 0.0
    """Fraction of the full rate that would be reached one step after the last."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        return full * (self.start + (self.end - self.start) * min(step, total) / total)


class OneCycleSpec(ScheduleSpec):
    """Rises to the full rate and falls again (Smith and Topin 2018; torch's OneCycleLR with constant momentum)."""

    needs_total = True
    type: Literal["one_cycle"] = "one_cycle"
    rise: Annotated[float, Field(gt=0, lt=1), expecting("a number between 0 and 1")] = 0.3
    """Fraction of the run in which the rate rises."""
    start_divisor: PositiveReal = 25.0
    """The first rate is the full rate divided by this."""
    end_divisor: PositiveReal = 10000.0
    """The last rate is the first rate divided by this."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Shape of the rise and the fall."""

    def after_warmup(self, full: float, step: int, steps_per_epoch: int, total: int) -> float:
        first = full / self.start_divisor
        top, end = self.rise * total - 1, total - 1  # ends of torch's two phases; `top` can lie between two steps
        if step <= top:
            return self._blend(first, full, step / top if top else 1.0)
        return self._blend(full, first / self.end_divisor, min((step - top) / (end - top), 1.0) if end > top else 1.0)

    def _blend(self, start: float, end: float, share: float) -> float:
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
