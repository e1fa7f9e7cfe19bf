"""import, export."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from specnet.cli.documents import is_hdf5, spec_of
from specnet.cli.output import note
from specnet.errors import SpecnetError
from specnet.files.paths import is_same_file


def import_(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .keras, .h5, .onnx, .safetensors, .npz or .caffemodel.h5 file, or a rewritten checkpoint.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The checkpoint to write.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="DOC", help="The document, where the file holds weights alone."),
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="THEIRS=OURS", help="Which of its layers is which; repeatable.")
    ] = None,
) -> None:
    """Read a file of another program, and write it as a checkpoint. No pickle is opened, no code of a file is run.

    Example: specnet import network.keras --out network.h5
    """
    from specnet.checkpoint import save
    from specnet.interop.importing import import_model

    if is_same_file(out, path) or (model is not None and is_same_file(out, model)):
        msg = f"{out}: would be written over; choose another file for the checkpoint"
        raise SpecnetError(msg)
    names = dict(_pair(text) for text in map_ or ())
    if len(set(names.values())) != len(names):
        msg = "two of the file's layers are mapped to one"
        raise typer.BadParameter(msg, param_hint="--map")
    found = import_model(path, None if model is None else spec_of(model), names)
    save(out, found.model)
    note(f"{out}: {found.model.parameter_count:,} parameters in {len(found.model.spec.layers)} layers")
    for told in found.notes:
        note(f"  {told}")
    if found.optimizer is not None:
        note("  the optimizer's state is not in it: a checkpoint keeps one with its experiment; in Python it is there")


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.rpartition("=")
    if not (theirs and equals and ours):
        msg = f"expected THEIRS=OURS, as encoder.fc1=hidden, got {text!r}"
        raise typer.BadParameter(msg, param_hint="--map")
    return theirs, ours


def export(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The file to write: .onnx, .keras, .safetensors, .npz; .h5 is Keras's.")
    ],
    to: Annotated[
        Literal["onnx", "keras", "safetensors", "npz"] | None,
        typer.Option("--to", help="The kind, if the name does not say."),
    ] = None,
) -> None:
    """Write a model for other programs. What was written is read back, and has to predict the same.

    Example: specnet export runs/digits/best.h5 --to onnx --out digits.onnx
    """
    from specnet.checkpoint import load
    from specnet.interop.exporting import export as write

    if not is_hdf5(path):
        msg = f"{path}: expected a checkpoint; a document has no weights to export"
        raise SpecnetError(msg)
    if is_same_file(out, path):
        msg = f"{out}: is the checkpoint itself; choose another file"
        raise SpecnetError(msg)
    found = write(out, load(path), to)
    note(f"{out}: {found.size:,} bytes of {found.kind}; read back, it predicts the same to {found.difference:.2g}")
