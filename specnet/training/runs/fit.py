"""specnet.fit: training on arrays, without documents or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.data.conform import conform_inputs, conform_targets, conform_weights
from specnet.data.dataset import Dataset
from specnet.data.spec import Fraction
from specnet.document.base import without_places
from specnet.errors import DataError, SpecnetError
from specnet.model import Model
from specnet.spec import ModelSpec
from specnet.training.early_stopping import EarlyStopping
from specnet.training.loading import split
from specnet.training.loop import Event, History, Listener
from specnet.training.runs.train import fit_first_layer, make_run
from specnet.training.spec.checks import training_faults
from specnet.training.spec.training_spec import TrainingSpec


def fit(
    model: Model,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    loss: str | Mapping[str, Any],
    optimizer: str | Mapping[str, Any] = "adam",
    epochs: int = 10,
    batch_size: int = 32,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | float | None = None,
    weights: npt.ArrayLike | None = None,
    listeners: Sequence[Listener] = (),
    check_finite: bool = False,
    **training: Any,
) -> History:
    """Train a model on arrays, in place, and give the metrics of each epoch; the same loop as `specnet.train`.

    x: (rows, *input_shape); y: class indices or names, (rows,), or numbers of the outputs' shape; weights: (rows,),
    how much each row counts. `validation` is a pair of arrays, or the fraction of the rows that is held out. `loss`,
    `optimizer` and all further keywords are the keys of `training` in an experiment document: schedule, metrics,
    early_stopping, clip_norm, seed and so on; nothing is written, so `checkpoint` has no effect. Listeners are called
    with events.

    Raises SpecError for settings, DataError for arrays that do not fit, NotFiniteError where numbers run away.
    """
    if not isinstance(model, Model):
        msg = f"fit(model, x, y): expected a Model, got {type(model).__name__}; make one with specnet.build(spec)"
        raise SpecnetError(msg)
    if training.get("initialize_from") is not None:
        msg = "fit: initialize_from is for documents; call specnet.load_parameters(model, path) before"
        raise SpecnetError(msg)
    if isinstance(validation, tuple) and len(validation) != 2:
        msg = f"fit: expected validation=(x, y) or a fraction, got a tuple of {len(validation)}"
        raise SpecnetError(msg)
    settings = {"loss": loss, "optimizer": optimizer, "epochs": epochs, "batch_size": batch_size, **training}
    spec = _settings(model.spec, settings, validates=validation is not None)
    data, held_out = _rows(spec, model, x, y, weights), None
    if isinstance(validation, tuple):
        held_out = _rows(spec, model, *validation, None, "validation")
    elif validation is not None:
        fraction = Fraction.model_validate({"fraction": validation})
        data, held_out = split(spec, data, fraction, "fit")  # type: ignore[assignment]  # of the kind that it is given
    fit_first_layer(model, data)
    run = make_run(spec, model, data, held_out, check_finite=check_finite)
    stopping = spec.early_stopping
    keeper = _Keeper(EarlyStopping(stopping)) if stopping else None
    run.listeners = [*([keeper] if keeper else []), *listeners]
    model.run_state = None  # what another run kept is not this one's
    run.go()
    if keeper and stopping and stopping.restore_best:
        keeper.restore(model)
    return run.history


def _settings(model: ModelSpec, settings: Mapping[str, Any], *, validates: bool) -> TrainingSpec:
    """Check the settings as those of a document. Raises SpecError."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    training = TrainingSpec.model_validate(plain).keeping_best(validates=validates)
    faults = list(training_faults(model, training, validates=validates))
    if faults:
        raise without_places(faults, plain)
    return training


def _rows(
    training: TrainingSpec, model: Model, x: npt.ArrayLike, y: npt.ArrayLike, weights: Any, source: str = "fit"
) -> Dataset:
    loss = training.loss.build()
    inputs = conform_inputs(_plain(x), model.spec, source)
    targets = conform_targets(_plain(y), model.spec, loss, len(inputs), source)
    given = None if weights is None else np.asarray(weights)
    return Dataset(inputs, targets, conform_weights(given, model.spec, len(inputs), source))


def _plain(y: npt.ArrayLike) -> npt.NDArray[Any]:
    """Make an array; names that come as objects become text. Raises DataError."""
    try:
        array = np.asarray(y)
    except ValueError as error:
        msg = f"fit: expected an array, got what numpy makes none of: {error}"
        raise DataError(msg) from None
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.reshape(-1)):
        return array.astype(str)
    return array


class _Keeper:
    """Early stopping that keeps a copy of the best epoch's arrays."""

    def __init__(self, early: EarlyStopping) -> None:
        self.early = early
        self.kept: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, event: Event) -> None:
        before = self.early.best_epoch
        self.early(event)
        if self.early.best_epoch != before:
            model = event.run.model
            self.kept = {name: array.copy() for name, array in {**model.parameters, **model.buffers}.items()}

    def restore(self, model: Model) -> None:
        for name, array in {**model.parameters, **model.buffers}.items():
            array[...] = self.kept.get(name, array)
