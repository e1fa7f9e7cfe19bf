"""The simple recurrent layer (Elman 1990)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array
from specnet.errors import SpecnetError
from specnet.layers.sequence.base import Pass
from specnet.layers.sequence.recurrent import Recurrent


class SimpleRnn(Recurrent):
    """h = tanh(x @ weight + h @ recurrent_weight + bias), or with max(…, 0) in place of tanh.

    weight: (features, units), recurrent_weight: (units, units), bias: (units,) or None.
    """

    options = (*Recurrent.options, "activation")

    def __init__(
        self,
        weight: npt.ArrayLike,
        recurrent_weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        activation: Literal["tanh", "relu"] = "tanh",
        return_sequences: bool = False,
        reverse: bool = False,
        truncate: int | None = None,
    ) -> None:
        super().__init__(
            weight, recurrent_weight, bias, return_sequences=return_sequences, reverse=reverse, truncate=truncate
        )
        if activation not in ("tanh", "relu"):
            msg = f'{self.name}: expected the activation "tanh" or "relu", got {activation!r}'
            raise SpecnetError(msg)
        self.activation = activation

    def step(self, arrays: Mapping[str, Array], t: int) -> None:
        h, sums = arrays["h"], arrays["gates"][t]
        sums += np.dot(h[t], self._recurrent, arrays["products"])
        if self.activation == "tanh":
            np.tanh(sums, h[t + 1])
        else:
            np.maximum(sums, 0, out=h[t + 1])
        sums[...] = h[t + 1]

    def walk_back(self, made: Pass, dh: Array) -> tuple[Array, Array]:
        y = made.arrays["gates"]
        slope = 1 - y * y if self.activation == "tanh" else (y > 0).astype(y.dtype)
        if made.counts.size:
            slope *= made.counts[..., np.newaxis]
        d_sums, cuts = self.keep("d_sums", y.shape, y.dtype), self.find_cuts(made)
        for t in range(len(dh) - 1, -1, -1):
            np.multiply(dh[t], slope[t], d_sums[t])
            self.hand_on(made, t, dh, d_sums[t] @ self._recurrent.T, cuts)
        return d_sums, d_sums
