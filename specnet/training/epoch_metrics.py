"""Loss and metrics of an epoch, summed over its rows; metrics are computed for many batches at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.data.streaming import AnyDataset
from specnet.model import Model
from specnet.mpi.world import SINGLE, World
from specnet.training.losses.base import Loss
from specnet.training.metrics import MetricSpec

_MAX_ROWS = 1024
_MAX_INPUT_BYTES = 2**26


def evaluation_rows(model: Model) -> int:
    """Return the number of rows to predict at a time: 1,024, or fewer if a row has more than 64 KiB.

    The last bits of predictions depend on it.
    """
    return max(min(_MAX_INPUT_BYTES // (math.prod(model.input_shape) * model.input_dtype.itemsize), _MAX_ROWS), 1)


class EpochMetrics:
    """Sums of loss and metrics over the rows of an epoch so far."""

    def __init__(self, metrics: Sequence[MetricSpec], output_shape: ShapeTuple, loss: Loss) -> None:
        one_class = loss.takes_classes()
        self.metrics = {spec.type: spec.build(output_shape, one_class=one_class) for spec in metrics}
        self.loss = 0.0
        self.weight = 0.0
        self._outputs: Array = np.empty(0)
        self._targets: Any = None
        self._batch_size = 1
        self._start = self._stop = 0

    def begin(self, outputs: Array, targets: Any, size: int) -> None:
        """Set the arrays that will hold outputs and targets of the next batches, of `size` rows each."""
        self.flush()
        self._outputs, self._targets, self._batch_size = outputs, targets, size
        self._start = self._stop = 0

    def add(self, loss: float, weight: float, stop: int) -> None:
        """Add a batch, whose outputs end before row `stop`."""
        self.loss += loss * weight
        self.weight += weight
        self._stop = stop

    def flush(self) -> None:
        """Add the pending rows to the metrics, batch by batch if the order of summation changes the last bits."""
        start, stop = self._start, self._stop
        self._start = stop
        if start == stop:
            return
        for metric in self.metrics.values():
            size = stop - start if metric.counts else self._batch_size
            for first in range(start, stop, size):
                span = slice(first, min(first + size, stop))
                metric.add(self._outputs[span], self._targets[span])

    def combined(self, world: World) -> EpochMetrics:
        """Return the sums over the rows of all processes, or `self` if there is one process. A collective call."""
        if world.size == 1:
            return self
        parts = world.gather(self.state())
        total = copy.deepcopy(self)
        total.loss, total.weight = (sum(part[key] for part in parts) for key in ("loss", "weight"))
        for name, metric in total.metrics.items():
            metric.combine([part[name] for part in parts])
        return total

    def values(self, prefix: str = "") -> dict[str, float]:
        """Return the mean loss and the metrics, their names with `prefix`."""
        self.flush()
        means = {f"{prefix}loss": self.loss / self.weight}
        return means | {f"{prefix}{name}": metric.value() for name, metric in self.metrics.items()}

    def state(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        self.flush()
        sums = {name: metric.sums for name, metric in self.metrics.items()}
        return {"loss": float(self.loss), "weight": float(self.weight), **sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned. Raises ValueError if it belongs to other metrics."""
        if state.keys() != {"loss", "weight", *self.metrics}:
            msg = f"the sums belong to other metrics: {', '.join(sorted(state))}"
            raise ValueError(msg)
        self.loss, self.weight = float(state["loss"]), float(state["weight"])
        for name, metric in self.metrics.items():
            if np.shape(state[name]) != metric.sums.shape:
                msg = f"the sums of {name} have shape {np.shape(state[name])}, expected {metric.sums.shape}"
                raise ValueError(msg)
            metric.sums[...] = state[name]


def evaluate(
    model: Model, loss: Loss, data: AnyDataset, metrics: Sequence[MetricSpec] = (), world: World = SINGLE
) -> EpochMetrics:
    """Return loss and metrics over all rows, from outputs of `predict`; each process evaluates its share of them."""
    epoch_metrics = EpochMetrics(metrics, model.output_shape, loss)
    for part in data.in_order(evaluation_rows(model), *world.share(len(data))):
        outputs = model.predict(part.inputs)
        epoch_metrics.begin(outputs, part.targets, len(part))
        epoch_metrics.add(
            loss(outputs, part.targets, part.weights)[0], loss.weight_of(part.targets, part.weights), len(part)
        )
    epoch_metrics.flush()
    return epoch_metrics.combined(world)
