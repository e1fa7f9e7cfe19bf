"""import."""

from __future__ import annotations

from typing import Annotated

import typer

from specnet.checkpoint import save
from specnet.cli.output import note


def import_(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint that another program has rewritten.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The checkpoint to write.")],
) -> None:
    """Read a file of another program, and write it as a checkpoint.

    Example: specnet import repacked.h5 --out model.h5
    """
    from specnet.interop.rewritten import import_rewritten  # noqa: PLC0415 - needed here only

    model = import_rewritten(path)
    save(out, model)
    note(f"{out}: {model.parameter_count:,} parameters, every digest checked")
