"""Commands under an MPI launcher: which process speaks, and how one that cannot go on ends all."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from specnet.cli.output import error_lines
from specnet.errors import SpecnetError

if TYPE_CHECKING:
    from specnet.mpi.world import World
    from specnet.training.loop import Event, Run

RESUMABLE = "stopped; what was written is whole, and --resume goes on from it"
GRACE = 2.0
"""Seconds that the others leave the first process to say why all end."""
_HEARD = 0.5
"""Seconds that the launcher has to pass a message on, before it ends everything."""
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A listener that counts a run's steps, and ends it after the one during which `signal` was set."""

    signal = 0
    steps = 0
    run: Run | None = None

    def is_ending(self) -> bool:
        """Tell whether the last step is taken, also where processes had to agree on it: what is left is to save."""
        return self.run is not None and self.run.stopping

    def __call__(self, event: Event) -> None:
        self.run = event.run
        self.steps += event.kind == "step"
        if self.signal:
            event.run.stop()


class Ending:
    """Ends all processes where this one hears a signal, at once or after some time to do it by itself.

    A thread hears of signals through a pipe: Python's handlers wait for the main thread, which may wait inside MPI for
    a process that does not answer any more. `told` is what is said.
    """

    def __init__(self, world: World, told: str) -> None:
        self._world = world
        self._told = told
        self._seconds = 0.0
        self._busy: Callable[[], bool] = lambda: False
        self._over = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in _NUMBERS:
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: int) -> None:
        number = 0
        while number not in _NUMBERS:
            number = os.read(reader, 1)[0]
        time.sleep(self._seconds)
        while self._busy():
            time.sleep(0.05)
        time.sleep(GRACE if self._world.rank else 0.0)
        if not self._over:
            _end(self._world, self._told, 128 + number)

    @contextmanager
    def patient(self, busy: Callable[[], bool], *, seconds: float = 6.0) -> Iterator[None]:
        """Leave the main thread some seconds to end by itself, and as long as it is `busy` with that.

        Signals that come later are not heeded: what follows is the end.
        """
        self._seconds, self._busy = seconds, busy
        try:
            yield
        finally:
            self._over = True
            for number in _NUMBERS:  # launchers pass on what a terminal has sent already
                signal.signal(number, signal.SIG_IGN)


@contextmanager
def joined(mpi: bool | None, stopped: str = RESUMABLE) -> Iterator[tuple[World, Ending | None]]:
    """Give the processes that the launcher started; whatever one of them raises alone ends all, with one message.

    `stopped` is what is said where a signal ends them. What all raise is told by the first; the others end without a
    word.
    """
    from specnet.mpi import launched_world

    world = launched_world(wanted=mpi)
    if world.size == 1:
        yield world, None
        return
    ending = Ending(world, stopped)
    try:
        yield world, ending
    except SpecnetError as error:
        if not error.collective:
            _end(world, "\n".join(error_lines(error)), 1)
        if world.rank == 0:
            raise
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception:  # noqa: BLE001 - a bug, of which the others know nothing
        _end(world, traceback.format_exc(), 1)


def _end(world: World, message: str, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"process {world.rank} of {world.size}: {message.rstrip()}\n")
    sys.stderr.flush()
    time.sleep(_HEARD)
    world.abort(code)
    os._exit(code)  # where the launcher takes its time
