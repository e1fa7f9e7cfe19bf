"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specnet.data.raw import Columns

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Mpi = Annotated[
    bool | None,
    typer.Option("--mpi/--no-mpi", help="Use MPI, or let each process work alone. [default: MPI under a launcher]"),
]


def column_names(names: str | None) -> Columns:
    """Split "a,b,c" into names; return a single name, of an array or a column, and None unchanged."""
    return tuple(names.split(",")) if names is not None and "," in names else names
