"""Dropout: random zeros during training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64, size_of
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.errors import SpecnetError
from specnet.layer import Layer


class Dropout(Layer):
    """y = x * mask in training, x otherwise; mask is 0 with probability `rate`, else 1 / (1 - rate).

    The mask is a function of (seed, name, step, row). Outside a model, the layer counts its training forward passes as
    steps; in a model, the model sets `draws.step`.
    """

    def __init__(self, rate: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            msg = f"dropout: expected a rate in [0, 1), got {rate!r}"
            raise SpecnetError(msg)
        self.rate = rate
        self._standalone_draws = self.draws = Draws(seed)
        self._shape: ShapeTuple | None = None
        self._dtype = FLOAT64
        self._mask: Array | None = None

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        self._shape, self._dtype = x.shape, x.dtype
        self._mask = self._draw_mask(x) if training and self.rate and x.ndim else None
        if self._mask is None:
            return self.predict(x, out)
        return np.multiply(x, self._mask, out)

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self.incoming(dy, self.cached(self._shape), self._dtype)
        if self._mask is None:
            return np.array(dy) if out is None else dy
        return np.multiply(dy, self._mask, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        return np.array(x) if out is None else x

    def _draw_mask(self, x: Array) -> Array:
        words = self.draws.words(self.name, len(x), size_of(x.shape[1:]))
        if self.draws is self._standalone_draws:
            self.draws.step += 1
        mask = self.keep("mask", x.shape, x.dtype)
        np.multiply((words >= round(self.rate * 2**32)).reshape(x.shape), 1 / (1 - self.rate), mask)
        return mask
