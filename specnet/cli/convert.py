"""The commands import and export."""

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
        typer.Option("--model", "-m", metavar="DOC", help="The model document, if the file contains only weights."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", help="Map a layer name of the file to one of the document; repeatable."
        ),
    ] = None,
) -> None:
    """Convert a model file of another program to a checkpoint. No pickle is opened, and no code in a file is run.

    Example: specnet import network.keras --out network.h5
    """
    from specnet.checkpoint import save
    from specnet.interop.importing import import_model

    if is_same_file(out, path) or (model is not None and is_same_file(out, model)):
        msg = f"{out}: would be overwritten; choose another file for the checkpoint"
        raise SpecnetError(msg)
    names = dict(_parse_mapping(mapping) for mapping in map_ or ())
    if len(set(names.values())) != len(names):
        msg = "two layers of the file are mapped to one layer of the document"
        raise typer.BadParameter(msg, param_hint="--map")
    imported = import_model(path, None if model is None else spec_of(model), names)
    save(out, imported.model)
    note(f"{out}: {imported.model.parameter_count:,} parameters in {len(imported.model.spec.layers)} layers")
    for text in imported.notes:
        note(f"  {text}")
    if imported.optimizer is not None:
        reason = "a checkpoint stores it only with an experiment; in Python, import_model returns it"
        note(f"  the optimizer's state is not saved: {reason}")


def _parse_mapping(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.rpartition("=")
    if not (theirs and equals and ours):
        msg = f"expected THEIRS=OURS, for example encoder.fc1=hidden, got {text!r}"
        raise typer.BadParameter(msg, param_hint="--map")
    return theirs, ours


def export(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The file to write: .onnx, .keras, .safetensors, .npz, or .h5 (Keras).")
    ],
    to: Annotated[
        Literal["onnx", "keras", "safetensors", "npz"] | None,
        typer.Option("--to", help="The format, if the suffix of the file does not imply it."),
    ] = None,
) -> None:
    """Convert a checkpoint for other programs. The file is read back and must give the same predictions.

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
    exported = write(out, load(path), to)
    kind, difference = exported.kind, exported.difference
    note(f"{out}: {exported.size:,} bytes of {kind}; read back, its predictions differ by at most {difference:.2g}")
