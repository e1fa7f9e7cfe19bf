"""A dry run: read and check everything that a run needs, and train one batch; write nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from specnet.arrays.conversion import size_of
from specnet.data.dataset import Dataset, Order
from specnet.data.raw import Note, ignore
from specnet.data.streaming import AnyDataset
from specnet.model import Model
from specnet.plan import LayerPlan
from specnet.training.experiment import load_experiment
from specnet.training.finite_check import NotFiniteError
from specnet.training.loading import load_data
from specnet.training.runs.train import fresh_model, make_run


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run: counts, the mean loss of the first batch, and the bytes that the run will need.

    `memory` holds bytes by use: "rows", "parameters" (values, gradients, optimizer state), "batch" (arrays between the
    layers, forward and backward).
    """

    rows: int
    validation_rows: int
    steps_per_epoch: int
    epochs: int
    parameters: int
    trained: int
    first_loss: float
    taken_over: tuple[str, ...]
    memory: dict[str, int]


def dry_run(
    experiment: str | os.PathLike[str], overrides: Mapping[str, str] | None = None, note: Note = ignore
) -> DryRun:
    """Check an experiment with its data, and train one batch. Raises what `train` raises before its first step."""
    spec, folder = load_experiment(experiment, overrides)
    spec, data, validation = load_data(spec, folder, note)
    model, transfer = fresh_model(spec, folder, data)
    run = make_run(spec.training, model, data, validation, check_finite=True)
    training, size = spec.training, spec.training.step_rows
    model.draws.seed = training.seed
    order = Order(training.seed, 0) if training.shuffle else None
    block = next(iter(data.blocks(size, order))).rows(slice(0, size))
    outputs = np.empty((len(block), *model.output_shape), model.dtype)
    with np.errstate(all="ignore"):
        try:
            loss, _ = run.take_step(0, block.inputs, block.targets, block.weights, outputs)
        except NotFiniteError as error:
            msg = f"{error.what} in the first step: {error}"
            raise NotFiniteError(msg) from None
    item = model.dtype.itemsize
    vectors = 2 + len(run.optimizer.used_slots()) + (training.accumulate > 1)
    memory = {
        "rows": _row_bytes(data, size) + (0 if validation is None else _row_bytes(validation, size)),
        "parameters": model.parameter_count * item * vectors,
        "batch": 2 * min(training.batch_size, len(data)) * item * sum(_array_sizes(model)),
    }
    return DryRun(
        len(data), len(validation or ()), run.batches, training.epochs, model.parameter_count,
        sum(gradient.size for gradient in run.optimizer.gradients), loss, transfer.taken if transfer else (), memory,
    )  # fmt: skip


def _row_bytes(rows: AnyDataset, size: int) -> int:
    if isinstance(rows, Dataset):
        return rows.nbytes
    return rows.working_bytes(size) + rows.targets.nbytes


def _array_sizes(model: Model) -> Iterator[int]:
    def walk(layers: tuple[LayerPlan, ...]) -> Iterator[int]:
        for layer in layers:
            yield size_of(layer.output_shape)
            yield from walk(tuple(layer.layers))

    yield size_of(model.input_shape)
    yield from walk(model.plan.layers)
