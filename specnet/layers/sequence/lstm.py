"""Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.layers.sequence.base import Pass, sigmoid
from specnet.layers.sequence.recurrent import Recurrent


class Lstm(Recurrent):
    """c = f * c + i * g and h = o * tanh(c), with i, f, o = sigmoid and g = tanh of x @ weight + h @ recurrent_weight.

    weight: (features, 4 * units), recurrent_weight: (units, 4 * units), bias, added to both products: (4 * units,) or
    None. Their columns are those of i, f, g, o.
    """

    gates = 4
    states = ("h", "c")
    records: ClassVar[Mapping[str, int]] = {"gates": 4}

    def step(self, arrays: Mapping[str, Array], t: int) -> None:
        h, c, gates = arrays["h"], arrays["c"], arrays["gates"][t]
        gates += h[t] @ self._recurrent
        i, f, g, o = np.split(gates, 4, axis=1)
        sigmoid(gates[:, : 2 * self.units])  # i and f
        np.tanh(g, g)
        sigmoid(o)
        np.multiply(f, c[t], c[t + 1])
        c[t + 1] += i * g
        np.multiply(o, np.tanh(c[t + 1]), h[t + 1])

    def walk_back(self, made: Pass, dh: Array) -> tuple[Array, Array]:
        c, gates = made.arrays["c"], made.arrays["gates"]
        d_gates = self.keep("d_gates", gates.shape, gates.dtype)
        if kernels.lstm_backward(dh, made.counts, gates, c, self._recurrent, d_gates, self.truncate or 0):
            return d_gates, d_gates
        i, f, g, o = np.split(gates, 4, axis=2)
        tanh_c = np.tanh(c[1:])
        through_c = np.concatenate([g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g * g)], axis=2)  # ∂c/∂gates
        through_o, h_to_c = tanh_c * o * (1 - o), o * (1 - tanh_c * tanh_c)
        dc = np.zeros_like(c[0])
        for t in range(len(dh) - 1, -1, -1):
            dc_after = dc
            dc = dc + dh[t] * h_to_c[t]
            np.multiply(through_c[t], np.tile(dc, 3), d_gates[t, :, : 3 * self.units])
            np.multiply(through_o[t], dh[t], d_gates[t, :, 3 * self.units :])
            dc = dc * f[t]
            if made.counts.size:
                padding = made.counts[t] == 0
                d_gates[t, padding] = 0
                dc[padding] = dc_after[padding]
            if self.is_cut(t):
                dc[...] = 0
            else:
                self.hand_on(made, t, dh, d_gates[t] @ self._recurrent.T)
        return d_gates, d_gates

    def compiled(self, made: Pass) -> bool:
        arrays = made.arrays
        bias = self._no_bias if self._bias is None else self._bias
        return kernels.lstm(
            made.x, self._weight, self._recurrent, bias, made.counts, arrays["gates"], arrays["h"], arrays["c"]
        )
