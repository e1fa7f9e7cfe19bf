"""Paths as people give them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Expand a leading ~; one that names no user stays, so that the file is simply not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Tell whether two paths lead to one file that is there."""
    try:
        return user_path(path).samefile(user_path(other))
    except (OSError, ValueError):
        return False
