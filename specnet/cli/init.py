"""The command init."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from specnet.cli.options import Json


def init(
    data: Annotated[str, typer.Option("--data", "-d", help="A data file: .csv, .parquet, .npz or .h5.")],
    target: Annotated[str, typer.Option("--target", help="The column or array to predict.")],
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="Input columns, a,b,c. [default: all numeric columns]")
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the documents.")] = ".",
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing documents.")] = False,
    json: Json = False,
) -> None:
    """Write a model and an experiment document for a data file, ready for `specnet train`.

    Example: specnet init --data iris.csv --target species
    """
    from specnet.cli.output import note, print_json, say
    from specnet.training.runs.scaffold import scaffold

    names = inputs.split(",") if inputs and "," in inputs else inputs
    documents = scaffold(data, target, inputs=names, out=out, force=force)
    if json:
        files = {"model": str(documents.model_path), "experiment": str(documents.experiment_path)}
        print_json({**files, "notes": documents.notes})
        return
    for text in documents.notes:
        note(text)
    say(f"{documents.model_path}")
    say(f"{documents.experiment_path}")
    note(f"Train it: {shlex.join(['specnet', 'train', str(documents.experiment_path)])}")
