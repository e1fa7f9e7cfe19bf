"""Paths given by users."""

from __future__ import annotations

import os
from pathlib import Path

from specnet.errors import SpecnetError


def user_path(path: str | os.PathLike[str]) -> Path:
    """Expand a leading ~; keep it if it names no user, so that opening the file reports it as not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to something; False, too, if the system cannot tell (no permission, too long)."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises what it cannot tell


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a folder; False, too, if the system cannot tell."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises what it cannot tell


def is_same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths lead to the same existing file."""
    try:
        return user_path(path).samefile(user_path(other))
    except (OSError, ValueError):
        return False


def relative_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return a path relative to a folder, for a document. Raises SpecnetError if a document cannot hold it."""
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except OSError as error:
        msg = f"{os.fspath(path)}: has no path relative to the current folder, which is gone: {error.strerror or error}"
        raise SpecnetError(msg) from error
    if not relative.isprintable() and any("\ud800" <= character <= "\udfff" for character in relative):
        msg = f"{relative}: is not valid UTF-8, so no document can name it; rename the file or its folder"
        raise SpecnetError(msg)
    return relative
