"""Copy the arrays of a checkpoint that fit a model with a different document."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy.typing as npt

from specnet.checkpoint.read import load
from specnet.model import Model


class Transfer(NamedTuple):
    """Result of `load_parameters`: names copied, names not copied (with the reason), names that the file lacks."""

    taken: tuple[str, ...]
    skipped: dict[str, str]
    missing: tuple[str, ...]


def load_parameters(model: Model, path: str | os.PathLike[str], names: str = "*") -> Transfer:
    """Copy the parameters and buffers of a checkpoint whose name and shape occur in `model`.

    `names` is a pattern that names must match to be copied, for example "block.*". Values are converted to the
    model's dtype. The model's gradients are not changed. Raises CheckpointError; then the model is unchanged.
    """
    source = load(path)
    file_arrays: dict[str, npt.NDArray[Any]] = {**source.parameters, **source.buffers}
    model_arrays: Mapping[str, npt.NDArray[Any]] = {**model.parameters, **model.buffers}
    taken, skipped = [], {}
    for name, array in file_arrays.items():
        if not fnmatchcase(name, names):
            skipped[name] = f"does not match {names!r}"
        elif name not in model_arrays:
            skipped[name] = "the model has no such array"
        elif model_arrays[name].shape != array.shape:
            skipped[name] = f"has shape {array.shape} in the file, {model_arrays[name].shape} in the model"
        else:
            model_arrays[name][...] = array
            taken.append(name)
    return Transfer(tuple(taken), skipped, tuple(name for name in model_arrays if name not in file_arrays))
