"""init."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from specnet.cli.options import Json


def init(
    data: Annotated[str, typer.Option("--data", "-d", help="A data file: .csv, .parquet, .npz or .h5.")],
    target: Annotated[str, typer.Option("--target", help="The column, or array, that is to be predicted.")],
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="Columns to predict from, a,b,c. [default: all that are numbers]")
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The documents' folder.")] = ".",
    force: Annotated[bool, typer.Option("--force", help="Overwrite documents that are there.")] = False,
    json: Json = False,
) -> None:
    """Look at a data file and write a model and an experiment document for it, ready for `specnet train`.

    Example: specnet init --data iris.csv --target species
    """
    from specnet.cli.output import note, print_json
    from specnet.training.runs.scaffold import scaffold

    names = inputs.split(",") if inputs and "," in inputs else inputs
    made = scaffold(data, target, inputs=names, out=out, force=force)
    if json:
        files = {"model": str(made.model_path), "experiment": str(made.experiment_path)}
        print_json({**files, "notes": made.notes})
        return
    for told in made.notes:
        note(told)
    typer.echo(f"{made.model_path}")
    typer.echo(f"{made.experiment_path}")
    note(f"Train it: {shlex.join(['specnet', 'train', str(made.experiment_path)])}")
