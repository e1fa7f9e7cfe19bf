"""Foreign HDF5 files, read by a child process within limits of time and memory, handed over as plain arrays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.errors import CheckpointError, CheckpointUnsupportedError
from specnet.files.paths import user_path

SECONDS, BYTES_A_SECOND = 30, 10_000_000
"""How long the child may read: so many seconds, and one more for each so many bytes."""


_CHILD = Path(__file__).with_name("sandbox_child.py")


class Hdf5Content(NamedTuple):
    """All datasets of a file, text as its bytes, and the attributes of each object, by path ("/", "/layers/dense")."""

    arrays: dict[str, npt.NDArray[Any]]
    attributes: dict[str, dict[str, Any]]


def read_hdf5(path: str | os.PathLike[str], name: str | None = None) -> Hdf5Content:
    """Read an HDF5 file that anyone may have made; messages call it `name`.

    Links and data that lead out of the file, types but numbers and text, plugins, and arrays far larger than the file
    are refused. Raises CheckpointUnsupportedError, CheckpointError where the file cannot be opened.
    """
    name = name or os.fspath(path)
    try:
        size = user_path(path).stat().st_size
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "arrays.npz"
            _run(os.path.realpath(user_path(path)), out, size, name)
            with np.load(out, allow_pickle=False) as stored:
                index = json.loads(stored["index"].tobytes())
                return Hdf5Content({p: stored[str(i)] for i, p in enumerate(index["paths"])}, index["attributes"])
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error


def _run(source: str, out: Path, size: int, name: str) -> None:
    allowed = 2**28 + 8 * size
    command = [sys.executable, "-I", str(_CHILD), source, str(out), str(allowed), str(2**30 + 3 * allowed)]
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}  # no plugin is ever loaded
    seconds = SECONDS + size // BYTES_A_SECOND
    try:
        made = subprocess.run(  # noqa: S603 - this very interpreter, and a module of this package
            command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        msg = f"{name}: HDF5 has not read it within {seconds} seconds; it is damaged or hostile"
        raise CheckpointUnsupportedError(msg) from None
    if made.returncode or not out.exists():
        told = (made.stderr.strip().splitlines() or [f"the reader ended with {made.returncode}"])[-1]
        msg = f"{name}: HDF5 cannot read it: {told[:200]}"
        raise CheckpointUnsupportedError(msg)
