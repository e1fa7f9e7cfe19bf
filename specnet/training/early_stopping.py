"""Early stopping: ends a run whose monitored metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from specnet.training.loop import Event
from specnet.training.metrics import greater_is_better
from specnet.training.spec.training_spec import EarlyStoppingSpec


def is_better(name: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Return whether a value is better than the best so far, if any, by more than `min_delta`; NaN never is."""
    if best is None or math.isnan(value):
        return not math.isnan(value)
    return value > best + min_delta if greater_is_better(name) else value < best - min_delta


class EarlyStopping:
    """A listener that stops the run; its state between epochs is the best value and its epoch."""

    def __init__(self, spec: EarlyStoppingSpec) -> None:
        self.spec = spec
        self.best: float | None = None
        self.best_epoch = 0

    def __call__(self, event: Event) -> None:
        """Update the best value after an epoch, and stop the run if it no longer improves."""
        if event.kind != "epoch":
            return
        value = event.metrics[self.spec.monitored]
        if is_better(self.spec.monitored, value, self.best, self.spec.min_delta):
            self.best, self.best_epoch = value, event.run.epoch
        if self.is_over(event.run.epoch):
            event.run.stop()

    def is_over(self, epoch: int) -> bool:
        """Return whether the last `patience` epochs up to `epoch` brought no improvement."""
        return epoch - self.best_epoch >= self.spec.patience

    def state(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        return {} if self.best is None else {"best": float(self.best), "epoch": self.best_epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.best, self.best_epoch = state.get("best"), state.get("epoch", 0)
