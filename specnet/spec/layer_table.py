"""The layers of a document as table rows, for `specnet summary`, notebooks and diagrams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from specnet.arrays.conversion import batch_of, size_of
from specnet.arrays.parameters import ShapeTuple
from specnet.layerspec import LayerSpec
from specnet.plan import LayerPlan
from specnet.spec.composite_spec import CompositeSpec


class LayerRow(NamedTuple):
    """One layer; the parameters of a composite are those of the layers inside it."""

    name: str
    """Full name, "block.hidden"."""
    type: str
    output_shape: ShapeTuple
    """Shape of one output, without the batch axis."""
    parameters: int
    """Number of trained elements."""
    multiply_adds: int
    """Multiplications by a weight, each with its addition, for one input."""
    is_composite: bool

    @property
    def depth(self) -> int:
        """Number of composites that enclose the layer."""
        return self.name.count(".")


def layer_rows(layers: Iterable[tuple[str, LayerSpec, LayerPlan]]) -> list[LayerRow]:
    """Return one row for each layer that `ModelSpec.walk()` yields, in its order."""
    return [
        LayerRow(
            name,
            spec.type,
            plan.output_shape,
            sum(map(size_of, plan.parameters.values())),
            multiply_adds_of([spec], [plan]),
            bool(plan.layers),
        )
        for name, spec, plan in layers
    ]


def multiply_adds_of(specs: Iterable[LayerSpec], plans: Iterable[LayerPlan]) -> int:
    """Return the multiply-adds of consecutive layers for one input; those of a composite are its layers' together."""
    return sum(
        multiply_adds_of(spec.inside, plan.layers)
        if isinstance(spec, CompositeSpec)
        else spec.layer.multiply_adds(spec.fields(), plan.input_shape)
        for spec, plan in zip(specs, plans, strict=True)
    )


def html_table(name: str, about: str, input_shape: ShapeTuple, rows: Iterable[LayerRow]) -> str:
    """Return an HTML table of layers for notebooks; the heading is the model's name and a description of it."""
    from html import escape  # noqa: PLC0415 - only notebooks need it

    table_rows = [
        f"<tr><td>{'&emsp;' * row.depth}{escape(row.name)}</td><td>{escape(row.type)}</td>"
        f"<td>{batch_of(row.output_shape)}</td>"
        f'<td style="text-align:right">{row.parameters:,}</td>'
        f'<td style="text-align:right">{row.multiply_adds:,}</td></tr>'
        for row in rows
    ]
    head = "<tr><th>Layer</th><th>Type</th><th>Output</th><th>Parameters</th><th>Multiply-adds</th></tr>"
    input_row = f"<tr><td>(input)</td><td></td><td>{batch_of(input_shape)}</td><td></td><td></td></tr>"
    heading = f"<b>{escape(name)}</b>, {escape(about)}"
    return f"<div>{heading}<table><thead>{head}</thead><tbody>{input_row}{''.join(table_rows)}</tbody></table></div>"
