"""Recurrent layers: one step of one sequence with its numbers, for one unit, and how the gradient goes back through it.

It is the last step that the layer takes, so that no gradient reaches it from later ones. What the steps before it leave
is computed here again, in float64, as a trace has inputs and outputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from specnet.inspection.explanations.cells import Cell, LstmCell, SimpleRnnCell, Term
from specnet.inspection.explanations.formulas import Equations, array_lines, text_of
from specnet.inspection.explanations.gru_cells import GruCell, OriginalGruCell
from specnet.inspection.trace import AnyArray, LayerTrace


class _Step(NamedTuple):
    """The step `t`, the `order`-th that counts, of sequence `n`, and the names of its parts with their numbers."""

    n: int
    t: int
    order: int
    cell: Cell
    inputs: AnyArray
    values: dict[str, AnyArray]
    """By name: the states before the step, the gates, and the states after it; of all units."""

    @property
    def x(self) -> str:
        """The text of the step's input."""
        return f"x[{self.n}, {self.t}]"


def recurrent_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield the definition of a step, the numbers of the last one for the first unit, and y."""
    yield from _cell(layer).definition()
    yield from array_lines("x", layer.x)
    step = _last_step(layer)
    if step is not None:
        yield ""
        yield f"{_title(layer, step)}, unit 0; from the step before it has"
        yield from (f"{name} = {text_of(step.values[name])}" for name in step.cell.states)
        equations = _equations(step)
        yield from step.cell.forward(equations, Term(step.x, step.inputs), step.values)
        target, value = _output(layer, "y", layer.y, step)
        yield from equations.write(target, step.cell.output, value)
        yield ""
    yield from array_lines("y", layer.y)


def recurrent_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield the gradients of the parts of the last step, what it passes on, and the gradients of all steps."""
    assert layer.dy is not None
    assert layer.dx is not None
    yield from array_lines("dy", layer.dy)
    step = _last_step(layer)
    if step is not None:
        cell, equations = step.cell, _equations(step)
        yield ""
        joined = ", ".join(f"d{gate}" for gate in cell.gates)
        of_sums = f"dh is the gradient of h, {joined} of the {'sum' if len(cell.gates) == 1 else 'sums in the gates'}"
        yield f"{_title(layer, step)}, unit 0, backward; {of_sums}:"
        name, _ = _output(layer, "dy", layer.dy, step)
        dh = _gradient_of_state(layer, step)
        for each in step.values:
            equations.know(each, step.values[each][0])
        yield from equations.write("dh", name if _reaches_alone(layer, step) else f"{name} and those of padding", dh[0])
        gradients = cell.gradients(step.values, dh)
        yield from cell.backward(equations, step.values, gradients)
        sums = np.concatenate([gradients[f"d{gate}"] for gate in cell.gates])
        yield f"d_sums = {text_of(sums)}, {joined} of all units"
        equations.know("d_sums", sums)
        equations.know("weight[0]", cell.parameters["weight"][0])
        yield from equations.write(f"dx[{step.n}, {step.t}, 0]", "d_sums @ weight[0]", layer.dx[step.n, step.t, 0])
        equations.know(f"{step.x[:-1]}, 0]", step.inputs[0])
        share = step.inputs[0] * gradients[f"d{cell.gates[0]}"][0]
        yield from equations.write("its share of dweight[0, 0]", f"{step.x[:-1]}, 0] * d{cell.gates[0]}", share)
        yield from _passed_on(layer, step, equations, gradients, sums)
        yield ""
    for name, gradient in layer.gradients.items():
        yield from array_lines(f"d{name}", gradient)
    yield from array_lines("dx", layer.dx)


def _passed_on(
    layer: LayerTrace, step: _Step, equations: Equations, gradients: dict[str, AnyArray], sums: AnyArray
) -> Iterator[str]:
    """Yield what the step passes to the one before it."""
    truncate = layer.fields["truncate"]
    if step.order == 0:
        yield "It is the first step: nothing is before it."
        return
    place = layer.x.shape[1] - 1 - step.t if layer.fields["reverse"] else step.t
    if truncate is not None and place % truncate == 0:
        yield f"No gradient goes to the step before, as truncate is {truncate}."
        return
    yield "To the step before it goes:"
    yield from step.cell.passed_on(equations, gradients, sums, step.values)


def _cell(layer: LayerTrace) -> Cell:
    if layer.type == "gru":
        return (GruCell if layer.fields["reset_after"] else OriginalGruCell)(layer)
    return (LstmCell if layer.type == "lstm" else SimpleRnnCell)(layer)


def _last_step(layer: LayerTrace) -> _Step | None:
    """Return the last step that counts of the first sequence with one; None if no step counts."""
    mask = np.ones(layer.x.shape[:2], np.bool_) if layer.mask is None else layer.mask
    if not mask.any():
        return None
    n = int(mask.any(axis=1).argmax())
    order = np.flatnonzero(mask[n])[:: -1 if layer.fields["reverse"] else 1].tolist()
    cell = _cell(layer)
    sequence = layer.x[n].astype(np.float64)
    before = {name: np.zeros(cell.units) for name in cell.states}
    for t in order[:-1]:
        after = cell.values(sequence[t], before)
        before = {name: after[cell.states[name]] for name in cell.states}
    t = order[-1]
    return _Step(n, t, len(order) - 1, cell, sequence[t], before | cell.values(sequence[t], before))


def _title(layer: LayerTrace, step: _Step) -> str:
    which = "the last" if layer.mask is None else "the last that counts"
    reverse = ", as the layer goes backwards" if layer.fields["reverse"] else ""
    return f"Sequence {step.n}, step {step.t} ({which}{reverse})"


def _equations(step: _Step) -> Equations:
    """Return equations in which the states before the step have values, of all units and of unit 0."""
    states = {name: step.values[name] for name in step.cell.states}
    equations = Equations({**states, **{f"{name}[0]": values[0] for name, values in states.items()}})
    equations.know(step.x, step.inputs)
    return equations


def _output(layer: LayerTrace, name: str, array: AnyArray, step: _Step) -> tuple[str, float]:
    """Return the text and the number of the output of the step, or of its gradient, for unit 0."""
    place = (step.n, step.t, 0) if layer.fields["return_sequences"] else (step.n, 0)
    return f"{name}[{', '.join(map(str, place))}]", float(array[place])


def _later(layer: LayerTrace, step: _Step) -> AnyArray:
    """Return the gradients of the outputs at the padding behind the step, whose state is that of the step."""
    assert layer.dy is not None
    if not layer.fields["return_sequences"]:
        return np.zeros((0, step.cell.units))
    dy = layer.dy[step.n].astype(np.float64)
    return dy[: step.t] if layer.fields["reverse"] else dy[step.t + 1 :]


def _reaches_alone(layer: LayerTrace, step: _Step) -> bool:
    return not _later(layer, step).any()


def _gradient_of_state(layer: LayerTrace, step: _Step) -> AnyArray:
    assert layer.dy is not None
    place = (step.n, step.t) if layer.fields["return_sequences"] else (step.n,)
    return layer.dy[place].astype(np.float64) + _later(layer, step).sum(axis=0)
