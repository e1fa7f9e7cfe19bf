"""What an epoch adds up: the loss, and the metrics, whose work is done for many batches at once."""

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

_MOST_ROWS = 1024


_MOST_BYTES = 2**26


def evaluation_rows(model: Model) -> int:
    """Count the rows that are predicted at a time, which last bits depend on: 1,024, or fewer of more than 64 KiB."""
    return max(min(_MOST_BYTES // (math.prod(model.input_shape) * model.input_dtype.itemsize), _MOST_ROWS), 1)


class EpochMetrics:
    """Sums over the rows of an epoch so far."""

    def __init__(self, metrics: Sequence[MetricSpec], output_shape: ShapeTuple, loss: Loss) -> None:
        one_class = loss.takes_classes()
        self.metrics = {spec.type: spec.build(output_shape, one_class=one_class) for spec in metrics}
        self.loss = 0.0
        self.weight = 0.0
        self._outputs: Array = np.empty(0)
        self._targets: Any = None
        self._size = 1
        self._from = self._to = 0

    def begin(self, outputs: Array, targets: Any, size: int) -> None:
        """Say where the outputs of the next batches, of `size` rows each, will stand."""
        self.flush()
        self._outputs, self._targets, self._size = outputs, targets, size
        self._from = self._to = 0

    def add(self, loss: float, weight: float, stop: int) -> None:
        """Count a batch; its outputs reach up to row `stop`."""
        self.loss += loss * weight
        self.weight += weight
        self._to = stop

    def flush(self) -> None:
        """Count what the metrics have not seen yet. Batch by batch where the order of sums decides the last bits."""
        start, stop = self._from, self._to
        self._from = stop
        if start == stop:
            return
        for metric in self.metrics.values():
            size = stop - start if metric.counts else self._size
            for at in range(start, stop, size):
                span = slice(at, min(at + size, stop))
                metric.add(self._outputs[span], self._targets[span])

    def combined(self, world: World) -> EpochMetrics:
        """Give the sums over the rows of all processes; itself where there is one."""
        if world.size == 1:
            return self
        parts = world.gather(self.state())
        whole = copy.deepcopy(self)
        whole.loss, whole.weight = (sum(part[key] for part in parts) for key in ("loss", "weight"))
        for name, metric in whole.metrics.items():
            metric.combine([part[name] for part in parts])
        return whole

    def values(self, prefix: str = "") -> dict[str, float]:
        """Give the means over the rows."""
        self.flush()
        means = {f"{prefix}loss": self.loss / self.weight}
        return means | {f"{prefix}{name}": metric.value() for name, metric in self.metrics.items()}

    def state(self) -> dict[str, Any]:
        """Give what has to be kept to go on."""
        self.flush()
        sums = {name: metric.sums for name, metric in self.metrics.items()}
        return {"loss": float(self.loss), "weight": float(self.weight), **sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Raises ValueError where it is of other metrics."""
        if state.keys() != {"loss", "weight", *self.metrics}:
            msg = f"the sums are of {', '.join(sorted(state))}"
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
    """Count loss and metrics over all rows, as `predict` answers them; each process of a world looks at its share."""
    epoch_metrics = EpochMetrics(metrics, model.output_shape, loss)
    for part in data.in_order(evaluation_rows(model), *world.share(len(data))):
        outputs = model.predict(part.inputs)
        epoch_metrics.begin(outputs, part.targets, len(part))
        epoch_metrics.add(
            loss(outputs, part.targets, part.weights)[0], loss.weight_of(part.targets, part.weights), len(part)
        )
    epoch_metrics.flush()
    return epoch_metrics.combined(world)
