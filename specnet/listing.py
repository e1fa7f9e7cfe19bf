"""The layers of a document as rows, for `summary`, notebooks and pictures."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from specnet.layer import batch_of, size_of
from specnet.parameters import ShapeTuple

if TYPE_CHECKING:
    from specnet.spec import ModelSpec


class Row(NamedTuple):
    """A layer: its full name, type, shape of outputs, number of parameters; a composite's are those of its layers."""

    name: str
    type: str
    output_shape: ShapeTuple
    parameters: int
    is_composite: bool

    @property
    def depth(self) -> int:
        """How many composites it is in."""
        return self.name.count(".")


def rows(spec: ModelSpec) -> list[Row]:
    """List the layers, those in composites behind them."""
    return [
        Row(name, layer.type, plan.output_shape, sum(map(size_of, plan.parameters.values())), bool(plan.layers))
        for name, layer, plan in spec.walk()
    ]


def html_table(spec: ModelSpec) -> str:
    """Write a document as an HTML table, for notebooks."""
    lines = [
        f"<tr><td>{'&emsp;' * row.depth}{escape(row.name)}</td><td>{escape(row.type)}</td>"
        f'<td>{batch_of(row.output_shape)}</td><td style="text-align:right">{row.parameters:,}</td></tr>'
        for row in rows(spec)
    ]
    head = "<tr><th>Layer</th><th>Type</th><th>Output</th><th>Parameters</th></tr>"
    about = f"<b>{escape(spec.name)}</b>, {spec.parameter_count:,} parameters, {spec.dtype}"
    first = f"<tr><td>(input)</td><td></td><td>{batch_of(spec.input_shape)}</td><td></td></tr>"
    return f"<div>{about}<table><thead>{head}</thead><tbody>{first}{''.join(lines)}</tbody></table></div>"
