"""Paths given by users."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Expand a leading ~; keep it if it names no user, so that opening the file reports it as not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths lead to the same existing file."""
    try:
        return user_path(path).samefile(user_path(other))
    except (OSError, ValueError):
        return False
