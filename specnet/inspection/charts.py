"""Charts as SVG, drawn by matplotlib. In a page, colours are CSS variables, so they follow the light or dark theme."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError, printable
from specnet.inspection.statistics import Histogram

INK, MUTED, SURFACE = "#1f2937", "#5b6472", "#f1f3f6"
SERIES = ("#185fbd", "#c2410c", "#15803d", "#7e22ce", "#be185d", "#0f766e", "#92700c", "#475569")
_NAMES = {INK: "ink", MUTED: "muted", SURFACE: "surface", **{color: f"series-{i}" for i, color in enumerate(SERIES)}}
HOT, COLD = (234, 88, 12), (47, 125, 224)
"""Colours of positive and negative numbers, which stand out from a light and from a dark page."""
HEAT_LEVELS = 17
MOST_PIXELS = 96
"""The longest side of an embedded image."""
_DASHES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of this size in inches, and its axes. Raises SpecnetError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "drawing needs matplotlib, which is not installed; pip install 'specnet-nn[report]'"
        raise SpecnetError(msg) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, labelsize=8)
    return figure, axes


def svg_of(figure: Any, label: str = "", *, standalone: bool = False) -> str:
    """Return a figure as SVG; unless `standalone`, without XML header, with CSS colours, and `label` as aria-label."""
    import matplotlib as mpl  # noqa: PLC0415 - an optional dependency

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "specnet", "font.family": "sans-serif"}):
        face = "white" if standalone else "none"
        figure.savefig(buffer, format="svg", facecolor=face, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    if standalone:
        return text
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, name in _NAMES.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{_escape_attribute(label)}" ', 1)


def with_ids(svg: str, prefix: str) -> str:
    """Prefix the ids of an SVG and the references to them, because ids must be unique within a page."""
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _escape_attribute(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _escape_text(text: str) -> str:
    return _escape_attribute(text).replace(">", "&gt;")


LARGEST = 1e100
"""Larger values are not drawn."""


class Line(NamedTuple):
    """A line of a chart: its points, its index into SERIES and its index into _DASHES."""

    x: Sequence[float]
    y: Sequence[float]
    color: int
    dashes: int


def _drawable(values: Sequence[float]) -> list[float]:
    """Return values that matplotlib can place: it overflows near the limits of float64, so these become gaps or 0."""
    return [np.nan if abs(value) > LARGEST else value if abs(value) > 1 / LARGEST else 0.0 for value in values]


def curves(title: str, lines: Mapping[str, Line]) -> str:
    """Draw named lines over epochs as SVG, with a logarithmic y axis if the values span a factor above 30."""
    figure, axes = new_figure(5.6, 3.0)
    for name, (x, y, color, dashes) in lines.items():
        marker = "o" if len(x) == 1 else None
        width = 1.6 if color < len(SERIES) else 3.2
        style = {"color": SERIES[color % len(SERIES)], "linestyle": _DASHES[dashes], "marker": marker}
        axes.plot(x, _drawable(y), linewidth=width, label=_legend_text(name), **style)
    finite = [v for line in lines.values() for v in _drawable(line.y) if np.isfinite(v)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set_yscale("log")
    axes.set_xlabel("epoch", color=MUTED, fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, color=SURFACE, linewidth=1)
    axes.set_axisbelow(True)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    ends = ", ".join(f"{name} ends at {line.y[-1]:.4g}" for name, line in lines.items())
    return svg_of(figure, f"{title} by epoch: {ends}")


def flow(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Draw array sizes over depth as SVG, on a logarithmic scale; a size of 0 leaves a gap."""
    figure, axes = new_figure(5.6, 3.0)
    for index, (name, values) in enumerate(series.items()):
        shown = [value if value > 0 else np.nan for value in _drawable(values)]
        style = {"color": SERIES[index], "linestyle": _DASHES[index]}
        axes.plot(range(len(names)), shown, marker="o" if len(names) < 60 else None, markersize=4, label=name, **style)
    axes.set_yscale("log")
    if len(names) <= 12:
        axes.set_xticks(range(len(names)), [_matplotlib_text(name) for name in names], rotation=30, ha="right")
    else:
        axes.set_xlabel("weight, counted from the input", color=MUTED, fontsize=8)
    axes.grid(visible=True, color=SURFACE, linewidth=1)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    ends = "; ".join(f"{name} {values[0]:.2g} to {values[-1]:.2g}" for name, values in series.items() if values)
    return svg_of(figure, f"Sizes over depth, first to last weight: {ends}")


def confusion(counts: npt.NDArray[np.int64], labels: Sequence[str], unit: str = "rows") -> str:
    """Draw a confusion matrix of rows, or of what `unit` says, as SVG: true classes down, predicted classes across."""
    size = min(7.0, 1.6 + 0.42 * len(labels))
    figure, axes = new_figure(size, size)
    from matplotlib.colors import LinearSegmentedColormap, to_rgba  # noqa: PLC0415 - an optional dependency

    shades = LinearSegmentedColormap.from_list("shades", [to_rgba(SERIES[0], 0.03), to_rgba(SERIES[0], 1)])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    if len(labels) <= 25:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=color)
        ticks = [_matplotlib_text(label if len(label) <= 12 else f"{label[:11]}…") for label in labels]
        axes.set_xticks(range(len(labels)), ticks, rotation=0 if max(map(len, ticks)) < 3 else 40, ha="center")
        axes.set_yticks(range(len(labels)), ticks)
    axes.set_xlabel("predicted", color=MUTED, fontsize=9)
    axes.set_ylabel("true", color=MUTED, fontsize=9)
    correct, rows = int(np.trace(counts)), int(counts.sum())
    return svg_of(figure, f"Confusion matrix of {len(labels)} classes: {correct} of {rows} {unit} are correct")


def bars(values: Histogram, label: str) -> str:
    """Draw a histogram as SVG, small enough for a table cell."""
    top = max(values.counts) or 1
    path, height = "M0 24", 24
    for count in values.counts:
        level = 24 - (max(1, round(23 * count / top)) if count else 0)
        path += (f"v{level - height}" if level != height else "") + "h3"
        height = level
    text = _escape_attribute(f"Histogram of {label}, from {values.low:.3g} to {values.high:.3g}")
    width = 3 * len(values.counts)
    return f'<svg class="bars" role="img" aria-label="{text}" viewBox="0 0 {width} 24"><path d="{path}V24z"/></svg>'


def picture(values: npt.NDArray[Any], label: str) -> str:
    """Draw a small matrix as an SVG greyscale image, dark for high values, or light on a dark page."""
    grey = scaled(values)
    height, width = values.shape
    cells = "".join(
        f'<path d="M{x} {y}h1v1h-1z" opacity="{grey[y, x]:.2f}"/>' for y, x in np.argwhere(grey > 0.02).tolist()
    )
    head = f'<svg class="sample" role="img" aria-label="{_escape_attribute(label)}" viewBox="0 0 {width} {height}"'
    return f'{head} shape-rendering="crispEdges">{cells}</svg>'


def photo(shares: npt.NDArray[Any], label: str = "") -> str:
    """Draw an image of numbers from 0, dark, to 1 as an embedded PNG: (height, width), or (height, width, 3) in RGB."""
    levels = np.rint(255 * thinned(shares)).astype(np.uint8)
    colors = levels if levels.ndim == 3 else np.repeat(levels[..., np.newaxis], 3, axis=2)
    return _embedded(np.dstack([colors, np.full(levels.shape[:2], 255, np.uint8)]), label)


def heat(values: npt.NDArray[Any], largest: float, label: str = "") -> str:
    """Draw a matrix as an embedded PNG: transparent for 0, orange for positive and blue for negative values.

    The colours are opaque at `largest`, so that they fade into a light and into a dark page. Without a label, the image
    is part of a group that has one.
    """
    shown = _finite(thinned(values))
    strength = np.clip(np.abs(shown) / largest, 0, 1) if largest > 0 else np.zeros(shown.shape)
    pixels = np.empty((*shown.shape, 4), np.uint8)
    pixels[..., :3] = np.where(shown[..., np.newaxis] < 0, COLD, HOT)
    pixels[..., 3] = np.rint(strength * HEAT_LEVELS) * (255 // HEAT_LEVELS)
    return _embedded(pixels, label)


def _embedded(pixels: npt.NDArray[np.uint8], label: str) -> str:
    """Return pixels, (height, width, 4), as an HTML image."""
    from matplotlib.image import imsave  # noqa: PLC0415 - an optional dependency

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", metadata={"Software": "specnet"})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="pixels" alt="{_escape_attribute(label)}" src="data:image/png;base64,{data}">'


def labelled_heat(values: npt.NDArray[Any], largest: float, labels: Sequence[str], label: str) -> str:
    """Draw a square matrix of numbers from 0 as SVG, the labels at the left and at the top; opaque at `largest`."""
    size = len(labels)
    longest = max(map(len, labels))
    margin = 0.6 + 0.5 * longest
    place, anchor = ("{0} -.3", "middle") if longest <= 2 else ("{1} -.3)rotate(-90", "start")
    levels = np.rint(np.clip(_finite(values) / (largest or 1), 0, 1) * HEAT_LEVELS).astype(int)
    cells = "".join(
        f'<path opacity="{level / HEAT_LEVELS:.2f}" d="'
        + "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(levels == level).tolist())
        + '"/>'
        for level in np.unique(levels[levels > 0]).tolist()
    )
    texts = [_escape_text(each) for each in labels]
    left = "".join(f'<text x="-.3" y="{y + 0.8}">{text}</text>' for y, text in enumerate(texts))
    top = "".join(
        f'<text transform="translate({place.format(x + 0.5, x + 0.8)})" style="text-anchor:{anchor}">{text}</text>'
        for x, text in enumerate(texts)
    )
    box = f"{-margin:g} {-margin:g} {size + margin + 0.1:g} {size + margin + 0.1:g}"
    head = f'<svg class="heat" role="img" aria-label="{_escape_attribute(label)}" viewBox="{box}">'
    return f'{head}<rect width="{size}" height="{size}"/>{cells}{left}{top}</svg>'


def thinned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every n-th pixel of an image that is too large to be embedded whole."""
    step = thinning(max(values.shape[:2]))
    return values[::step, ::step]


def thinning(side: int) -> int:
    """Return n, if every n-th pixel of an image with this longest side is embedded."""
    return -(-side // MOST_PIXELS)


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return values as float64, with 0 for those that are not finite."""
    return np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0)


def scaled(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return values between 0, for the lowest, and 1, for the highest."""
    finite = _finite(values)
    finite /= max(float(np.abs(finite).max(initial=0)), np.finfo(np.float64).tiny)  # a difference might overflow
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    return (finite - low) / (high - low) if high > low else np.zeros_like(finite)


def _matplotlib_text(text: str) -> str:
    """Escape dollar signs, which matplotlib reads as mathematics, and control characters."""
    return printable(text).replace("$", r"\$")


def _legend_text(text: str) -> str:
    """Escape a text for a legend, and hide a leading _, since matplotlib omits those entries."""
    return f"\u200b{_matplotlib_text(text)}" if text.startswith("_") else _matplotlib_text(text)
