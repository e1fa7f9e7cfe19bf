"""import, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from specnet.checkpoint import load, save
from specnet.cli.documents import is_hdf5, spec_of
from specnet.cli.output import note
from specnet.errors import SpecnetError
from specnet.model import Model
from specnet.paths import is_same_file


def import_(
    path: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A .safetensors or .npz file, or a rewritten checkpoint."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The checkpoint to write.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="DOC", help="The document, where the file holds none.")
    ] = None,
) -> None:
    """Read a file of another program, and write it as a checkpoint.

    Example: specnet import network.safetensors --model network.model.json --out network.h5
    """
    if is_same_file(out, path) or (model is not None and is_same_file(out, model)):
        msg = f"{out}: would be written over; choose another file for the checkpoint"
        raise SpecnetError(msg)
    read = _read(path, model)
    save(out, read)
    checked = ", every digest checked" if is_hdf5(path) else ""
    note(f"{out}: {read.parameter_count:,} parameters{checked}")


def _read(path: str, document: str | None) -> Model:
    from specnet.interop.named import from_npz, from_safetensors  # noqa: PLC0415 - needed here only
    from specnet.interop.rewritten import import_rewritten  # noqa: PLC0415

    readers = {".npz": from_npz, ".safetensors": from_safetensors}
    suffix = Path(path).suffix.lower()
    if suffix in readers:
        return readers[suffix](path, None if document is None else spec_of(document))
    if document is not None:
        msg = f"{path}: --model is for {', '.join(readers)}; a checkpoint holds its document"
        raise SpecnetError(msg)
    return import_rewritten(path)


def export(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The file to write: .onnx, .safetensors or .npz.")],
    to: Annotated[
        Literal["onnx", "safetensors", "npz"] | None,
        typer.Option("--to", help="The kind, if the name does not say."),
    ] = None,
) -> None:
    """Write a model for other programs. What was written is read back, and has to predict the same.

    Example: specnet export runs/digits/best.h5 --to onnx --out digits.onnx
    """
    from specnet.interop.exporting import export as write  # noqa: PLC0415 - needed here only

    if not is_hdf5(path):
        msg = f"{path}: expected a checkpoint; a document has no weights to export"
        raise SpecnetError(msg)
    if is_same_file(out, path):
        msg = f"{out}: is the checkpoint itself; choose another file"
        raise SpecnetError(msg)
    found = write(out, load(path), to)
    note(f"{out}: {found.size:,} bytes of {found.kind}; read back, it predicts the same to {found.difference:.2g}")
