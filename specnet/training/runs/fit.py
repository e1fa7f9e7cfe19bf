"""specnet.fit: train on arrays, without documents or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy.typing as npt

from specnet.arrays.conversion import as_array
from specnet.arrays.frames import column_names, in_order, trained_names
from specnet.data.conform import conform_targets, conform_weights, store_inputs
from specnet.data.dataset import Dataset
from specnet.data.spec import Fraction
from specnet.document.base import without_places
from specnet.errors import DataError, SpecnetError
from specnet.model import Model
from specnet.spec import ModelSpec
from specnet.training.early_stopping import EarlyStopping
from specnet.training.loading import split
from specnet.training.loop import Event, History, Listener
from specnet.training.runs.run_state import feature_state
from specnet.training.runs.train import fit_first_layer, make_run
from specnet.training.spec.checks import training_faults
from specnet.training.spec.training_spec import TrainingSpec

T = TypeVar("T")


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
    """Train a model on arrays, in place, and return the metrics of each epoch; the same loop as `specnet.train`.

    x: (rows, *input_shape); y: class indices or names, (rows,), or numbers of the outputs' shape; weights: (rows,),
    the weight of each row. If x is a data frame, the model and its checkpoints keep the names of its columns, and take
    these columns from every other data frame. `validation` is a pair of arrays (x, y), or the fraction of the rows to
    hold out. `loss`, `optimizer` and all further keywords are the keys of `training` in an experiment document, for
    example schedule, metrics, early_stopping, clip_norm or seed. Nothing is written, so `checkpoint` has no effect.
    Listeners are called with events.

    Raises SpecError for settings, DataError for arrays that do not fit, NotFiniteError for NaN or infinite values.
    """
    if not isinstance(model, Model):
        msg = f"fit(model, x, y): expected a Model, got {type(model).__name__}; make one with specnet.build(spec)"
        raise SpecnetError(msg)
    if training.get("initialize_from") is not None:
        msg = "fit: initialize_from is only for documents; call specnet.load_parameters(model, path) before fit"
        raise SpecnetError(msg)
    validation = tuple(validation) if isinstance(validation, list) else validation
    if isinstance(validation, tuple) and len(validation) != 2:
        msg = f"fit: expected validation=(x, y) or a fraction, got a tuple of length {len(validation)}"
        raise SpecnetError(msg)
    settings = {"loss": loss, "optimizer": optimizer, "epochs": epochs, "batch_size": batch_size, **training}
    spec = _check_settings(model.spec, settings, validates=validation is not None)
    is_fraction = validation is not None and not isinstance(validation, tuple)
    fraction = Fraction.model_validate({"fraction": validation}) if is_fraction else None
    names = trained_names(model.run_state) or column_names(x)
    data, held_out = _rows(spec, model, x, y, weights, names), None
    if isinstance(validation, tuple):
        held_out = _rows(spec, model, *validation, None, names, "validation")
    elif fraction is not None:
        data, held_out = split(spec, data, fraction, "fit")  # type: ignore[assignment]  # returns the type of its input
    fit_first_layer(model, data)
    run = make_run(spec, model, data, held_out, check_finite=check_finite)
    stopping = spec.early_stopping
    best = _BestEpoch(EarlyStopping(stopping)) if stopping else None
    run.listeners = [*([best] if best else []), *listeners]
    # the rest of the state belongs to an earlier run
    model.run_state = feature_state(replace(data, names=names)) if names and isinstance(data, Dataset) else None
    run.go()
    if best and stopping and stopping.restore_best:
        best.restore(model)
    return run.history


def _check_settings(model: ModelSpec, settings: Mapping[str, Any], *, validates: bool) -> TrainingSpec:
    """Check the settings like those of a document. Raises SpecError."""
    document = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    training = TrainingSpec.model_validate(document).keeping_best(validates=validates)
    faults = list(training_faults(model, training, validates=validates))
    if faults:
        raise without_places(faults, document)
    return training


def _rows(
    training: TrainingSpec,
    model: Model,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    weights: Any,
    names: tuple[str, ...],
    source: str = "fit",
) -> Dataset:
    loss = training.loss.build()
    names = names if column_names(x) else ()

    def array(values: Any, what: str) -> npt.NDArray[Any]:
        return _data_error(lambda: as_array(values, f"{source}: {what}"))

    selected = _data_error(lambda: in_order(x, names, source))
    inputs, conversion = store_inputs(array(selected, "inputs"), model.spec, source, names=names)
    targets = conform_targets(array(y, "targets"), model.spec, loss, len(inputs), source)
    row_weights = None if weights is None else array(weights, "weights")
    converted_weights = conform_weights(row_weights, model.spec, len(inputs), source)
    return Dataset(inputs, targets, converted_weights, names, conversion=conversion)


def _data_error(convert: Callable[[], T]) -> T:
    """Call `convert`; raise its errors as DataError."""
    try:
        return convert()
    except SpecnetError as error:
        raise DataError(str(error)) from None


class _BestEpoch:
    """A listener for early stopping that keeps a copy of the best epoch's arrays."""

    def __init__(self, early: EarlyStopping) -> None:
        self.early = early
        self.arrays: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, event: Event) -> None:
        previous = self.early.best_epoch
        self.early(event)
        if self.early.best_epoch != previous:
            model = event.run.model
            self.arrays = {name: array.copy() for name, array in {**model.parameters, **model.buffers}.items()}

    def restore(self, model: Model) -> None:
        for name, array in {**model.parameters, **model.buffers}.items():
            array[...] = self.arrays.get(name, array)
