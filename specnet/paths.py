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
