"""Atomic file replacement: at every instant, the path holds either the complete old file or the complete new one."""

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
except ImportError:  # Windows has no advisory locks, so temporary files of killed processes stay there
    fcntl = None  # type: ignore[assignment]


_TEMPORARY = re.compile(r"\.specnet-[0-9a-f]{16}\.tmp")


class NotDurableError(OSError):
    """The new file is in place, but its folder could not be synced: a power failure may bring back the old file."""


def replace_file(path: str | os.PathLike[str], write: Callable[[int], None]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to the disk, and rename it over `path`.

    Raises the errors of `replacement`.
    """
    with replacement(path) as (_, descriptor):
        write(descriptor)


@contextlib.contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[tuple[Path, int]]:
    """Yield the path and descriptor of a temporary file beside `path` to fill; then sync it and rename it over `path`.

    A symbolic link stays and its target is replaced. The permissions are those of the replaced file, or follow the
    umask; until the new file is complete, others cannot read it if it replaces one. After an OSError the path is
    unchanged and no temporary is left; after a NotDurableError it is replaced.
    """
    target = Path(os.path.realpath(user_path(path)))
    mode = _mode_of(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", os.fspath(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(22, "It is not a regular file", os.fspath(path))
    _remove_leftovers(target.parent)
    temporary, descriptor = _open_temporary(target.parent, 0o666 if mode is None else 0o600)
    try:
        yield temporary, descriptor
        if mode is not None:
            os.fchmod(descriptor, stat.S_IMODE(mode))
        sync(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 - like the os calls around it
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        with contextlib.suppress(OSError):  # the file is already synced, or the write has failed
            os.close(descriptor)
    try:
        _sync_folder(target.parent)
    except OSError as error:
        raise NotDurableError(error.errno, error.strerror, os.fspath(path)) from error


def write_file(path: str | os.PathLike[str], data: bytes, error: type[SpecnetError]) -> None:
    """Replace a small file by `data` atomically. Raises `error` with the path; the file is then unchanged."""
    try:
        replace_file(path, lambda descriptor: write_at(descriptor, 0, data))
    except OSError as failure:
        msg = f"{os.fspath(path)}: cannot be written: {failure.strerror or failure}"
        raise error(msg) from failure


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of `data` at `offset`; repeat after a short write."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def reserve(descriptor: int, size: int) -> None:
    """Reserve disk space, which makes writing faster and detects a full disk at once.

    Raises OSError if there is not enough space; does nothing if the file system does not support it.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the system to start writing a span to the disk now instead of when the file is synced.

    This is a hint: only `sync` guarantees that the bytes are on the disk.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def _mode_of(path: Path) -> int | None:
    """Return the type and the permissions of a file, None if there is no such file."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _open_temporary(folder: Path, mode: int) -> tuple[Path, int]:
    """Create a temporary file and lock it; the lock shows other processes that its writer is alive."""
    while True:
        path = folder / f".specnet-{secrets.token_hex(8)}.tmp"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
        try:
            if _lock_temporary(path, descriptor):
                return path, descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_temporary(path: Path, descriptor: int) -> bool:
    """Lock the file; return False if another process removed it as a leftover between opening and locking."""
    if fcntl is None:
        return True
    with contextlib.suppress(OSError):  # the file system may have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of dead writers: those whose lock can be taken."""
    if fcntl is None:
        return
    for path in _find_temporaries(folder):
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


def _find_temporaries(folder: Path) -> Iterator[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - raises here if the folder is unreadable, not in the loop
    except OSError:
        return
    for name in names:
        if _TEMPORARY.fullmatch(name):
            yield folder / name


def sync(descriptor: int) -> None:
    """Flush written data to the disk itself. Raises OSError; the contents of the file are then unreliable."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves data in the drive's cache
    if full_sync is not None:
        fcntl.fcntl(descriptor, full_sync)
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
