"""Where numbers stop being finite: a step run layer by layer, every array looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array
from specnet.errors import SpecnetError
from specnet.model import Model
from specnet.training.losses.base import Loss

NOWHERE = "it did not appear again when the step was repeated"


class NotFiniteError(SpecnetError):
    """A loss, an output or a gradient became NaN or infinite; the message says where it first appeared, `what` what."""

    def __init__(self, where: str, what: str = "a value is not finite") -> None:
        self.what = what
        super().__init__(where)


def checked_step(
    model: Model, loss: Loss, x: Any, targets: Any, weights: Any = None, share: float = 1.0
) -> tuple[Array, float]:
    """Run forward, loss and backward through the layers one by one; give the outputs and the loss.

    Computes what the model's own methods do, to the bit; the gradients are those of `share` times the loss. Raises
    NotFiniteError.
    """
    for name, value in model.parameters.items():
        _require(value, f"the parameter {name} is not finite before the step")
    y = x
    for layer in model.layers:
        y = layer.forward(y, training=True)
        _require(y, f"it first appears in the outputs of layer {layer.name} (forward)")
    mean, dy = loss(y, targets, weights)
    if not math.isfinite(mean):
        msg = "it first appears in the loss, as outputs or targets are too large; scale the targets"
        raise NotFiniteError(msg)
    dx: npt.NDArray[Any] | None = dy if share == 1 else dy * share
    for layer in reversed(model.layers):
        assert dx is not None  # only the first layer takes integers
        dx = layer.backward(dx)
        for name in layer.parameters:
            _require(layer.gradient(name), f"it first appears in the gradient of {layer.name}.{name} (backward)")
        if dx is not None:
            _require(dx, f"it first appears in what layer {layer.name} passes back (backward)")
    model.adopt_gradients()
    return y, mean


def where_not_finite(model: Model, loss: Loss, x: Any, targets: Any, weights: Any = None) -> str:
    """Run a step again and say where a value that is not finite first appears. The buffers stay as they are."""
    kept = {name: buffer.copy() for name, buffer in model.buffers.items()}
    try:
        checked_step(model, loss, x, targets, weights)
    except NotFiniteError as error:
        return str(error)
    finally:
        for name, buffer in kept.items():
            model.buffers[name][...] = buffer
    return NOWHERE


def _require(array: npt.NDArray[Any], what: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NotFiniteError(what)
