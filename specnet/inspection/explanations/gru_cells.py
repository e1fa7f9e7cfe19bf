"""One step of both forms of the gated recurrent unit."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import numpy as np

from specnet.inspection.explanations.cells import Cell, Term, Values, sigmoid, write_sum
from specnet.inspection.explanations.formulas import Equations, text_of
from specnet.inspection.trace import AnyArray


class GruCell(Cell):
    """y = (1 - z) * n + z * h, where r multiplies the state after its product with the weights (`reset_after`)."""

    gates = ("r", "z", "n")
    output = "(1 - z) * n + z * h[0]"

    def definition(self) -> Iterator[str]:
        yield "At each step, with h = 0 before the first:"
        yield f"r, z = sigmoid of {self.sum_text()}, each with its columns"
        bias = " + bias" if "bias" in self.parameters else ""
        yield f"n = tanh(x[n, t] @ weight{bias} + {self._within_n()}) with the last columns"
        yield "h = (1 - z) * n + z * h"

    def _within_n(self) -> str:
        bias = " + recurrent_bias" if "recurrent_bias" in self.parameters else ""
        return f"r * (h @ recurrent_weight{bias})"

    def values(self, x: AnyArray, before: Mapping[str, AnyArray]) -> Values:
        h = before["h"]
        r, z = (sigmoid(self.sums(x, h, gate)) for gate in "rz")
        part, within_n = self._part(h, r)
        n = np.tanh(self.sums(x, np.zeros_like(h), "n") + within_n)
        return {"r": r, "z": z, "part": part, "n": n, "h_new": (1 - z) * n + z * h}

    def _part(self, h: AnyArray, r: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Return what a pass keeps of h for n, and the term of h within n."""
        part = h @ self._weights_of_n() + self.parameters.get("recurrent_bias", 0)
        return part, r * part

    def _weights_of_n(self) -> AnyArray:
        return self.parameters["recurrent_weight"][:, self.columns("n")]

    def forward(self, equations: Equations, x: Term, values: Values) -> Iterator[str]:
        for gate in "rz":
            yield from self.gate(equations, gate, "sigmoid({})", x, values)
        column = self.columns("n").start
        own = [self.product(equations, x, "weight", column), *self.bias(equations, "bias", column)]
        term = yield from self._write_part(equations, column, values)
        yield from write_sum(equations, "n", "tanh({})", [*own, term], values["n"][0])

    def _write_part(self, equations: Equations, column: int, values: Values) -> Generator[str, None, Term]:
        """Yield the equation of the part of h, and return the term within n."""
        product = self.product(equations, Term("h", values["h"]), "recurrent_weight", column)
        terms = [product, *self.bias(equations, "recurrent_bias", 0)]
        part = values["part"][0]
        yield from write_sum(equations, "part", "{}", terms, part)
        return Term("r * part", values["r"][0] * part)

    def gradients(self, values: Values, dh: AnyArray) -> Values:
        r, z, n, h = (values[name] for name in "rznh")
        dn = dh * (1 - z) * (1 - n * n)
        dr = dn * values["part"] * r * (1 - r)
        return {"dh": dh, "dn": dn, "dz": dh * (h - n) * z * (1 - z), "dr": dr}

    def backward(self, equations: Equations, values: Values, gradients: Values) -> Iterator[str]:
        yield from equations.write("dn", "dh * (1 - z) * (1 - n * n)", gradients["dn"][0])
        yield from equations.write("dz", "dh * (h[0] - n) * z * (1 - z)", gradients["dz"][0])
        yield from equations.write("dr", "dn * part * r * (1 - r)", gradients["dr"][0])

    def passed_on(self, equations: Equations, gradients: Values, sums: AnyArray, values: Values) -> Iterator[str]:
        products = np.concatenate([gradients["dr"], gradients["dz"], gradients["dn"] * values["r"]])
        weights = self.parameters["recurrent_weight"][0]
        equations.know("recurrent_weight[0]", weights)
        yield f"d_products = {text_of(products)}, d_sums with dn * r in place of dn"
        equations.know("d_products", products)
        before = products @ weights + (gradients["dh"] * values["z"])[0]
        yield from equations.write("dh[0] before", "d_products @ recurrent_weight[0] + dh * z", before)


class OriginalGruCell(GruCell):
    """The form in which r multiplies the state before its product with the weights."""

    def _within_n(self) -> str:
        return "(r * h) @ recurrent_weight"

    def _part(self, h: AnyArray, r: AnyArray) -> tuple[AnyArray, AnyArray]:
        part = r * h
        return part, part @ self._weights_of_n()

    def _write_part(self, equations: Equations, column: int, values: Values) -> Generator[str, None, Term]:
        yield f"part = {text_of(values['part'])}, r * h of all units"
        equations.know("part", values["part"])
        return self.product(equations, Term("part", values["part"]), "recurrent_weight", column)

    def gradients(self, values: Values, dh: AnyArray) -> Values:
        gradients = super().gradients(values, dh)
        r = values["r"]
        d_part = gradients["dn"] @ self._weights_of_n().T
        return {**gradients, "d_part": d_part, "dr": d_part * values["h"] * r * (1 - r)}

    def backward(self, equations: Equations, values: Values, gradients: Values) -> Iterator[str]:
        yield from equations.write("dn", "dh * (1 - z) * (1 - n * n)", gradients["dn"][0])
        yield from equations.write("dz", "dh * (h[0] - n) * z * (1 - z)", gradients["dz"][0])
        yield f"dns = {text_of(gradients['dn'])}, dn of all units"
        equations.know("dns", gradients["dn"])
        row = f"recurrent_weight[0, {2 * self.units}:]"
        equations.know(row, self._weights_of_n()[0])
        yield from equations.write("d_part", f"dns @ {row}", gradients["d_part"][0])
        yield from equations.write("dr", "d_part * h[0] * r * (1 - r)", gradients["dr"][0])

    def passed_on(self, equations: Equations, gradients: Values, sums: AnyArray, values: Values) -> Iterator[str]:
        width = 2 * self.units
        row = self.parameters["recurrent_weight"][0, :width]
        equations.know(f"recurrent_weight[0, :{width}]", row)
        before = sums[:width] @ row + (gradients["d_part"] * values["r"] + gradients["dh"] * values["z"])[0]
        formula = f"d_sums[:{width}] @ recurrent_weight[0, :{width}] + d_part * r + dh * z"
        yield from equations.write("dh[0] before", formula, before)
