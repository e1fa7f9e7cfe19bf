"""Gated recurrent unit (Cho et al. 2014), in both of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.arrays.sums import sum_rows
from specnet.errors import SpecnetError
from specnet.layers.sequence.base import Pass, sigmoid
from specnet.layers.sequence.recurrent import Recurrent


class Gru(Recurrent):
    """h = (1 - z) * n + z * h, with r, z = sigmoid and n = tanh of x @ weight + h @ recurrent_weight + bias.

    Within n, the part of h is r * (h @ recurrent_weight + recurrent_bias) with `reset_after`, the form of cuDNN and
    torch, and (r * h) @ recurrent_weight without, the original form. weight: (features, 3 * units), recurrent_weight:
    (units, 3 * units), bias: (3 * units,) or None; their columns are those of r, z, n. recurrent_bias: (units,).
    """

    gates = 3
    options = (*Recurrent.options, "reset_after")
    records: ClassVar[Mapping[str, int]] = {"gates": 3, "part_of_h": 1}
    """`part_of_h` is h @ recurrent_weight + recurrent_bias for n, before r multiplies it; without reset_after r * h."""

    recurrent_bias = ParameterView()
    recurrent_bias_grad = GradientView("recurrent_bias")

    def __init__(
        self,
        weight: npt.ArrayLike,
        recurrent_weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        recurrent_bias: npt.ArrayLike | None = None,
        *,
        reset_after: bool = True,
        return_sequences: bool = False,
        reverse: bool = False,
        truncate: int | None = None,
    ) -> None:
        super().__init__(
            weight, recurrent_weight, bias, return_sequences=return_sequences, reverse=reverse, truncate=truncate
        )
        self.reset_after = reset_after
        self._recurrent_bias: Array | None = None
        if recurrent_bias is not None and not reset_after:
            msg = f"{self.name}: has a recurrent_bias only with reset_after"
            raise SpecnetError(msg)
        if recurrent_bias is not None:
            self._recurrent_bias = self.parameters["recurrent_bias"] = self.floats(recurrent_bias, self._weight.dtype)
            self._check_shape("recurrent_bias", (self.units,))

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        shapes, output_shape = super().infer(fields, input_shape)
        if fields["bias"] and fields["reset_after"]:
            shapes["recurrent_bias"] = (fields["units"],)
        return shapes, output_shape

    def step(self, arrays: Mapping[str, Array], t: int) -> None:
        h, gates, part, products = arrays["h"], arrays["gates"][t], arrays["part_of_h"][t], arrays["products"]
        width = 2 * self.units
        r, z, n = self.split(gates)
        if self.reset_after:
            np.dot(h[t], self._recurrent, products)
            np.add(products[:, width:], 0 if self._recurrent_bias is None else self._recurrent_bias, part)
            gates[:, :width] += products[:, :width]
            sigmoid(gates[:, :width])
            n += np.multiply(r, part, products[:, width:])
        else:
            gates[:, :width] += h[t] @ self._recurrent[:, :width]
            sigmoid(gates[:, :width])
            n += np.multiply(r, h[t], part) @ self._recurrent[:, width:]
        np.tanh(n, n)
        np.subtract(h[t], n, h[t + 1])
        h[t + 1] *= z
        h[t + 1] += n

    def walk_back(self, made: Pass, dh: Array) -> tuple[Array, Array]:
        h, gates, part = made.arrays["h"], made.arrays["gates"], made.arrays["part_of_h"]
        d_gates = self.keep("d_gates", gates.shape, gates.dtype)
        if not self.reset_after:
            self._walk_back_original(made, dh, d_gates)
            return d_gates, d_gates
        d_products = self.keep("d_products", gates.shape, gates.dtype)
        if kernels.gru_backward(
            dh, made.counts, gates, part, h, self._recurrent, d_gates, d_products, self.truncate or 0
        ):
            return d_gates, d_products
        r, z, n = self.split(gates)
        to_n = (1 - z) * (1 - n * n)  # ∂h/∂(the sum in n)
        dr, dz, dn = self.split(d_products)  # at first ∂h/∂(each product) of all steps
        np.multiply(to_n * part, r * (1 - r), dr)
        np.multiply(h[:-1] - n, z * (1 - z), dz)
        np.multiply(to_n, r, dn)
        by_gate, before = d_products.reshape(*dh.shape[:2], 3, self.units), np.empty_like(h[0])
        cuts = self.find_cuts(made)
        for t in range(len(dh) - 1, -1, -1):
            by_gate[t] *= dh[t, :, np.newaxis]
            if made.counts.size:
                d_products[t, made.counts[t] == 0] = 0
            np.dot(d_products[t], self._recurrent.T, before)
            before += dh[t] * z[t]
            self.hand_on(made, t, dh, before, cuts)
        d_gates[...] = d_products
        np.multiply(dh, to_n, d_gates[..., 2 * self.units :])
        if made.counts.size:
            d_gates[made.counts == 0] = 0
        return d_gates, d_products

    def _walk_back_original(self, made: Pass, dh: Array, d_gates: Array) -> None:
        h, gates = made.arrays["h"], made.arrays["gates"]
        width, cuts = 2 * self.units, self.find_cuts(made)
        for t in range(len(dh) - 1, -1, -1):
            r, z, n = self.split(gates[t])
            dr, dz, dn = self.split(d_gates[t])
            np.multiply(dh[t] * (1 - z), 1 - n * n, dn)
            np.multiply(dh[t] * (h[t] - n), z * (1 - z), dz)
            d_part = dn @ self._recurrent[:, width:].T
            np.multiply(d_part * h[t], r * (1 - r), dr)
            if made.counts.size:
                d_gates[t, made.counts[t] == 0] = 0
            before = d_gates[t, :, :width] @ self._recurrent[:, :width].T + d_part * r + dh[t] * z
            self.hand_on(made, t, dh, before, cuts)

    def fill_recurrent_gradient(self, made: Pass, d_recurrent: Array) -> None:
        width = 2 * self.units
        if self.reset_after:
            super().fill_recurrent_gradient(made, d_recurrent)
            if self._recurrent_bias is not None:
                sum_rows(np.ascontiguousarray(d_recurrent[:, width:]), self.gradient("recurrent_bias"))
            return
        gradient = self.gradient("recurrent_weight")
        before, part = (array.reshape(-1, self.units) for array in (made.arrays["h"][:-1], made.arrays["part_of_h"]))
        gradient[:, :width] = before.T @ d_recurrent[:, :width]
        gradient[:, width:] = part.T @ d_recurrent[:, width:]

    def compiled(self, made: Pass) -> bool:
        if not self.reset_after:
            return False
        arrays = made.arrays
        bias = self.present(self._bias)
        recurrent_bias = self.present(self._recurrent_bias)
        return kernels.gru(
            made.x,
            self._weight,
            self._recurrent,
            bias,
            recurrent_bias,
            made.counts,
            arrays["gates"],
            arrays["part_of_h"],
            arrays["h"],
        )
