"""Read foreign HDF5 files in a child process with limits of time and memory, and return their arrays."""

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

from specnet.errors import CheckpointUnsupportedError
from specnet.files.paths import user_path
from specnet.interop.foreign_file import open_foreign, unpacked_limit

SECONDS, BYTES_A_SECOND = 30, 10_000_000
"""The time limit of the child process: SECONDS, plus one second for every BYTES_A_SECOND bytes of the file."""


_CHILD = Path(__file__).with_name("sandbox_child.py")


class Hdf5Content(NamedTuple):
    """All datasets of a file (text as bytes) and the attributes of every object, by path ("/", "/layers/dense")."""

    arrays: dict[str, npt.NDArray[Any]]
    attributes: dict[str, dict[str, Any]]


def read_hdf5(path: str | os.PathLike[str], name: str | None = None, size: int | None = None) -> Hdf5Content:
    """Read an HDF5 file from an untrusted source; error messages call it `name`.

    Refuses links and data that point outside the file, types other than numbers and text, plugins, and arrays far
    larger than `size`, the size of the file or of the archive that it was packed in, with CheckpointUnsupportedError.
    Raises CheckpointError if the file cannot be opened.
    """
    name = name or os.fspath(path)
    with open_foreign(path, name) as file, tempfile.TemporaryDirectory() as folder:
        size = size or os.fstat(file.fileno()).st_size
        out = Path(folder) / "arrays.npz"
        _run_child(os.path.realpath(user_path(path)), out, size, name)
        with np.load(out, allow_pickle=False) as stored:
            index = json.loads(stored["index"].tobytes())
            return Hdf5Content({p: stored[str(i)] for i, p in enumerate(index["paths"])}, index["attributes"])


def _run_child(source: str, out: Path, size: int, name: str) -> None:
    allowed = unpacked_limit(size)
    command = [sys.executable, "-I", str(_CHILD), source, str(out), str(allowed), str(2**29 + 3 * allowed)]
    # No HDF5 filter plugins, and no threads, for each of which OpenBLAS takes address space.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    seconds = SECONDS + size // BYTES_A_SECOND
    try:
        child = subprocess.run(  # noqa: S603 - runs this interpreter with a module of this package
            command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        msg = f"{name}: HDF5 did not read it within {seconds} seconds; the file is damaged or malicious"
        raise CheckpointUnsupportedError(msg) from None
    if child.returncode or not out.exists():
        detail = (child.stderr.strip().splitlines() or [f"the child process exited with {child.returncode}"])[-1]
        msg = f"{name}: HDF5 cannot read it: {detail[:200]}"
        raise CheckpointUnsupportedError(msg)
