"""Replacing a file so that at every instant the path holds the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from specnet.errors import SpecnetError
from specnet.files.paths import user_path

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; leftovers of the dead stay there
    fcntl = None  # type: ignore[assignment]


_TEMPORARY = re.compile(r"\.specnet-[0-9a-f]{16}\.tmp")


class NotDurableError(OSError):
    """The file is in its place, but its folder could not be synced: a power cut may bring back the old one."""


def replace_file(path: str | os.PathLike[str], write: Callable[[int], None]) -> None:
    """Let `write` fill a temporary file beside `path`, make it durable, and rename it over `path`.

    Raises what `replacing` raises.
    """
    with replacement(path) as (_, descriptor):
        write(descriptor)


@contextlib.contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[tuple[Path, int]]:
    """Give a temporary file beside `path`, open, to be filled; then make it durable and rename it over `path`.

    A symbolic link stays and its target is replaced; permissions follow the replaced file or the umask. Raises
    OSError; then the path is as it was and no temporary is left. (NotDurableError: then it is the new one.)
    """
    target = Path(os.path.realpath(user_path(path)))
    if target.is_dir():
        raise IsADirectoryError(21, "Is a directory", os.fspath(path))
    if target.exists() and not target.is_file():
        raise OSError(22, "It is not a regular file", os.fspath(path))
    _clear_leftovers(target.parent)
    temporary, descriptor = _open_temporary(target.parent)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
        yield temporary, descriptor
        sync(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 - the sibling of the calls around it
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        with contextlib.suppress(OSError):  # all is synced, or given up
            os.close(descriptor)
    try:
        _sync_folder(target.parent)
    except OSError as error:
        raise NotDurableError(error.errno, error.strerror, os.fspath(path)) from error


def write_file(path: str | os.PathLike[str], data: bytes, error: type[SpecnetError]) -> None:
    """Replace a small file by `data`, atomically. Raises `error`, which names the path; then it is as it was."""
    try:
        replace_file(path, lambda descriptor: write_at(descriptor, 0, data))
    except OSError as failure:
        msg = f"{os.fspath(path)}: cannot be written: {failure.strerror or failure}"
        raise error(msg) from failure


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of `data` at `offset`; a write may stop short, so go on until nothing is left."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def reserve(descriptor: int, size: int) -> None:
    """Have the file system set aside the place, which makes writing faster and a full disk known at once.

    Raises OSError where there is no such place; does nothing where the file system does not know how.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Have the system begin to bring a span to the disk now, and not only when the file is synced.

    A hint: `sync` alone says whether the bytes are there.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def _open_temporary(folder: Path) -> tuple[Path, int]:
    """Make a temporary and hold its lock, which tells others that its writer lives."""
    while True:
        path = folder / f".specnet-{secrets.token_hex(8)}.tmp"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if _is_ours(path, descriptor):
                return path, descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_ours(path: Path, descriptor: int) -> bool:
    """Take the lock; tell whether another process took the file for a leftover between opening and locking."""
    if fcntl is None:
        return True
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear_leftovers(folder: Path) -> None:
    """Remove temporaries whose writer is dead: their lock can be taken."""
    if fcntl is None:
        return
    for path in _leftovers(folder):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        finally:
            os.close(descriptor)


def _leftovers(folder: Path) -> Iterator[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a scan that stops at an unreadable folder
    except OSError:
        return
    for name in names:
        if _TEMPORARY.fullmatch(name):
            yield folder / name


def sync(descriptor: int) -> None:
    """Bring what was written to the disk itself. Raises OSError; then the file cannot be trusted any more."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves data in the drive's cache
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot sync a folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
