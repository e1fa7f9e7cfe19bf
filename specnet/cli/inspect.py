"""inspect, diff, trace, report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.documents import is_hdf5, spec_of
from specnet.cli.options import Json, column_names
from specnet.cli.output import metrics_text, note, print_json, print_table, report_errors
from specnet.errors import SpecnetError, printable
from specnet.files.paths import is_same_file, user_path

if TYPE_CHECKING:
    from specnet.inspection import ArrayStatistics, CheckpointReport, Comparison


def inspect(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="A form that stays the same, for git diff.")] = False,
) -> None:
    """Show what is in a checkpoint: its run, every parameter and gradient in numbers, and what looks wrong.

    Example: specnet inspect runs/digits/best.h5
    """
    from specnet.cli.progress import counting
    from specnet.inspection import inspect as look
    from specnet.training.runs.run_folder import checkpoint_of

    with counting("looking") as progress:
        found = look(str(checkpoint_of(path)), progress)
    if json:
        print_json(asdict(found) | {"origin": found.origin._asdict()})
    elif text:
        _say(*_stable_lines(found))
    else:
        _show_checkpoint(found)


def _say(*lines: str) -> None:
    """Print lines that hold what a file says, without its control characters."""
    for line in lines:
        typer.echo(printable(line))


def _show_checkpoint(found: CheckpointReport) -> None:
    written = f"written {found.origin.created} by specnet {found.origin.specnet_version}"
    _say(f'"{found.name}", {found.parameter_count:,} parameters of {found.dtype}, identity {found.identity[:12]}')
    typer.echo(f"{found.size:,} bytes, {written}")
    if found.step is not None:
        typer.echo(" · ".join(filter(None, [f"step {found.step:,}, epoch {found.epoch}", metrics_text(found.metrics)])))
    typer.echo("")
    columns = ["Parameter", "Shape", "Norm", "Mean", "Std", "Least", "Greatest", "Zeros", "Gradient", "Step / values"]
    table = [
        [
            *_cells(p.name, p.values),
            "" if p.gradient is None else f"{p.gradient.norm:.4g} ± {p.gradient.std:.2g}",
            "" if p.update is None else f"{p.update:.2g}",
        ]
        for p in found.parameters
    ]
    table += [[*_cells(name, buffer), "", ""] for name, buffer in found.buffers.items()]
    print_table(columns, table, numbers=range(2, 10))
    for warning in found.warnings:
        note(f"warning: {warning}")


def _cells(name: str, found: ArrayStatistics) -> list[str]:
    numbers = (found.norm, found.mean, found.std, found.low, found.high)
    return [name, _shape(found.shape), *(f"{number:.4g}" for number in numbers), f"{found.zeros:.1%}"]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _stable_lines(found: CheckpointReport) -> list[str]:
    """Write what git shows as a difference: nothing of the file itself, as its name and date, numbers to 6 digits."""
    lines = [f"model {found.name}", f"identity {found.identity}", f"dtype {found.dtype}"]
    if found.step is not None:
        lines += [f"step {found.step}", f"epoch {found.epoch}"]
    lines += [f"metric {name} {value:.6g}" for name, value in found.metrics.items()]
    arrays = [(f"parameter {p.name}", p.values) for p in found.parameters]
    arrays += [(f"gradient {p.name}", p.gradient) for p in found.parameters if p.gradient is not None]
    arrays += [(f"buffer {name}", buffer) for name, buffer in found.buffers.items()]
    for name, a in arrays:
        numbers = " ".join(f"{key} {getattr(a, key):.6g}" for key in ("norm", "mean", "std", "low", "high", "zeros"))
        lines.append(f"{name} {a.shape} {numbers}" + (f" not_finite {a.not_finite}" if a.not_finite else ""))
    return [*lines, *(f"warning {warning}" for warning in found.warnings)]


def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="A document or a checkpoint.")],
    new: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Relative change up to which arrays count as the same.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Show how two models differ: layers, then arrays, then the runs. Exits with 1 where they do, 2 on trouble.

    Example: specnet diff runs/digits/best.h5 runs/digits/last.h5
    """
    from specnet.checkpoint import load
    from specnet.inspection import compare
    from specnet.model import Model
    from specnet.training.runs.run_folder import checkpoint_of

    try:
        files = [str(checkpoint_of(path)) for path in (old, new)]
        sides = [load(path, mmap=True) if is_hdf5(path) else spec_of(path) for path in files]
        found = compare(sides[0], sides[1], tolerance)
    except SpecnetError as error:
        report_errors(error)
        raise typer.Exit(2) from None
    if json:
        print_json({"equal": found.equal, **asdict(found)})
    else:
        _show_comparison(found, both=all(isinstance(side, Model) for side in sides))
    if not found.equal:
        raise typer.Exit(1)


def _show_comparison(found: Comparison, *, both: bool) -> None:
    _say(*found.structure)
    if found.arrays:
        table = [
            [c.name, _shape(c.shape), f"{c.differing:,}", f"{c.largest:.3g}", f"{c.relative:.2e}"] for c in found.arrays
        ]
        print_table(["Array", "Shape", "Differing", "Largest", "Relative"], table, numbers=[2, 3, 4])
    _say(*found.training)
    if not both:
        note("documents compared; arrays only between two checkpoints")
    elif found.arrays or found.structure or found.training:
        note(f"{len(found.arrays)} of {found.compared} arrays differ")


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="CKPT|DIR...", help="Checkpoints, or folders of runs or sweeps.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The page, an .html file.")] = "report.html",
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="A file of labelled rows: confusion matrix, worst rows.")
    ] = None,
    inputs: Annotated[str | None, typer.Option("--inputs", help="Array or columns of the inputs.")] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help='Array or column of the classes (default "y").')
    ] = None,
) -> None:
    """Write a page on one run or several: network, curves, histograms, gradients, confusion, document, provenance.

    Example: specnet report runs/digits --data digits.npz --out report.html
    """
    from specnet.files.atomic import write_file
    from specnet.inspection import read_run
    from specnet.inspection import report as write
    from specnet.training.sweep import runs_of

    for source in [*runs, *([data] if data else [])]:
        if is_same_file(out, source):
            msg = f"{out}: would be written over; choose another file for the page"
            raise SpecnetError(msg)
    if Path(out).suffix.lower() not in (".html", ".htm"):
        msg = f"{out}: expected a file name that ends in .html"
        raise SpecnetError(msg)
    if data is None and (inputs is not None or targets is not None):
        msg = "--inputs and --targets are for --data"
        raise typer.BadParameter(msg)
    columns = column_names(inputs)
    found = []
    for run in [str(path) for given in runs for path in runs_of(user_path(given))]:
        if sys.stderr.isatty():
            note(f"{run} …")
        found.append(read_run(run, data, columns, targets))
        if data is not None and found[-1].classified is None:
            note(f"{data}: left out, as {run} tells no classes")
    page = write(found).encode()
    write_file(user_path(out), page, SpecnetError)
    note(f"{out}: {len(page):,} bytes; open it in a browser")
