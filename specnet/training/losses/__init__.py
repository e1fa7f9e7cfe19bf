"""Losses, each with the value and the gradient of a mean over rows or elements, and their specs.

Imports `arrays`, `kernels`, `layers` and `document`.
"""

from specnet.training.losses.base import ElementLoss, Loss
from specnet.training.losses.elementwise import BinaryCrossEntropy, Huber, MeanAbsoluteError, MeanSquaredError
from specnet.training.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from specnet.training.losses.spec import LOSSES, LossChoice, LossSpec

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "ElementLoss",
    "Huber",
    "Loss",
    "LossChoice",
    "LossSpec",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SoftmaxCrossEntropy",
]
