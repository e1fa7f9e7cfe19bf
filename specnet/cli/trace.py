"""The command trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from specnet.cli.documents import is_hdf5, spec_of
from specnet.cli.options import column_names
from specnet.cli.output import note, say
from specnet.errors import DataError, SpecnetError
from specnet.files.paths import is_same_file

if TYPE_CHECKING:
    from specnet.inspection import Trace
    from specnet.model import Model
    from specnet.training.losses import Loss


def trace(
    path: Annotated[
        str, typer.Argument(metavar="DOC|CKPT", help="A document (its weights are initialized), or a checkpoint.")
    ],
    input_: Annotated[
        str, typer.Option("--input", "-i", metavar="JSON|FILE", help="Input rows as JSON, '[[1, 2]]', or a data file.")
    ],
    dy: Annotated[
        str | None, typer.Option("--dy", metavar="JSON", help="Upstream gradient as JSON; runs a backward pass.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="JSON", help="Targets as JSON, '[3]'; computes loss and gradients."),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="The loss, if the file contains no run.")] = None,
    inputs: Annotated[str | None, typer.Option("--inputs", help="Array or columns of the data file, a,b,c.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Number of rows to read from the data file.")] = 8,
    save: Annotated[
        str | None, typer.Option("--save", metavar="FILE", help="Write every array to an HDF5 file.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print formulas with the numbers of this input.")] = False,
    as_: Annotated[
        Literal["text", "markdown"] | None, typer.Option("--as", help="Format of --explain. [default: text]")
    ] = None,
) -> None:
    """Run a forward pass, and a backward pass if --target or --dy is given; print every array.

    Example: specnet trace two_layer.model.json --input '[[1, 2]]' --dy '[[1, 1]]' --explain
    """
    from specnet.checkpoint import load
    from specnet.inspection import explain as explained
    from specnet.inspection import save_trace
    from specnet.inspection import trace as run_trace
    from specnet.model import build
    from specnet.prediction.predict import file_rows
    from specnet.training.runs.run_folder import checkpoint_of

    if target is not None and dy is not None:
        msg = "--target and --dy both set the upstream gradient; choose one"
        raise typer.BadParameter(msg)
    _require_option("--loss", loss, "--target", target)
    _require_option("--as", as_, "--explain", explain or None)
    if save is not None and any(is_same_file(save, source) for source in (path, input_)):
        msg = f"{save}: would be overwritten; save the trace to another file"
        raise DataError(msg)
    path = str(checkpoint_of(path))
    model = load(path) if is_hdf5(path) else build(spec_of(path))
    is_json = input_.lstrip().startswith("[")
    x = _json_array("--input", input_) if is_json else file_rows(model, input_, column_names(inputs)).part(0, rows)
    loss_function = _loss_of(model, path, loss) if target is not None else None
    targets, upstream = (
        None if text is None else _json_array(name, text) for name, text in (("--target", target), ("--dy", dy))
    )
    _reject_overflow(model, "--input", x)
    traced = run_trace(model, x, dy=upstream, targets=targets, loss=loss_function)
    if save is not None:
        save_trace(save, traced)
    text = explained(traced, markdown=as_ == "markdown") if explain else _plain_text(traced)
    say(*text.removesuffix("\n").split("\n"))
    for warning in traced.warnings:
        note(f"warning: {warning}")
    if save is not None:
        note(f"{save}: the arrays of {len(traced.layers)} layers")


def _require_option(option: str, value: object, needed: str, needed_value: object) -> None:
    """Reject an option that has no effect without another one."""
    if value is not None and needed_value is None:
        msg = f"{option} needs {needed}"
        raise typer.BadParameter(msg)


def _json_array(option: str, text: str) -> Any:
    from specnet.document.json_text import parse_json

    parsed = parse_json(text, option)
    if parsed.findings:
        raise parsed.error()
    if not isinstance(parsed.value, list):
        msg = f"{option}: expected a JSON array, got {text!r:.40}"
        raise DataError(msg)
    return parsed.value


def _reject_overflow(model: Model, option: str, values: Any) -> None:
    """Reject numbers that overflow the model's dtype."""
    import numpy as np

    if model.dtype == np.float32:
        try:
            largest = float(np.abs(np.asarray(values, np.float64)).max(initial=0))
        except (ValueError, TypeError):  # the model reports this error, with the expected shape
            return
        if largest > float(np.finfo(np.float32).max):
            msg = f"{option}: expected numbers within the range of float32, got one of size {largest:g}"
            raise DataError(msg)


def _loss_of(model: Model, path: str, name: str | None) -> Loss:
    from pydantic import TypeAdapter, ValidationError

    from specnet.inspection.inspect import experiment_of
    from specnet.training.losses.spec import LOSSES, LossChoice

    experiment = experiment_of(model)
    if name is None and experiment is not None:
        return experiment.training.loss.build()
    if name is None:
        msg = f"{path}: contains no run, so the loss is unknown; choose one with --loss: {', '.join(LOSSES)}"
        raise SpecnetError(msg)
    try:
        built: Loss = TypeAdapter(LossChoice).validate_python(name).build()
    except ValidationError:
        msg = f"--loss: unknown loss {name!r:.40}; expected one of {', '.join(LOSSES)}"
        raise SpecnetError(msg) from None
    last = model.spec.layers[-1]
    if last.type in built.doubled_by:
        msg = f"--loss: {built.name} takes logits, but the model ends in {last.name} ({last.type}); choose another loss"
        raise SpecnetError(msg)
    return built


def _plain_text(traced: Trace) -> str:
    """Return a trace as text, with arrays as numpy prints them: large ones with their corners only."""
    import numpy as np

    lines: list[str] = []

    def show(name: str, array: Any) -> None:
        text = np.array2string(array, threshold=100, precision=6)
        head = f"  {name} {array.shape}" if array.size > 100 else f"  {name}"
        first, *rest = text.splitlines()
        lines.extend([f"{head} = {first}", *(" " * (len(head) + 3) + line for line in rest)])

    for layer in traced.layers:
        lines.append(f"forward  {layer.name} ({layer.type})")
        show("x", layer.x)
        if layer.mask is not None:
            show("mask", layer.mask)
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
