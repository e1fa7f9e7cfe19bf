"""Positional encodings: vectors that tell the steps of a sequence apart, added to the inputs (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, TimeStep
from specnet.layers.sequence.base import check_sequence, copied


@lru_cache(maxsize=8)
def sinusoids(steps: int, features: int, dtype: np.dtype[Any]) -> Array:
    """Return sin(t / 10000^(i / features)) in even columns i, and the cosine in the next one: (steps, features)."""
    result: Array = np.array([sinusoid(step, features) for step in range(steps)], dtype)
    result.flags.writeable = False  # it is shared
    return result


def sinusoid(step: int, features: int) -> npt.NDArray[np.float64]:
    """Return the vector of one step, counted from 0: (features,)."""
    angles = step / 10000.0 ** (np.arange(0, features, 2) / features)
    vector = np.empty(features)
    vector[0::2] = np.sin(angles)
    vector[1::2] = np.cos(angles[: features // 2])
    return vector


class PositionalEncoding(Layer):
    """y = x + a vector for each step: rows of a trained weight, (length, features), or sinusoids without a weight.

    Inputs are (batch, time, features). Raises ShapeError.
    """

    weight = ParameterView()
    weight_grad = GradientView("weight")

    def __init__(self, weight: npt.ArrayLike | None = None) -> None:
        super().__init__()
        self._weight: Array | None = None
        if weight is not None:
            self._weight = self.parameters["weight"] = self.floats(weight)
            if self._weight.ndim != 2:
                msg = f"{self.name}: expected a weight of shape (length, features), got {self._weight.shape}"
                raise ShapeError(msg)
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        check_sequence(input_shape)
        if fields["kind"] == "sinusoidal":
            return {}, input_shape
        length = fields["length"] or input_shape[0]
        if length < input_shape[0]:
            msg = f"length {length} is less than the {input_shape[0]} steps of the input"
            raise ShapeError(msg)
        return {"weight": (length, input_shape[1])}, input_shape

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        return cls(**parameters)

    @property
    def in_place(self) -> bool:
        return True

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.predict(x, out)
        self._x_shape, self._dtype = y.shape, y.dtype
        return y

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        array = self.floats(x, None if self._weight is None else self._weight.dtype)
        if array.ndim != 3:
            msg = f"{self.name}: expected an array of shape (batch, time, features), got {array.shape}"
            raise ShapeError(msg)
        return np.add(array, self._vectors(array.shape[1], array.shape[2], array.dtype), out)

    def _vectors(self, steps: int, features: int, dtype: np.dtype[Any]) -> Array:
        if self._weight is None:
            return sinusoids(steps, features, dtype)
        if steps > len(self._weight) or features != self._weight.shape[1]:
            msg = f"{self.name}: has vectors for (time, features) up to {self._weight.shape}, got {(steps, features)}"
            raise ShapeError(msg)
        return self._weight[:steps]

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self.incoming(dy, self.cached(self._x_shape), self._dtype)
        if self._weight is not None:
            gradient = self.gradient("weight")
            gradient[dy.shape[1] :] = 0
            np.sum(dy, axis=0, out=gradient[: dy.shape[1]])
        return copied(dy, out)

    def time_step(self, batch: int) -> TimeStep:
        taken = 0

        def step(x: npt.NDArray[Any]) -> Array:
            nonlocal taken
            taken += 1
            if self._weight is not None and taken > len(self._weight):
                msg = f"{self.name}: has vectors for {len(self._weight)} steps, no more"
                raise SpecnetError(msg)
            vector = (
                sinusoid(taken - 1, x.shape[1]).astype(x.dtype) if self._weight is None else self._weight[taken - 1]
            )
            y: Array = x + vector
            return y

        return step
