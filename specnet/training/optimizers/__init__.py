"""Optimizers, each of which updates one flat parameter vector, and their specs.

Imports `arrays`, `kernels`, `model` and `document`.
"""

from specnet.training.optimizers.base import Optimizer
from specnet.training.optimizers.rules import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from specnet.training.optimizers.spec import OPTIMIZERS, OptimizerChoice, OptimizerSpec

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Optimizer",
    "OptimizerChoice",
    "OptimizerSpec",
    "RMSprop",
]
