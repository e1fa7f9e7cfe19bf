"""Checkpoints: a model, and the run that trained it, in one HDF5 file.

format.py names what is in it, durable.py replaces files, write.py saves; hdf5.py reads the file's structures and
read.py holds them against the document.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from specnet.checkpoint.read import load as load

if TYPE_CHECKING:
    from specnet.model import Model

__all__ = ["load", "save"]


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to `path`; see specnet.checkpoint.write.save."""
    from specnet.checkpoint.write import save as write  # noqa: PLC0415 - imports h5py, which loading does without

    write(path, model)
