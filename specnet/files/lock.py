"""Lock a folder against other processes that want to write into it; the lock ends with its process, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from specnet.errors import SpecnetError, printable

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

LOCK = ".specnet.lock"
"""The name of the locked file: not a checkpoint's, because a lock on that would hinder whoever reads it."""


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Make a folder and hold its lock; at the end remove the lock, and the folder if it was made and is empty.

    Raises SpecnetError that says which process holds the lock, for `what` ("a run"), or why the folder cannot be made.
    A file system without locks is used without one.
    """
    made = _make(folder)
    try:
        descriptor = _take_lock(folder / LOCK, what)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # while the lock is held, so that nobody else has just taken it
                (folder / LOCK).unlink()
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for path in made:
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the innermost first. Raises SpecnetError."""
    try:
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        msg = f"{folder}: cannot be written to: {getattr(error, 'strerror', None) or error}"
        raise SpecnetError(msg) from error
    return missing


def _take_lock(path: Path, what: str) -> int:
    """Return the descriptor of the locked file. Raises SpecnetError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            msg = f"{path.parent}: cannot be written to: {error.strerror or error}"
            raise SpecnetError(msg) from error
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _holder().encode(), 0)
                return descriptor
        except BlockingIOError:
            held_by = printable(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip())
            os.close(descriptor)
            msg = f"{path.parent}: {what} is still writing into it ({held_by}); let it end, or choose another folder"
            raise SpecnetError(msg) from None
        except FileNotFoundError:  # its holder has just ended and removed it
            pass
        except OSError:  # the file system has no locks
            return descriptor
        os.close(descriptor)


def _holder() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
