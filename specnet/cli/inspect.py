"""The commands inspect, diff and report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.documents import is_hdf5, spec_of
from specnet.cli.options import Json, column_names
from specnet.cli.output import metrics_text, note, print_json, print_table, report_errors, say
from specnet.errors import SpecnetError
from specnet.files.paths import is_same_file, user_path

if TYPE_CHECKING:
    from specnet.inspection import ArrayStatistics, CheckpointReport, Comparison


def inspect(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="Reproducible text for git diff.")] = False,
) -> None:
    """Show the contents of a checkpoint: its run, statistics of every parameter and gradient, and warnings.

    Example: specnet inspect runs/digits/best.h5
    """
    from specnet.cli.progress import counting
    from specnet.inspection import inspect as inspect_checkpoint
    from specnet.training.runs.run_folder import checkpoint_of

    with counting("inspecting") as progress:
        report = inspect_checkpoint(str(checkpoint_of(path)), progress)
    if json:
        print_json(asdict(report) | {"origin": report.origin._asdict()})
    elif text:
        say(*_stable_lines(report))
    else:
        _show_checkpoint(report)


def _show_checkpoint(report: CheckpointReport) -> None:
    written = f"written {report.origin.created} by specnet {report.origin.specnet_version}"
    count = f"{report.parameter_count:,} parameters of {report.dtype}"
    say(f'"{report.name}", {count}, identity {report.identity[:12]}')
    say(f"{report.size:,} bytes, {written}")
    if report.step is not None:
        progress = f"step {report.step:,}, epoch {report.epoch}"
        say(" · ".join(filter(None, [progress, metrics_text(report.metrics)])))
    say("")
    columns = ["Parameter", "Shape", "Norm", "Mean", "Std", "Min", "Max", "Zeros", "Gradient", "Step / values"]
    table = [
        [
            *_cells(p.name, p.values),
            "" if p.gradient is None else f"{p.gradient.norm:.4g} ± {p.gradient.std:.2g}",
            "" if p.update is None else f"{p.update:.2g}",
        ]
        for p in report.parameters
    ]
    table += [[*_cells(name, buffer), "", ""] for name, buffer in report.buffers.items()]
    print_table(columns, table, numbers=range(2, 10))
    for warning in report.warnings:
        note(f"warning: {warning}")


def _cells(name: str, statistics: ArrayStatistics) -> list[str]:
    numbers = (statistics.norm, statistics.mean, statistics.std, statistics.low, statistics.high)
    return [name, _shape(statistics.shape), *(f"{number:.4g}" for number in numbers), f"{statistics.zeros:.1%}"]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _stable_lines(report: CheckpointReport) -> list[str]:
    """Return lines for git diff: numbers with 6 digits, and nothing that depends on the file, as its name or date."""
    lines = [f"model {report.name}", f"identity {report.identity}", f"dtype {report.dtype}"]
    if report.step is not None:
        lines += [f"step {report.step}", f"epoch {report.epoch}"]
    lines += [f"metric {name} {value:.6g}" for name, value in report.metrics.items()]
    arrays = [(f"parameter {p.name}", p.values) for p in report.parameters]
    arrays += [(f"gradient {p.name}", p.gradient) for p in report.parameters if p.gradient is not None]
    arrays += [(f"buffer {name}", buffer) for name, buffer in report.buffers.items()]
    for name, a in arrays:
        numbers = " ".join(f"{key} {getattr(a, key):.6g}" for key in ("norm", "mean", "std", "low", "high", "zeros"))
        lines.append(f"{name} {a.shape} {numbers}" + (f" not_finite {a.not_finite}" if a.not_finite else ""))
    return [*lines, *(f"warning {warning}" for warning in report.warnings)]


def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="A document or a checkpoint.")],
    new: Annotated[str, typer.Argument(metavar="B", help="Another document or checkpoint.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest relative change of arrays that count as equal.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Compare two models: layers, arrays and runs. Exit codes: 0 equal, 1 different, 2 error.

    Example: specnet diff runs/digits/best.h5 runs/digits/last.h5
    """
    from specnet.checkpoint import load
    from specnet.inspection import compare
    from specnet.model import Model
    from specnet.training.runs.run_folder import checkpoint_of

    try:
        files = [str(checkpoint_of(path)) for path in (old, new)]
        sides = [load(path, mmap=True) if is_hdf5(path) else spec_of(path) for path in files]
        comparison = compare(sides[0], sides[1], tolerance)
    except SpecnetError as error:
        report_errors(error)
        raise typer.Exit(2) from None
    if json:
        print_json({"equal": comparison.equal, **asdict(comparison)})
    else:
        _show_comparison(comparison, both=all(isinstance(side, Model) for side in sides))
    if not comparison.equal:
        raise typer.Exit(1)


def _show_comparison(comparison: Comparison, *, both: bool) -> None:
    say(*comparison.structure)
    if comparison.arrays:
        table = [
            [c.name, _shape(c.shape), f"{c.differing:,}", f"{c.largest:.3g}", f"{c.relative:.2e}"]
            for c in comparison.arrays
        ]
        print_table(["Array", "Shape", "Differing", "Largest", "Relative"], table, numbers=[2, 3, 4])
    say(*comparison.training)
    if not both:
        note("compared only the documents; comparing arrays needs two checkpoints")
    elif comparison.arrays or comparison.structure or comparison.training:
        note(f"{len(comparison.arrays)} of {comparison.compared} arrays differ")


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="CKPT|DIR...", help="Checkpoints, or folders of runs or sweeps.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The HTML file to write.")] = "report.html",
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="A file of labelled rows: adds confusion matrix and worst rows.")
    ] = None,
    inputs: Annotated[str | None, typer.Option("--inputs", help="Array or columns of the inputs.")] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help='Array or column of the classes (default "y").')
    ] = None,
) -> None:
    """Write an HTML page on runs: network, curves, histograms, gradients, confusion matrix, document, provenance.

    Of a classifier of images, it shows the filters of the first convolution and, with --data, feature maps and saliency
    maps of the worst rows.

    Example: specnet report runs/digits --data digits.npz --out report.html
    """
    from specnet.files.atomic import write_file
    from specnet.inspection import read_run
    from specnet.inspection import report as render
    from specnet.training.sweep import runs_of

    for source in [*runs, *([data] if data else [])]:
        if is_same_file(out, source):
            msg = f"{out}: would be overwritten; choose another file for the page"
            raise SpecnetError(msg)
    if Path(out).suffix.lower() not in (".html", ".htm"):
        msg = f"{out}: expected a file name that ends in .html"
        raise SpecnetError(msg)
    if data is None and (inputs is not None or targets is not None):
        msg = "--inputs and --targets need --data"
        raise typer.BadParameter(msg)
    columns = column_names(inputs)
    run_reports = []
    for run in [str(path) for argument in runs for path in runs_of(user_path(argument))]:
        if sys.stderr.isatty():
            note(f"{run} …")
        run_reports.append(read_run(run, data, columns, targets))
        if data is not None and run_reports[-1].classified is None:
            use = "ignored" if run_reports[-1].attention is None else "used for attention maps alone"
            note(f"{data}: {use} for {run}, because the report evaluates only classifiers")
    page = render(run_reports).encode()
    write_file(user_path(out), page, SpecnetError)
    note(f"{out}: {len(page):,} bytes; open it in a browser")
