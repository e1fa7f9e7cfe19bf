"""Embedding: a trained vector for each integer of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import as_integers
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer, TimeMask, TimeStep


class Embedding(Layer):
    """y = weight[x]: a row of the weight for each integer of x, from 0 to vocabulary - 1.

    weight: (vocabulary, dimension). For x of shape (batch, …), y has shape (batch, …, dimension). Integers have no
    gradient: `backward` fills weight_grad, of the weight's shape, and returns None. As a model's first layer it marks
    the steps whose integer is `mask_index` as padding, for x of shape (batch, time). Raises ShapeError, also for an
    integer out of range.
    """

    weight = ParameterView()
    weight_grad = GradientView("weight")

    def __init__(self, weight: npt.ArrayLike, mask_index: int | None = None) -> None:
        super().__init__()
        self.mask_index = mask_index
        self._weight = self.parameters["weight"] = self.floats(weight)
        if self._weight.ndim != 2 or 0 in self._weight.shape:
            msg = f"{self.name}: expected a weight of shape (vocabulary, dimension), got {self._weight.shape}"
            raise ShapeError(msg)
        self._x: npt.NDArray[np.int64] | None = None

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        dimension = fields["dimension"]
        if fields["mask_index"] is not None and len(input_shape) != 1:
            msg = f"with mask_index, it expects sequences of integers, shape (time,), got {input_shape}"
            raise ShapeError(msg)
        if fields["mask_index"] is not None and fields["mask_index"] >= fields["vocabulary"]:
            msg = f"mask_index {fields['mask_index']} is none of the integers from 0 to {fields['vocabulary'] - 1}"
            raise ShapeError(msg)
        return {"weight": (fields["vocabulary"], dimension)}, (*input_shape, dimension)

    @classmethod
    def input_limit(cls, fields: Mapping[str, Any]) -> int | None:
        limit: int = fields["vocabulary"]
        return limit

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Embedding:
        return cls(**parameters, mask_index=fields["mask_index"])

    @classmethod
    def must_be_first(cls, fields: Mapping[str, Any]) -> str:
        return "" if fields["mask_index"] is None else "its mask_index marks the padding of the model's inputs"

    @classmethod
    def marks_padding(cls, fields: Mapping[str, Any]) -> bool:
        return fields["mask_index"] is not None

    def mask_of(self, x: npt.NDArray[Any]) -> TimeMask | None:
        """Return which steps of x, (batch, time), are not `mask_index`; None if it is None."""
        return None if self.mask_index is None else np.not_equal(x, self.mask_index)

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "weight[x]"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        checked = self._check_input(x)
        y = self._look_up(checked, out)
        self._x = checked
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> None:
        x = self.cached(self._x)
        width = self._weight.shape[1]
        rows = self.incoming(dy, (*x.shape, width), self._weight.dtype).reshape(x.size, width)
        gradient = self.gradient("weight")
        gradient.fill(0)
        if x.size:  # ∂y/∂weight[i] = 1 where x is i: sort the rows by integer, and sum those of equal integers
            order = np.argsort(x, axis=None, kind="stable")
            integers, starts = np.unique(x.reshape(-1)[order], return_index=True)
            gradient[integers] = np.add.reduceat(rows[order], starts, axis=0)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self._look_up(self._check_input(x), out)

    def time_step(self, batch: int) -> TimeStep:
        return self.predict

    def _look_up(self, x: npt.NDArray[np.int64], out: Array | None) -> Array:
        width = self._weight.shape[1]
        y = np.empty((*x.shape, width), self._weight.dtype) if out is None else out
        if not y.flags.c_contiguous or not kernels.gather(self._weight, x.reshape(-1), y.reshape(x.size, width)):
            np.take(self._weight, x, axis=0, out=y, mode="clip")
        return y

    def _check_input(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        array = as_integers(x, self.name)
        if array.ndim == 0:
            msg = f"{self.name}: expected an array of shape (batch, ...), got a single number, shape ()"
            raise ShapeError(msg)
        vocabulary = len(self._weight)
        if array.size and (array.min() < 0 or array.max() >= vocabulary):
            out_of_range = array[(array < 0) | (array >= vocabulary)][0]
            msg = f"{self.name}: expected integers from 0 to {vocabulary - 1}, got {out_of_range}"
            raise ShapeError(msg)
        return array
