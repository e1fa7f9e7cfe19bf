"""Prediction for one time step at a time: streams of measurements, or a text that is written token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats, as_integers, batch_of
from specnet.arrays.parameters import Array
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, TimeStep
from specnet.plan import ModelPlan


class Stepper:
    """Takes a batch of sequences one step at a time; made by `Model.stepper`.

    After each step, the output is that of the model for the sequences so far: its last step if the outputs are
    sequences. There may be more steps than the document's input has. Steps are never padding. Not thread-safe: each
    thread makes its own.
    """

    def __init__(self, layers: Sequence[Layer], plan: ModelPlan, batch: int) -> None:
        if not isinstance(batch, (int, np.integer)) or batch < 1:
            msg = f"stepper: expected batch to be a positive integer, got {batch!r}"
            raise SpecnetError(msg)
        shape, self._dtype = plan.input_shape, np.dtype(plan.input_dtype)
        if len(shape) != (1 if self._dtype.kind == "i" else 2):
            msg = f"stepper: expected a model of sequences, (time, features) or (time,), got input_shape {shape}"
            raise ShapeError(msg)
        self._layers, self._plan, self._batch = layers, plan, int(batch)
        self._shape = (self._batch, *shape[1:])
        self._functions: list[TimeStep] = []
        self.reset()

    def __reduce__(self) -> NoReturn:
        msg = "stepper: cannot be copied or pickled; make another one with model.stepper()"
        raise SpecnetError(msg)

    def reset(self) -> None:
        """Forget all steps, and begin new sequences."""
        functions: list[TimeStep] = []
        keeps_time = True
        for layer, plan in zip(self._layers, self._plan.layers, strict=True):
            functions.append(layer.time_step(self._batch) if keeps_time else layer.predict)
            keeps_time &= len(plan.output_shape) > 1
        self._functions = functions

    def step(self, x: npt.ArrayLike) -> Array:
        """Return the output after one more step, (batch, features), or (batch,) integers for an embedding.

        A single sequence may be without its batch axis. Raises ShapeError.
        """
        y = x if type(x) is np.ndarray and x.dtype is self._dtype and x.shape == self._shape else self._checked(x)
        for function in self._functions:
            y = function(y)
        return y

    def _checked(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        is_integer = self._dtype.kind == "i"
        array: Any = as_integers(x, "stepper") if is_integer else as_floats(x, self._dtype, "stepper")
        if self._batch == 1 and array.shape == self._shape[1:]:
            array = array[np.newaxis]
        if array.shape != self._shape:
            expected = batch_of(self._shape[1:]).replace("batch", str(self._batch))
            msg = f"stepper: expected an array of shape {expected}, one step, got {array.shape}"
            raise ShapeError(msg)
        return array
