"""The standard streams of a command: none is missing, and errors of writing to them are not those of files."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from specnet.errors import printable


class OutputError(Exception):
    """Standard output cannot be written, for the reason in `__cause__`."""


class Output:
    """Standard output; raises OutputError instead of OSError."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text. Raises OutputError."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            raise OutputError from error

    def flush(self) -> None:
        """Write what is buffered. Raises OutputError."""
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Messages:
    """Standard error; what cannot be written is lost, because a full disk must not end a run that has only notes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text if possible."""
        try:
            return int(self._stream.write(text))
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, if possible."""
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare() -> None:
    """Open missing standard streams to nothing, escape what an encoding cannot hold, and tell errors apart.

    A schedule or a daemon may start a command without them; the next file would then get their number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # noqa: FBT003 - as the system has it
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    out = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    messages = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (out, messages):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = Output(out), Messages(messages)


def discard(stream: Any) -> None:
    """Send what is buffered, and all that follows, to nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def report(text: str) -> None:
    """Print an error of the command itself to standard error, on one line."""
    print(f"specnet: {printable(text)}", file=sys.stderr)
