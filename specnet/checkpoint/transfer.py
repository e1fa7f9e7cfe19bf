"""Taking over from a checkpoint what fits a model of another document."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy.typing as npt

from specnet.checkpoint.read import load
from specnet.model import Model


class Transfer(NamedTuple):
    """What `load_parameters` did: names taken over; names in the file left there, and why; names it did not find."""

    taken: tuple[str, ...]
    skipped: dict[str, str]
    missing: tuple[str, ...]


def load_parameters(model: Model, path: str | os.PathLike[str], names: str = "*") -> Transfer:
    """Take over the parameters and buffers of a checkpoint that have a namesake of the same shape in `model`.

    `names` is a pattern, "block.*" say, that names have to match to be taken. Values are converted to the model's
    dtype. The model's gradients, if any, stay as they are. Raises CheckpointError; then the model is unchanged.
    """
    source = load(path)
    theirs: dict[str, npt.NDArray[Any]] = {**source.parameters, **source.buffers}
    ours: Mapping[str, npt.NDArray[Any]] = {**model.parameters, **model.buffers}
    taken, skipped = [], {}
    for name, array in theirs.items():
        if not fnmatchcase(name, names):
            skipped[name] = f"does not match {names!r}"
        elif name not in ours:
            skipped[name] = "the model has no such array"
        elif ours[name].shape != array.shape:
            skipped[name] = f"has shape {array.shape} in the file, {ours[name].shape} in the model"
        else:
            ours[name][...] = array
            taken.append(name)
    return Transfer(tuple(taken), skipped, tuple(name for name in ours if name not in theirs))
