"""The files of a run's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from specnet.errors import CheckpointError
from specnet.files.atomic import write_file
from specnet.files.paths import exists, is_folder, user_path
from specnet.training.loop import History

LAST, BEST, EXPERIMENT, HISTORY = "last.h5", "best.h5", "experiment.json", "history.csv"


_OLDER = re.compile(r"step-(\d+)\.h5")


def _older_checkpoints(folder: Path) -> list[Path]:
    """List the kept checkpoints of a run, the oldest first."""
    matches = ((_OLDER.fullmatch(path.name), path) for path in folder.glob("step-*.h5"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def checkpoint_of(path: str | os.PathLike[str]) -> Path:
    """Return the last checkpoint of a run's folder; any other path is returned unchanged."""
    file = user_path(path)
    return file / LAST if is_folder(file) else file


def best_checkpoint_of(path: str | os.PathLike[str]) -> Path:
    """Return the best checkpoint of a run's folder, the last one if there is none; any other path is unchanged."""
    file = user_path(path)
    return file / BEST if is_folder(file) and exists(file / BEST) else checkpoint_of(path)


def run_files(folder: Path) -> list[Path]:
    """List the files that a run has written to a folder."""
    paths = [folder / name for name in (LAST, BEST, HISTORY, EXPERIMENT)]
    return [*(path for path in paths if os.path.lexists(path)), *_older_checkpoints(folder)]


def remove_run_files(folder: Path) -> None:
    """Remove the files that a run has written to a folder, except its document. Raises CheckpointError."""
    try:
        for path in run_files(folder):
            if path.name != EXPERIMENT:
                path.unlink()
    except OSError as error:
        msg = f"{folder}: cannot be written to: {error.strerror or error}"
        raise CheckpointError(msg) from error


def remove_link(path: Path) -> None:
    """Remove a symbolic link, so that a run writes into its folder and nowhere else. Raises CheckpointError."""
    try:
        if path.is_symlink():
            path.unlink()
    except OSError as error:
        msg = f"{path}: cannot be written to: {error.strerror or error}"
        raise CheckpointError(msg) from error


def rotate_checkpoints(folder: Path, count: int, step: int | None) -> None:
    """Keep last.h5 (of `step`) as step-<n>.h5 before it is replaced; keep at most `count` - 1 older checkpoints.

    Raises CheckpointError.
    """
    last = folder / LAST
    older = _older_checkpoints(folder)
    try:
        if count > 1 and step is not None and exists(last):
            copy = folder / f"step-{step}.h5"
            copy.unlink(missing_ok=True)
            os.link(last, copy)
            older = [*(path for path in older if path != copy), copy]
        for path in older[: max(len(older) - (count - 1), 0)]:
            path.unlink(missing_ok=True)
    except OSError as error:
        msg = f"{folder}: older checkpoints cannot be kept: {error.strerror or error}"
        raise CheckpointError(msg) from error


def write_history(path: Path, history: History) -> None:
    """Write the metrics of every epoch as a CSV table with a header. Raises CheckpointError."""
    lines = [",".join(history), *(",".join(map(repr, row)) for row in zip(*history.values(), strict=True))]
    write_file(path, ("\n".join(lines) + "\n").encode(), CheckpointError)
