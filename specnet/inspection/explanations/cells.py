"""One step of each recurrent layer: its formulas, and what they compute for all units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from specnet.inspection.explanations.formulas import Equations
from specnet.inspection.explanations.grids import added, number
from specnet.inspection.trace import AnyArray, LayerTrace

Values = dict[str, AnyArray]
"""Numbers of all units, by name."""


class Term(NamedTuple):
    """A term of a sum, or a vector: its text and its value."""

    text: str
    value: Any


class Cell(ABC):
    """One step: `values` computes what the formulas of `forward` say, and `gradients` what those of `backward` say."""

    gates: ClassVar[tuple[str, ...]]
    """The names of the sums, in the order of their columns."""
    states: ClassVar[Mapping[str, str]] = {"h": "h_new"}
    """What a step takes from the one before, and the name of what it leaves."""
    output: str
    """The formula of the output."""

    def __init__(self, layer: LayerTrace) -> None:
        self.parameters = {name: array.astype(np.float64) for name, array in layer.parameters.items()}
        self.units = len(self.parameters["recurrent_weight"])

    @abstractmethod
    def definition(self) -> Iterator[str]:
        """Yield what a step computes."""

    @abstractmethod
    def values(self, x: AnyArray, before: Mapping[str, AnyArray]) -> Values:
        """Return the gates and the new states."""

    @abstractmethod
    def forward(self, equations: Equations, x: Term, values: Values) -> Iterator[str]:
        """Yield the equations of unit 0, but for the output."""

    @abstractmethod
    def gradients(self, values: Values, dh: AnyArray) -> Values:
        """Return the gradients of the sums, as "di" and so on, and of what is between them and h."""

    @abstractmethod
    def backward(self, equations: Equations, values: Values, gradients: Values) -> Iterator[str]:
        """Yield the equations of these gradients for unit 0."""

    def passed_on(self, equations: Equations, gradients: Values, sums: AnyArray, values: Values) -> Iterator[str]:
        """Yield the gradients of the states before the step; `sums` has those of the gates of all units."""
        weights = self.parameters["recurrent_weight"][0]
        equations.know("recurrent_weight[0]", weights)
        yield from equations.write("dh[0] before", "d_sums @ recurrent_weight[0]", sums @ weights)

    def sum_text(self) -> str:
        """Return the sum within a gate as text."""
        return "x[n, t] @ weight + h @ recurrent_weight" + (" + bias" if "bias" in self.parameters else "")

    def columns(self, gate: str) -> slice:
        """Return the columns of a gate."""
        first = self.gates.index(gate) * self.units
        return slice(first, first + self.units)

    def sums(self, x: AnyArray, h: AnyArray, gate: str) -> AnyArray:
        """Return x @ weight + h @ recurrent_weight + bias, in the columns of a gate."""
        columns = self.columns(gate)
        bias = self.parameters["bias"][columns] if "bias" in self.parameters else 0
        return x @ self.parameters["weight"][:, columns] + h @ self.parameters["recurrent_weight"][:, columns] + bias

    def product(self, equations: Equations, vector: Term, weight: str, column: int) -> Term:
        """Return the product of a vector with a column of a weight."""
        name, weights = f"{weight}[:, {column}]", self.parameters[weight][:, column]
        equations.know(name, weights)
        return Term(f"{vector.text} @ {name}", vector.value @ weights)

    def bias(self, equations: Equations, name: str, column: int) -> list[Term]:
        """Return an element of a bias as the only term, or no term without this bias."""
        if name not in self.parameters:
            return []
        term = Term(f"{name}[{column}]", self.parameters[name][column])
        equations.know(*term)
        return [term]

    def gate(self, equations: Equations, gate: str, function: str, x: Term, values: Values) -> Iterator[str]:
        """Yield the equation of a gate of unit 0: the products of x and of h and the bias, within a function."""
        column = self.columns(gate).start
        products = [
            self.product(equations, x, "weight", column),
            self.product(equations, Term("h", values["h"]), "recurrent_weight", column),
        ]
        terms = [*products, *self.bias(equations, "bias", column)]
        yield from write_sum(equations, gate, function, terms, values[gate][0])


class LstmCell(Cell):
    """c_new = f * c + i * g, y = o * tanh(c_new)."""

    gates = ("i", "f", "g", "o")
    states: ClassVar[Mapping[str, str]] = {"h": "h_new", "c": "c_new"}
    output = "o * tanh(c_new)"

    def definition(self) -> Iterator[str]:
        yield "At each step, with h = c = 0 before the first:"
        yield f"i, f, o = sigmoid and g = tanh of {self.sum_text()}, each with its columns"
        yield "c = f * c + i * g"
        yield "h = o * tanh(c)"

    def values(self, x: AnyArray, before: Mapping[str, AnyArray]) -> Values:
        sums = {gate: self.sums(x, before["h"], gate) for gate in self.gates}
        gates = {gate: np.tanh(value) if gate == "g" else sigmoid(value) for gate, value in sums.items()}
        c_new = gates["f"] * before["c"] + gates["i"] * gates["g"]
        return {**gates, "c_new": c_new, "h_new": gates["o"] * np.tanh(c_new)}

    def forward(self, equations: Equations, x: Term, values: Values) -> Iterator[str]:
        for gate in self.gates:
            yield from self.gate(equations, gate, "tanh({})" if gate == "g" else "sigmoid({})", x, values)
        yield from equations.write("c_new", "f * c[0] + i * g", values["c_new"][0])

    def gradients(self, values: Values, dh: AnyArray) -> Values:
        i, f, g, o = (values[gate] for gate in self.gates)
        tanh_c = np.tanh(values["c_new"])
        dc = dh * o * (1 - tanh_c * tanh_c)
        sums = {"di": dc * g * i * (1 - i), "df": dc * values["c"] * f * (1 - f), "dg": dc * i * (1 - g * g)}
        return {"dc": dc, **sums, "do": dh * tanh_c * o * (1 - o)}

    def backward(self, equations: Equations, values: Values, gradients: Values) -> Iterator[str]:
        formulas = {
            "dc": "dh * o * (1 - tanh(c_new) * tanh(c_new))",
            "di": "dc * g * i * (1 - i)",
            "df": "dc * c[0] * f * (1 - f)",
            "dg": "dc * i * (1 - g * g)",
            "do": "dh * tanh(c_new) * o * (1 - o)",
        }
        for name, formula in formulas.items():
            yield from equations.write(name, formula, gradients[name][0])

    def passed_on(self, equations: Equations, gradients: Values, sums: AnyArray, values: Values) -> Iterator[str]:
        yield from super().passed_on(equations, gradients, sums, values)
        yield from equations.write("dc[0] before", "dc * f", (gradients["dc"] * values["f"])[0])


class SimpleRnnCell(Cell):
    """y = tanh(s), or max(s, 0), of the sum s."""

    gates = ("s",)

    def __init__(self, layer: LayerTrace) -> None:
        super().__init__(layer)
        self.is_tanh = layer.fields["activation"] == "tanh"
        self.output = "tanh(s)" if self.is_tanh else "maximum(s, 0)"

    def definition(self) -> Iterator[str]:
        yield "At each step, with h = 0 before the first:"
        yield f"h = {self.output} of s = {self.sum_text()}"

    def values(self, x: AnyArray, before: Mapping[str, AnyArray]) -> Values:
        s = self.sums(x, before["h"], "s")
        return {"s": s, "h_new": np.tanh(s) if self.is_tanh else np.maximum(s, 0)}

    def forward(self, equations: Equations, x: Term, values: Values) -> Iterator[str]:
        yield from self.gate(equations, "s", "{}", x, values)

    def gradients(self, values: Values, dh: AnyArray) -> Values:
        h_new = values["h_new"]
        return {"ds": dh * (1 - h_new * h_new) if self.is_tanh else dh * (values["s"] > 0)}

    def backward(self, equations: Equations, values: Values, gradients: Values) -> Iterator[str]:
        formula = "dh * (1 - tanh(s) * tanh(s))" if self.is_tanh else "dh * (s > 0)"
        yield from equations.write("ds", formula, gradients["ds"][0])


def write_sum(equations: Equations, target: str, function: str, terms: Sequence[Term], value: float) -> Iterator[str]:
    """Yield the equation of a function, such as sigmoid({}), of a sum, with the value of each term in between."""
    formula = function.format(" + ".join(term.text for term in terms))
    between = function.format(added([number(float(term.value)) for term in terms]))
    yield from equations.write(target, formula, value, between)


def sigmoid(x: AnyArray) -> AnyArray:
    """Return 1 / (1 + exp(-x))."""
    return (np.tanh(x / 2) + 1) / 2
