"""Training: losses, metrics, optimizers, schedules, the experiment document and the training loop.

Imports everything up to `checkpoint`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnet.training import losses as losses
    from specnet.training import metrics as metrics
    from specnet.training import optimizers as optimizers
    from specnet.training.runs.fit import fit as fit
    from specnet.training.runs.train import TrainingResult as TrainingResult
    from specnet.training.runs.train import train as train

_MODULES = ("experiment", "loading", "loop", "losses", "metrics", "optimizers", "schedules")

__all__ = ["TrainingResult", "fit", "losses", "metrics", "optimizers", "train"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        return import_module("specnet.training.runs.fit").fit
    if name in ("train", "TrainingResult"):
        return getattr(import_module("specnet.training.runs.train"), name)
    if name in _MODULES:
        return import_module(f"specnet.training.{name}")
    msg = f"module 'specnet.training' has no attribute {name!r}"
    raise AttributeError(msg)
