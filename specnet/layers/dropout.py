"""Dropout: random zeros during training, of single elements or of whole channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from specnet import kernels
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

    @property
    def in_place(self) -> bool:
        return True

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        self._shape, self._dtype, self._mask = x.shape, x.dtype, None
        if not training or not self.rate or not x.ndim:
            return self.predict(x, out)
        mask = self._mask = self.keep("mask", x.shape, x.dtype)
        y = np.empty(x.shape, x.dtype) if out is None else out
        least, kept = round(self.rate * 2**32), 1 / (1 - self.rate)
        if not kernels.dropout(x, mask, y, self.draws.position(self.name), least, kept):
            words = self.draws.words(self.name, len(x), size_of(x.shape[1:]))
            np.multiply((words >= least).reshape(x.shape), kept, mask)
            np.multiply(x, mask, y)
        if self.draws is self._standalone_draws:
            self.draws.step += 1
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self.incoming(dy, self.cached(self._shape), self._dtype)
        if self._mask is None:
            return np.array(dy) if out is None else dy
        dx = np.empty(dy.shape, dy.dtype) if out is None else out
        return dx if kernels.multiply(dy, self._mask, dx) else np.multiply(dy, self._mask, dx)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        return np.array(x) if out is None else x


class ChannelDropout(Dropout):
    """y = x * mask in training, x otherwise; the mask is the same at all positions of a channel.

    Neighbouring positions say much the same, so single zeros would hide little (Tompson et al. 2015).
    """

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        self._shape, self._dtype, self._mask = x.shape, x.dtype, None
        if not training or not self.rate or x.ndim < 2:
            return self.predict(x, out)
        words = self.draws.words(self.name, len(x), x.shape[-1])
        mask = np.multiply(words >= round(self.rate * 2**32), 1 / (1 - self.rate), dtype=x.dtype)
        self._mask = mask.reshape(len(x), *[1] * (x.ndim - 2), x.shape[-1])
        if self.draws is self._standalone_draws:
            self.draws.step += 1
        return np.multiply(x, self._mask, out)
