"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specnet.data.raw import Columns

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Mpi = Annotated[
    bool | None,
    typer.Option("--mpi/--no-mpi", help="Use MPI, or have each process work alone. [default: as it was launched]"),
]


def column_names(names: str | None) -> Columns:
    """Return the names in "a,b,c", or the one name of an array or a column."""
    return tuple(names.split(",")) if names is not None and "," in names else names
