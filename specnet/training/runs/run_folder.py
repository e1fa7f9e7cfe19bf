"""The files of a run's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from specnet.errors import CheckpointError
from specnet.files.atomic import write_file
from specnet.files.paths import user_path
from specnet.training.loop import History

LAST, BEST, EXPERIMENT, HISTORY = "last.h5", "best.h5", "experiment.json", "history.csv"


_OLDER = re.compile(r"step-(\d+)\.h5")


def _older(folder: Path) -> list[Path]:
    """List the kept checkpoints of a run, the oldest first."""
    numbered = ((_OLDER.fullmatch(path.name), path) for path in folder.glob("step-*.h5"))
    return [path for _, path in sorted((int(found[1]), path) for found, path in numbered if found)]


def checkpoint_of(path: str | os.PathLike[str]) -> Path:
    """Take a run's folder for the last checkpoint in it; another path is a checkpoint's itself."""
    file = user_path(path)
    return file / LAST if file.is_dir() else file


def run_files(folder: Path) -> list[Path]:
    """List what a run has left in a folder."""
    there = [folder / name for name in (LAST, BEST, HISTORY, EXPERIMENT)]
    return [*(path for path in there if path.exists()), *_older(folder)]


def remove_run_files(folder: Path) -> None:
    """Take away what a run has left in a folder, but for its document. Raises CheckpointError."""
    try:
        for path in run_files(folder):
            if path.name != EXPERIMENT:
                path.unlink()
    except OSError as error:
        msg = f"{folder}: cannot be written to: {error.strerror or error}"
        raise CheckpointError(msg) from error


def rotate_checkpoints(folder: Path, count: int, step: int | None) -> None:
    """Keep last.h5, of this step, as step-<n>.h5 before it is replaced, and at most `count` - 1 of those.

    Raises CheckpointError.
    """
    last = folder / LAST
    older = _older(folder)
    try:
        if count > 1 and step is not None and last.exists():
            kept = folder / f"step-{step}.h5"
            kept.unlink(missing_ok=True)
            os.link(last, kept)
            older = [*(path for path in older if path != kept), kept]
        for path in older[: max(len(older) - (count - 1), 0)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        msg = f"{folder}: older checkpoints cannot be kept: {error.strerror or error}"
        raise CheckpointError(msg) from error


def write_history(path: Path, history: History) -> None:
    """Write the metrics of every epoch as a table with a header. Raises CheckpointError."""
    lines = [",".join(history), *(",".join(map(repr, row)) for row in zip(*history.values(), strict=True))]
    write_file(path, ("\n".join(lines) + "\n").encode(), CheckpointError)
