"""Opening files for reading: regular files only, because a FIFO or a device can block forever or never end."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from specnet.files.paths import user_path


def open_regular(path: str | os.PathLike[str], *, buffered: bool = True) -> BinaryIO:
    """Open a file for reading in binary. Raises OSError, also for a folder, a FIFO, a socket or a device."""
    # O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
    descriptor = os.open(user_path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        reason = "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise OSError(22, reason, os.fspath(path))
    return os.fdopen(descriptor, "rb", -1 if buffered else 0)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that a path leads to a readable regular file, for libraries that open it themselves. Raises OSError."""
    open_regular(path, buffered=False).close()


def most_unpacked(size: int) -> int:
    """Return the most bytes that a compressed file of `size` bytes may unpack to: 256 MiB, and 100 times its size.

    Measured data and weights shrink 2 to 20 times; files made to exhaust the memory, a thousand times and more.
    """
    return 2**28 + 100 * size
