"""Loss and metrics of an epoch, summed over its rows; metrics are computed for many batches at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.data.streaming import AnyDataset
from specnet.layer import TimeMask
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
    """Sums of loss and metrics over the rows of an epoch so far.

    `masked` says whether masks of time steps are given; then, and if each step has a class, the steps are the rows.
    """

    def __init__(
        self, metrics: Sequence[MetricSpec], output_shape: ShapeTuple, loss: Loss, *, masked: bool = False
    ) -> None:
        one_class = loss.takes_classes()
        self._steps_are_rows = masked or (one_class and len(output_shape) == 2)
        shape = output_shape[1:] if self._steps_are_rows else output_shape
        self.metrics = {spec.type: spec.build(shape, one_class=one_class) for spec in metrics}
        self.loss = 0.0
        self.weight = 0.0
        self._outputs: Array = np.empty(0)
        self._targets: Any = None
        self._mask: TimeMask | None = None
        self._batch_size = 1
        self._start = self._stop = 0

    def begin(self, outputs: Array, targets: Any, size: int, mask: TimeMask | None = None) -> None:
        """Set the arrays that will hold outputs and targets of the next batches, of `size` rows each.

        Time steps where `mask` is False are left out.
        """
        self.flush()
        self._outputs, self._targets, self._batch_size, self._mask = outputs, targets, size, mask
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
                outputs, targets = self._rows(slice(first, min(first + size, stop)))
                if len(outputs):  # not padding alone
                    metric.add(outputs, targets)

    def _rows(self, span: slice) -> tuple[Array, Any]:
        """Return outputs and targets of some rows; of sequences with a class for each step, the steps that count."""
        outputs, targets = self._outputs[span], self._targets[span]
        if not self._steps_are_rows:
            return outputs, targets
        if self._mask is not None:
            return outputs[self._mask[span]], targets[self._mask[span]]
        return outputs.reshape(-1, *outputs.shape[2:]), targets.reshape(-1, *targets.shape[2:])

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
        means = {f"{prefix}loss": self.loss / self.weight if self.weight else math.nan}
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN of no rows: all time steps were padding
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
    epoch_metrics = EpochMetrics(metrics, model.output_shape, loss, masked=model.masks_outputs)
    for part in data.in_order(evaluation_rows(model), *world.share(len(data))):
        outputs, mask = _predicted(model, part.inputs)
        epoch_metrics.begin(outputs, part.targets, len(part), mask)
        mean = loss(outputs, part.targets, part.weights, mask)[0]
        epoch_metrics.add(mean, loss.weight_of(part.targets, part.weights, mask), len(part))
    epoch_metrics.flush()
    return epoch_metrics.combined(world)


def _predicted(model: Model, inputs: npt.NDArray[Any]) -> tuple[Array, TimeMask | None]:
    """Return outputs and their mask. The caller keeps no reference to the inputs while the next ones are made."""
    return model.predict(inputs), model.output_mask(inputs)
