"""Checkpoints: a model, and the run that trained it, in one HDF5 file.

`format` defines the names in the file, `write` saves, `read` loads. `hdf5` parses the file's structures, `fast_plan`
parses its document, and `checked_file` compares the two before it reads an array. Imports everything up to `model`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from specnet.checkpoint.read import check as check
from specnet.checkpoint.read import load as load

if TYPE_CHECKING:
    from specnet.checkpoint.transfer import load_parameters as load_parameters
    from specnet.model import Model

__all__ = ["check", "load", "load_parameters", "save"]


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to `path`; see specnet.checkpoint.write.save."""
    from specnet.checkpoint.write import save as write_checkpoint  # noqa: PLC0415 - imports h5py, which loading does not need

    write_checkpoint(path, model)


def __getattr__(name: str) -> Any:
    if name == "load_parameters":
        from specnet.checkpoint.transfer import load_parameters  # noqa: PLC0415 - rarely needed

        return load_parameters
    msg = f"module 'specnet.checkpoint' has no attribute {name!r}"
    raise AttributeError(msg)
