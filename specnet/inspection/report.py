"""Report on one or several runs: a single HTML page that opens from disk and loads nothing from the network."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specnet.checkpoint import load
from specnet.data.raw import Columns
from specnet.errors import DataError, SpecnetError, printable
from specnet.files.paths import exists
from specnet.inspection import charts
from specnet.inspection.attention_maps import MOST_SEQUENCES, AttentionMaps, attention_maps
from specnet.inspection.classification import Classified, LabelledRows, classify_rows, read_labelled
from specnet.inspection.diagram import draw
from specnet.inspection.images import Gallery, attention_gallery, filter_gallery, map_gallery, sample_gallery
from specnet.inspection.inspect import CheckpointReport, history_of, look_into
from specnet.inspection.statistics import Histogram, histogram
from specnet.inspection.vision import first_filters
from specnet.model import Model
from specnet.spec.layer_table import layer_rows
from specnet.training.runs.run_folder import best_checkpoint_of, checkpoint_of
from specnet.training.spec.experiment_spec import ExperimentSpec


@dataclass(frozen=True)
class RunReport:
    """Everything that a page shows about one checkpoint."""

    title: str
    checkpoint: CheckpointReport
    model: Model
    experiment: ExperimentSpec | None
    history: dict[str, list[float]]
    histograms: dict[str, tuple[Histogram, Histogram | None]]
    classified: Classified | None
    attention: AttentionMaps | None = None


def read_run(
    path: str | os.PathLike[str], data: str | None = None, inputs: Columns = None, targets: Columns = None
) -> RunReport:
    """Inspect a checkpoint, or the best of a run's folder; `data` is a file of labelled rows to evaluate a classifier.

    The curves are those of the whole run. Raises CheckpointError, DataError.
    """
    file = best_checkpoint_of(path)
    model, checkpoint, experiment = look_into(file)
    histograms = {
        name: (histogram(value), histogram(model.gradients[name]) if model.has_gradients else None)
        for name, value in model.parameters.items()
    }
    try:
        labelled = None if data is None else read_labelled(model, data, inputs, targets, folder=file.parent)
        classified = None if labelled is None else classify_rows(model, labelled)
    except DataError as error:
        msg = f"{os.fspath(path)}: {error}"
        raise DataError(msg) from None
    attention = None if labelled is None else _attention(model, labelled, classified)
    title = model.plan.name if experiment is None else experiment.name
    last = checkpoint_of(path)
    history = history_of(load(last, mmap=True) if last != file and exists(last) else model)
    return RunReport(title, checkpoint, model, experiment, history, histograms, classified, attention)


def _attention(model: Model, labelled: LabelledRows, classified: Classified | None) -> AttentionMaps | None:
    """Return the attention maps of the worst misclassified rows, or of the first rows that count."""
    worst = [] if classified is None else [sample.row - 1 for sample in classified.worst]
    rows = list(dict.fromkeys([*worst, *labelled.chosen[:MOST_SEQUENCES].tolist()]))[:MOST_SEQUENCES]
    if not rows:
        return None
    x = np.concatenate([labelled.rows.part(row, row + 1) for row in rows])
    return attention_maps(model, x, [row + 1 for row in rows])


def report(runs: Sequence[RunReport]) -> str:
    """Return the page as HTML. Raises SpecnetError if jinja2 or matplotlib is not installed."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an optional dependency
        from markupsafe import Markup as safe  # noqa: N813, PLC0415 - marks text that is escaped already
    except ImportError as error:
        msg = "reports need jinja2, which is not installed; pip install 'specnet-nn[report]'"
        raise SpecnetError(msg) from error
    environment = Environment(
        loader=PackageLoader("specnet.inspection", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.finalize = lambda value: printable(value) if type(value) is str else value
    template = environment.get_template("report.html.jinja")
    names = [run.title if len(runs) == 1 else f"{index}. {run.title}" for index, run in enumerate(runs, 1)]
    numbers = itertools.count()

    def embed(svg: str) -> Any:
        return safe(charts.with_ids(svg, f"p{next(numbers)}"))  # noqa: S704 - matplotlib escapes text

    pictures = [_Pictures(run, embed, safe) for run in runs]
    named_runs = dict(zip(names, runs, strict=True)) if len(runs) > 1 else {}
    compared = [(title, embed(chart)) for title, chart in _curves(named_runs)]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    metrics = list(dict.fromkeys(name for run in runs for name in run.checkpoint.metrics if "." not in name))
    page: str = template.render(
        runs=list(zip(names, runs, pictures, strict=True)),
        compared=compared,
        metrics=metrics,
        css=safe(style),  # noqa: S704 - the style sheet contains no user data
    )
    return page


class _Pictures:
    """The charts, images and highlighted documents of a run, as escaped HTML."""

    def __init__(self, run: RunReport, embed: Callable[[str], Any], safe: Callable[[str], Any]) -> None:
        spec = run.model.spec
        layers = len(layer_rows(spec.walk()))
        label = f"The network {spec.name}: {layers} layers; the table of parameters lists their names and shapes"
        self.diagram = embed(charts.svg_of(draw(spec), label))
        self.curves = [(title, embed(chart)) for title, chart in _curves({run.title: run})]
        flow = _flow(run.checkpoint)
        self.flow = embed(flow) if flow else ""
        self.bars = {
            name: [
                safe(charts.bars(bins, f"{kind} of {name}"))
                for bins, kind in zip(pair, ("values", "gradients"), strict=True)
                if bins
            ]
            for name, pair in run.histograms.items()
        }

        def images(gallery: Gallery) -> Gallery:
            return gallery._replace(images=[safe(image) for image in gallery.images])

        classified = run.classified
        counts = None if classified is None else classified.counts
        unit = "" if classified is None else classified.unit
        labels = () if classified is None else classified.labels
        self.confusion = "" if counts is None else embed(charts.confusion(counts, labels, unit))
        self.samples = (
            []
            if classified is None
            else [
                (
                    images(sample_gallery(sample)),
                    images(map_gallery(sample, classified.map_layer, classified.map_count)),
                )
                for sample in classified.worst
            ]
        )
        filters = first_filters(run.model)
        self.filters = None if filters is None else images(filter_gallery(filters))
        self.attention = [
            gallery._replace(pictures=[(safe(picture), caption) for picture, caption in gallery.pictures])
            for gallery in map(attention_gallery, run.attention.sequences if run.attention else ())
        ]
        self.document = safe(_highlighted(spec.to_json()))
        experiment = run.experiment
        self.experiment = "" if experiment is None else safe(_highlighted(experiment.to_json(), without="model"))


def _curves(runs: dict[str, RunReport]) -> Iterator[tuple[str, str]]:
    """Draw a chart for each metric that changes. Runs differ in colour; training is solid, validation dashed."""
    metrics = dict.fromkeys(name.removeprefix("val_") for run in runs.values() for name in run.history)
    for metric in metrics:
        if metric == "epoch" or "." in metric:
            continue
        lines = {}
        for index, (title, run) in enumerate(runs.items()):
            for dashes, (prefix, kind) in enumerate((("", "training"), ("val_", "validation"))):
                values = run.history.get(prefix + metric)
                if values:
                    epochs = run.history.get("epoch") or range(1, len(values) + 1)
                    count = min(len(epochs), len(values))
                    name = kind if len(runs) == 1 else f"{title}, {kind}"
                    color = dashes if len(runs) == 1 else index
                    lines[name] = charts.Line(epochs[:count], values[:count], color, dashes)
        values = [value for line in lines.values() for value in line.y if math.isfinite(value)]
        if any(value != values[0] for value in values) or any(len(line.y) == 1 for line in lines.values()):
            chart_title = metric.replace("_", " ").capitalize()
            yield chart_title, charts.curves(chart_title, lines)


def _flow(checkpoint: CheckpointReport) -> str:
    weights = [p for p in checkpoint.parameters if len(p.values.shape) == 2]
    if len(weights) < 2:
        return ""
    series = {"values": [p.values.norm / math.sqrt(p.values.size) for p in weights]}
    if all(p.gradient is not None for p in weights):
        series["gradients"] = [p.gradient.norm / math.sqrt(p.gradient.size) for p in weights if p.gradient is not None]
    if all(p.update is not None for p in weights):
        series["next step / values"] = [p.update or 0.0 for p in weights]
    return charts.flow([p.name for p in weights], series)


def _highlighted(document: str, without: str | None = None) -> str:
    from pygments import highlight  # noqa: PLC0415 - an optional dependency
    from pygments.formatters import HtmlFormatter  # noqa: PLC0415
    from pygments.lexers import JsonLexer  # noqa: PLC0415

    if without is not None:
        value = {key: entry for key, entry in json.loads(document).items() if key != without}
        document = json.dumps(value, indent=2, ensure_ascii=False)
    # controls of the direction of text could show a document as another than it is
    document = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in document)
    text: str = highlight(document, JsonLexer(), HtmlFormatter(nowrap=True))
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
