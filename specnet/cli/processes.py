"""Commands under an MPI launcher: which process speaks, and how one that cannot go on ends all."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from specnet.cli.output import error_lines
from specnet.errors import SpecnetError
from specnet.mpi import launched_world
from specnet.world import World

Mpi = Annotated[
    bool, typer.Option("--mpi", help="Use MPI although no launcher is recognized; mpiexec is recognized by itself.")
]
RESUMABLE = "stopped; the last checkpoint is whole, --resume goes on from it"
GRACE = 2.0
"""Seconds that the others leave the first process to say why all end."""
_HEARD = 0.5
"""Seconds that the launcher has to pass a message on, before it ends everything."""


@contextmanager
def joined(mpi: bool, stopped: str = RESUMABLE) -> Iterator[World]:
    """Give the processes that the launcher started; whatever one of them raises alone ends all, with one message.

    `stopped` is what is said where a signal ends them.

    What all raise is told by the first; the others end without a word.
    """
    world = launched_world(wanted=mpi)
    if world.size == 1:
        yield world
        return
    end_on_signals(world, stopped)
    try:
        yield world
    except SpecnetError as error:
        if not error.everywhere:
            _end(world, "\n".join(error_lines(error)), 1)
        if world.rank == 0:
            raise
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception:  # noqa: BLE001 - a bug, of which the others know nothing
        _end(world, traceback.format_exc(), 1)


def end_on_signals(world: World, told: str) -> None:
    """End all where one is asked to: the others would wait for it. `told` is what the message says."""

    def handle(number: int, _frame: object) -> None:
        _end_in(world, 0.0, told, 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def end_soon(world: World, told: str, code: int, seconds: float = 6.0) -> None:
    """End all in some seconds, in which a checkpoint can be written, unless this process has ended by then."""
    threading.Thread(target=_end_in, args=(world, seconds, told, code), daemon=True).start()


def _end_in(world: World, seconds: float, told: str, code: int) -> None:
    time.sleep(seconds + (GRACE if world.rank else 0.0))
    _end(world, told, code)


def _end(world: World, message: str, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"process {world.rank} of {world.size}: {message.rstrip()}\n")
    sys.stderr.flush()
    time.sleep(_HEARD)
    world.abort(code)
    os._exit(code)  # where the launcher takes its time
