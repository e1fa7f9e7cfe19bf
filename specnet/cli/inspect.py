"""inspect, diff, trace, report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from specnet.checkpoint import load
from specnet.cli.documents import Json, is_hdf5, spec_of
from specnet.cli.output import metrics_text, note, print_json, print_table, report_errors
from specnet.cli.progress import counting
from specnet.data.raw import Columns
from specnet.document.json_text import parse_json
from specnet.errors import DataError, SpecnetError, printable
from specnet.files.atomic import write_file
from specnet.files.paths import is_same_file, user_path
from specnet.model import Model, build
from specnet.prediction.predict import file_rows
from specnet.training.runs.run_folder import checkpoint_of

if TYPE_CHECKING:
    from specnet.inspection import ArrayStatistics, CheckpointReport, Comparison, Trace
    from specnet.training.losses.base import Loss

# specnet.inspection is imported by the command that needs it.


def inspect(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="A form that stays the same, for git diff.")] = False,
) -> None:
    """Show what is in a checkpoint: its run, every parameter and gradient in numbers, and what looks wrong.

    Example: specnet inspect runs/digits/best.h5
    """
    from specnet.inspection import inspect as look  # noqa: PLC0415

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
    from specnet.inspection import compare  # noqa: PLC0415

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


def trace(
    path: Annotated[
        str, typer.Argument(metavar="DOC|CKPT", help="A document, whose weights are drawn, or a checkpoint.")
    ],
    input_: Annotated[
        str, typer.Option("--input", "-i", metavar="JSON|FILE", help="Rows as JSON, '[[1, 2]]', or a data file.")
    ],
    dy: Annotated[
        str | None, typer.Option("--dy", metavar="JSON", help="Gradient of the outputs as JSON; runs a backward.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="JSON", help="Targets as JSON, '[3]'; runs loss and backward.")
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="The loss, where no run in the file tells it.")] = None,
    inputs: Annotated[str | None, typer.Option("--inputs", help="Array or columns of a data file, a,b,c.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows that are taken from a data file.")] = 8,
    save: Annotated[
        str | None, typer.Option("--save", metavar="FILE", help="Write every array to an HDF5 file.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Formulas, with these very numbers filled in.")] = False,
    as_: Annotated[
        Literal["text", "markdown"] | None, typer.Option("--as", help="Form of --explain; text by default.")
    ] = None,
) -> None:
    """Run one forward, and a backward where --target or --dy is given; print every array on the way.

    Example: specnet trace two_layer.model.json --input '[[1, 2]]' --dy '[[1, 1]]' --explain
    """
    from specnet.inspection import explain as explained  # noqa: PLC0415
    from specnet.inspection import save_trace  # noqa: PLC0415
    from specnet.inspection import trace as run  # noqa: PLC0415

    if target is not None and dy is not None:
        msg = "--target makes the gradient of the outputs, --dy gives it; choose one"
        raise typer.BadParameter(msg)
    _require("--loss", loss, "--target", target)
    _require("--as", as_, "--explain", explain or None)
    if save is not None and any(is_same_file(save, source) for source in (path, input_)):
        msg = f"{save}: would be written over; save the trace to another file"
        raise DataError(msg)
    path = str(checkpoint_of(path))
    model = load(path) if is_hdf5(path) else build(spec_of(path))
    is_json = input_.lstrip().startswith("[")
    x = _json_array("--input", input_) if is_json else file_rows(model, input_, _columns(inputs)).inputs[:rows]
    chosen = _loss_of(model, path, loss) if target is not None else None
    targets, given = (
        None if text is None else _json_array(name, text) for name, text in (("--target", target), ("--dy", dy))
    )
    _require_fitting(model, "--input", x)
    traced = run(model, x, dy=given, targets=targets, loss=chosen)
    if save is not None:
        save_trace(save, traced)
    typer.echo(explained(traced, markdown=as_ == "markdown") if explain else _plain_text(traced), nl=False)
    for warning in traced.warnings:
        note(f"warning: {warning}")
    if save is not None:
        note(f"{save}: the arrays of {len(traced.layers)} layers")


def _require(option: str, given: object, needed: str, there: object) -> None:
    """Refuse an option that says nothing without another one."""
    if given is not None and there is None:
        msg = f"{option} is for {needed}"
        raise typer.BadParameter(msg)


def _columns(names: str | None) -> Columns:
    return tuple(names.split(",")) if names is not None and "," in names else names


def _json_array(option: str, text: str) -> Any:
    found = parse_json(text, option)
    if found.findings:
        raise found.error()
    if not isinstance(found.value, list):
        msg = f"{option}: expected a JSON array, got {text!r:.40}"
        raise DataError(msg)
    return found.value


def _require_fitting(model: Model, option: str, values: Any) -> None:
    """Refuse numbers that the model's dtype cannot hold."""
    import numpy as np  # noqa: PLC0415 - needed here only

    if model.dtype == np.float32:
        try:
            most = float(np.abs(np.asarray(values, np.float64)).max(initial=0))
        except (ValueError, TypeError):  # told by the model, with the shape that it expects
            return
        if most > float(np.finfo(np.float32).max):
            msg = f"{option}: expected numbers that float32 holds, got one of size {most:g}"
            raise DataError(msg)


def _loss_of(model: Model, path: str, name: str | None) -> Loss:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    from specnet.inspection.inspect import experiment_of  # noqa: PLC0415
    from specnet.training.losses.spec import LOSSES, LossChoice  # noqa: PLC0415

    experiment = experiment_of(model)
    if name is None and experiment is not None:
        return experiment.training.loss.build()
    if name is None:
        msg = f"{path}: holds no run that tells the loss; name one: --loss {', '.join(LOSSES)}"
        raise SpecnetError(msg)
    try:
        built: Loss = TypeAdapter(LossChoice).validate_python(name).build()
    except ValidationError:
        msg = f"--loss: unknown loss {name!r:.40}; there are {', '.join(LOSSES)}"
        raise SpecnetError(msg) from None
    last = model.spec.layers[-1]
    if last.type in built.doubled_by:
        msg = f"{built.name} does what the last layer, {last.name}, does already; name another loss"
        raise SpecnetError(msg)
    return built


def _plain_text(traced: Trace) -> str:
    """Print arrays as numpy does, small ones whole, large ones with their corners."""
    import numpy as np  # noqa: PLC0415 - needed here only

    lines: list[str] = []

    def show(name: str, array: Any) -> None:
        text = np.array2string(array, threshold=100, precision=6)
        head = f"  {name} {array.shape}" if array.size > 100 else f"  {name}"
        first, *rest = text.splitlines()
        lines.extend([f"{head} = {first}", *(" " * (len(head) + 3) + line for line in rest)])

    for layer in traced.layers:
        lines.append(f"forward  {layer.name} ({layer.type})")
        show("x", layer.x)
        for name, array in layer.parameters.items():
            show(name, array)
        show("y", layer.y)
    if traced.loss is not None:
        lines.append(f"loss = {traced.loss:.8g}")
    for layer in reversed(traced.layers):
        if layer.dy is None:
            break
        lines.append(f"backward {layer.name} ({layer.type})")
        show("dy", layer.dy)
        for name, array in layer.gradients.items():
            show(f"d{name}", array)
        if layer.dx is not None:
            show("dx", layer.dx)
    return "\n".join(lines) + "\n"


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
    from specnet.inspection import read_run  # noqa: PLC0415
    from specnet.inspection import report as write  # noqa: PLC0415
    from specnet.training.sweep import runs_of  # noqa: PLC0415

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
    columns = _columns(inputs)
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
