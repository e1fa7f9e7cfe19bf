"""Draw a network: as a Mermaid flowchart for READMEs, or as SVG or PNG with matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specnet.arrays.conversion import batch_of
from specnet.errors import SpecnetError
from specnet.files.atomic import write_file
from specnet.inspection.charts import INK, MUTED, SURFACE, new_figure, svg_of
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.layer_table import LayerRow, layer_rows
from specnet.spec.model_spec import ModelSpec

LONGEST = 20  # characters of a name or a shape in a box
MOST_BOXES = 40
"""A longer network is drawn with its first and last layers, and the number of layers between them."""


def mermaid(spec: ModelSpec) -> str:
    """Return a network as a Mermaid flowchart, which GitHub, GitLab and many editors render."""
    chart = _Flowchart({row.name: row for row in layer_rows(spec.walk())})
    start = chart.node(f"input<br/>{batch_of(spec.input_shape)}", "([{}])")
    chart.chain(spec.layers, start, "")
    return "\n".join(["flowchart TD", *chart.lines]) + "\n"


@dataclass
class _Flowchart:
    rows: dict[str, LayerRow]
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def node(self, text: str, form: str = "[{}]") -> str:
        name = f"n{self.count}"
        self.count += 1
        quoted = f'"{text}"'
        self.lines.append(f"    {name}{form.format(quoted)}")
        return name

    def edge(self, start: str, end: str) -> str:
        self.lines.append(f"    {start} --> {end}")
        return end

    def chain(self, layers: Sequence[Any], start: str, prefix: str) -> str:
        """Add a sequence of layers after the node `start`, and return the last node."""
        for layer in layers:
            name = f"{prefix}{layer.name}"
            if isinstance(layer, CompositeSpec):
                start = self.composite(layer, start, name)
            else:
                row = self.rows[name]
                start = self.edge(
                    start, self.node(f"{row.name}: {row.type}<br/>{batch_of(row.output_shape)}{_parameters(row)}")
                )
        return start

    def composite(self, layer: CompositeSpec, start: str, name: str) -> str:
        """Add the branches of a composite and the node that joins them, and return the last node."""
        branches = [layers for _, layers in layer.lists()]
        if len(branches) == 1:
            return self.chain(branches[0], start, f"{name}.")
        ends = [self.chain(branch, start, f"{name}.") for branch in branches]
        sign = "+" if layer.type == "residual" else layer.type
        join = self.node(f"{name}: {sign}<br/>{batch_of(self.rows[name].output_shape)}", "(({}))")
        for end in ends:
            self.edge(end, join)
        return join


def draw(spec: ModelSpec) -> Any:
    """Draw a network as a matplotlib figure. Raises SpecnetError without matplotlib."""
    boxes = list(_boxes(spec))
    figure, axes = new_figure(5.2, 0.52 * len(boxes) + 0.15)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 5.2)
    axes.set_ylim(-len(boxes), 0.15)
    for index, (depth, left, right) in enumerate(boxes):
        x, y = 0.1 + 0.25 * depth, -index - 0.75
        if left:
            style = {"facecolor": SURFACE, "edgecolor": MUTED, "linewidth": 0.8}
            axes.add_patch(_rounded((x, y), 5.0 - 0.25 * depth, 0.66, style))
            axes.text(x + 0.12, y + 0.33, left, va="center", fontsize=9, color=INK, parse_math=False)
        axes.text(4.98, y + 0.33, right, va="center", ha="right", fontsize=8, color=MUTED, parse_math=False)
        if index < len(boxes) - 1 and boxes[index + 1][0] == 0:  # layers in a composite are indented, no arrows
            axes.annotate(
                "", (2.6, y - 0.36), (2.6, y), arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.8}
            )
    return figure


def _rounded(corner: tuple[float, float], width: float, height: float, style: dict[str, Any]) -> Any:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415 - an optional dependency

    return FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.08", **style)


def _boxes(spec: ModelSpec) -> Iterator[tuple[int, str, str]]:
    yield 0, "input", batch_of(spec.input_shape)
    all_rows = layer_rows(spec.walk())
    half = MOST_BOXES // 2
    for index, row in enumerate(all_rows):
        if len(all_rows) > MOST_BOXES and half <= index < len(all_rows) - half:
            if index == half:
                yield 0, "", f"{len(all_rows) - 2 * half} more layers"
            continue
        name = _shorten(row.name.rpartition(".")[2])
        yield min(row.depth, 6), f"{name} ({row.type})", _shorten(batch_of(row.output_shape)) + _parameters(row)


def _parameters(row: LayerRow) -> str:
    return f", {row.parameters:,} parameters" if row.parameters else ""


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def save_diagram(spec: ModelSpec, path: str | os.PathLike[str]) -> None:
    """Write a diagram of a network to a .svg, .png or .mmd (Mermaid) file. Raises SpecnetError for other suffixes."""
    kind = Path(path).suffix.lower()
    if kind == ".mmd":
        data = mermaid(spec).encode()
    elif kind == ".svg":
        data = svg_of(draw(spec), standalone=True).encode()
    elif kind == ".png":
        buffer = io.BytesIO()
        draw(spec).savefig(buffer, format="png", dpi=160, facecolor="white")
        data = buffer.getvalue()
    else:
        msg = f"{os.fspath(path)}: expected a file name that ends in .svg, .png or .mmd"
        raise SpecnetError(msg)
    write_file(path, data, SpecnetError)
