"""Commands under an MPI launcher: which process reports, and how a failed process ends all others."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from specnet.cli.output import error_lines
from specnet.cli.streams import OutputError
from specnet.errors import SpecnetError

if TYPE_CHECKING:
    from specnet.mpi.world import World
    from specnet.training.loop import Event, Run

RESUMABLE = "stopped; all files are complete, and --resume continues from them"
GRACE = 2.0
"""Seconds that the other processes wait, so that the first process can report the reason."""
_FORWARDING_SECONDS = 0.5
"""Seconds for the launcher to forward a message before it ends all processes."""


def ending_signals() -> list[signal.Signals]:
    """List the signals that end a command: all that a user, a launcher or a closed terminal sends.

    A SIGHUP that is ignored stays so: nohup asks for it.
    """
    hangup = getattr(signal, "SIGHUP", None)
    heard = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if heard and hangup is not None else [])]


class Stop:
    """A listener that counts the steps of a run, and ends the run after the step in which `signal` was set.

    With `saving`, it lets the run write its checkpoint after the next step and go on.
    """

    signal = 0
    saving = False
    steps = 0
    run: Run | None = None

    def is_ending(self) -> bool:
        """Return whether the run took its last step, on which all processes agreed, so that only saving remains."""
        return self.run is not None and self.run.stopping

    def __call__(self, event: Event) -> None:
        self.run = event.run
        self.steps += event.kind == "step"
        if self.saving:
            self.saving = False
            event.run.save()
        if self.signal:
            event.run.stop()


class Ending:
    """Ends all processes when this one receives a signal, immediately or after a grace period (see `patient`).

    A thread reads signals from a pipe, because Python runs signal handlers only in the main thread, which may be
    blocked inside MPI by a process that no longer responds. `message` is printed at the end.
    """

    def __init__(self, world: World, message: str) -> None:
        self._world = world
        self._message = message
        self._grace_seconds = 0.0
        self._busy: Callable[[], bool] = lambda: False
        self._is_over = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._signals = ending_signals()
        for number in self._signals:
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: int) -> None:
        number = 0
        while number not in self._signals:
            number = os.read(reader, 1)[0]
        time.sleep(self._grace_seconds)
        while self._busy():
            time.sleep(0.05)
        time.sleep(GRACE if self._world.rank else 0.0)
        if not self._is_over:
            _end(self._world, self._message, 128 + number)

    @contextmanager
    def patient(self, busy: Callable[[], bool], *, seconds: float = 6.0) -> Iterator[None]:
        """After a signal, give the main thread some seconds to end by itself, and longer while `busy` returns True.

        Signals that arrive after this context are ignored, because the process is about to end.
        """
        self._grace_seconds, self._busy = seconds, busy
        try:
            yield
        finally:
            self._is_over = True
            for number in self._signals:  # launchers forward signals that the terminal has sent already
                signal.signal(number, signal.SIG_IGN)


@contextmanager
def joined(mpi: bool | None, stopped: str = RESUMABLE) -> Iterator[tuple[World, Ending | None]]:
    """Yield the processes that the launcher started, and their `Ending` (None for a single process).

    An exception in one process ends all of them, with one message. An error that all processes raise is reported by the
    first process only. `stopped` is the message if a signal ends them.
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
    except OutputError:  # the reader has closed the pipe, or a disk is full
        _end(world, "cannot print", 1)
    except Exception:  # noqa: BLE001 - a bug in this process only
        _end(world, traceback.format_exc(), 1)


def _end(world: World, message: str, code: int) -> None:
    with suppress(OutputError):
        sys.stdout.flush()
    sys.stderr.write(f"process {world.rank} of {world.size}: {message.rstrip()}\n")
    sys.stderr.flush()
    time.sleep(_FORWARDING_SECONDS)
    world.abort(code)
    os._exit(code)  # in case abort returns before the launcher ends this process
