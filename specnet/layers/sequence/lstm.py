"""Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.layers.sequence.base import Pass
from specnet.layers.sequence.recurrent import Recurrent


class Lstm(Recurrent):
    """c = f * c + i * g and h = o * tanh(c), with i, f, o = sigmoid and g = tanh of x @ weight + h @ recurrent_weight.

    weight: (features, 4 * units), recurrent_weight: (units, 4 * units), bias, added to both products: (4 * units,) or
    None. Their columns are those of i, f, g, o.
    """

    gates = 4
    states = ("h", "c")
    records: ClassVar[Mapping[str, int]] = {"gates": 4}

    def walk(self, made: Pass) -> None:
        made.arrays["scale"] = np.repeat(np.array([0.5, 0.5, 1, 0.5], self._weight.dtype), self.units)
        super().walk(made)

    def step(self, arrays: Mapping[str, Array], t: int) -> None:
        h, c, gates, room = arrays["h"], arrays["c"], arrays["gates"][t], arrays["products"]
        gates += np.dot(h[t], self._recurrent, room)
        scale = arrays["scale"]  # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2: one tanh for all gates
        gates *= scale
        np.tanh(gates, gates)
        gates *= scale
        gates += 1 - scale
        i, f, g, o = self.split(gates)
        np.multiply(f, c[t], c[t + 1])
        room = room[:, : self.units]
        c[t + 1] += np.multiply(i, g, room)
        np.multiply(o, np.tanh(c[t + 1], room), h[t + 1])

    def walk_back(self, made: Pass, dh: Array) -> tuple[Array, Array]:
        c, gates = made.arrays["c"], made.arrays["gates"]
        d_gates = self.keep("d_gates", gates.shape, gates.dtype)
        if kernels.lstm_backward(dh, made.counts, gates, c, self._recurrent, d_gates, self.truncate or 0):
            return d_gates, d_gates
        i, f, g, o = self.split(gates)
        tanh_c = np.tanh(c[1:])
        di, df, dg, do = self.split(d_gates)  # at first ∂c/∂i, ∂c/∂f, ∂c/∂g and ∂h/∂o of all steps
        np.multiply(g, i * (1 - i), di)
        np.multiply(c[:-1], f * (1 - f), df)
        np.multiply(i, 1 - g * g, dg)
        np.multiply(tanh_c, o * (1 - o), do)
        h_to_c = o * (1 - tanh_c * tanh_c)
        through_c = d_gates.reshape(*c[1:].shape[:2], 4, self.units)[:, :, :3]
        dc, before, cuts = np.zeros_like(c[0]), np.empty_like(c[0]), self.find_cuts(made)
        for t in range(len(dh) - 1, -1, -1):
            dc_after = dc.copy() if made.counts.size else dc
            dc += np.multiply(dh[t], h_to_c[t], before)
            through_c[t] *= dc[:, np.newaxis]
            do[t] *= dh[t]
            dc *= f[t]
            if made.counts.size:
                padding = made.counts[t] == 0
                d_gates[t, padding] = 0
                dc[padding] = dc_after[padding]
            if cuts.size:
                dc[cuts[t]] = 0
            self.hand_on(made, t, dh, np.dot(d_gates[t], self._recurrent.T, before), cuts)
        return d_gates, d_gates

    def compiled(self, made: Pass) -> bool:
        arrays = made.arrays
        bias = self.present(self._bias)
        return kernels.lstm(
            made.x, self._weight, self._recurrent, bias, made.counts, arrays["gates"], arrays["h"], arrays["c"]
        )
