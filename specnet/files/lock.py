"""Lock a folder against other processes that want to write into it; the lock ends with its process, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from specnet.errors import SpecnetError, printable

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

LOCK = ".specnet.lock"
"""The name of the locked file: not a checkpoint's, because a lock on that would hinder whoever reads it."""


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[Callable[[], None]]:
    """Make a folder and hold its lock; at the end remove the lock, and the folder if it was made and is empty.

    Yields a function that checks that the folder is still the locked one: another may have taken the place of one that
    was moved. Both raise SpecnetError; it says what ("a run") holds the lock, or why the folder cannot be made. A file
    system without locks is used without one.
    """
    path = folder / LOCK
    made: list[Path] = []
    try:
        descriptor = None
        while descriptor is None:  # its last holder may remove an empty folder between the two
            made = _make(folder) or made
            descriptor = _take_lock(path, what)

        def check() -> None:
            if not _is_open_as(path, descriptor):
                msg = f"{folder}: was moved or replaced while {what} was writing into it"
                raise SpecnetError(msg)

        try:
            yield check
        finally:
            if _is_open_as(path, descriptor):
                with contextlib.suppress(OSError):  # while the lock is held, so that nobody else has just taken it
                    path.unlink()
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for new in made:
                new.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the innermost first. Raises SpecnetError."""
    try:
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        msg = f"{folder}: cannot be written to: {getattr(error, 'strerror', None) or error}"
        raise SpecnetError(msg) from error
    return missing


def _take_lock(path: Path, what: str) -> int | None:
    """Return the descriptor of the locked file, None if its folder is gone. Raises SpecnetError."""
    while True:
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            return None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held_by = printable(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()) or "another process"
            os.close(descriptor)
            msg = f"{path.parent}: {held_by} is still writing into it; let it end, or choose another folder"
            raise SpecnetError(msg) from None
        except OSError:  # the file system has no locks
            return descriptor
        if _is_open_as(path, descriptor):
            with contextlib.suppress(OSError):  # it may be another user's, and only readable
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _holder(what).encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder has just ended and removed it


def _open(path: Path) -> int:
    """Open or make the file to lock. Raises SpecnetError, and FileNotFoundError if its folder is gone."""
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | flags, 0o644)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | flags & ~os.O_CREAT)  # enough for a lock
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if os.path.lexists(path):
            msg = f"{path}: cannot be locked: {reason}; remove it if no run is writing into this folder"
        else:
            msg = f"{path.parent}: cannot be written to: {reason}"
        raise SpecnetError(msg) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # what is written into it would be in another file
        os.close(descriptor)
        msg = f"{path}: cannot be locked: it is not a file of its own; remove it"
        raise SpecnetError(msg)
    return descriptor


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Return whether a path still leads to the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _holder(what: str) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{what} (process {os.getpid()} on {socket.gethostname()} since {since})\n"
