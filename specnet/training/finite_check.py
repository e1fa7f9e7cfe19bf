"""Find where values stop being finite: run a step layer by layer and check every array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array
from specnet.errors import SpecnetError
from specnet.layer import TimeMask
from specnet.model import Model
from specnet.training.losses.base import Loss

NOWHERE = "it did not appear again when the step was repeated"


class NotFiniteError(SpecnetError):
    """A loss, output or gradient became NaN or infinite. The message names the first place, `what` the value."""

    def __init__(self, where: str, what: str = "a value is not finite") -> None:
        self.what = what
        super().__init__(where)


def checked_step(
    model: Model, loss: Loss, x: Any, targets: Any, weights: Any = None, share: float = 1.0
) -> tuple[Array, float]:
    """Run forward, loss and backward through the layers one by one, and return the outputs and the loss.

    Computes the same bits as the model's own methods; the gradients are those of `share` times the loss. Raises
    NotFiniteError.
    """
    for name, value in model.parameters.items():
        _check_finite(value, f"the parameter {name} is not finite before the step")
    y = x
    for layer, masks in zip(model.layers, layer_masks(model, x), strict=True):
        y = layer.forward(y, training=True, **masks)
        _check_finite(y, f"it first appears in the outputs of layer {layer.name} (forward)")
    mean, dy = loss(y, targets, weights, model.output_mask(x))
    if not math.isfinite(mean):
        msg = "it first appears in the loss, because outputs or targets are too large; scale the targets"
        raise NotFiniteError(msg)
    dx: npt.NDArray[Any] | None = dy if share == 1 else dy * share
    for layer in reversed(model.layers):
        assert dx is not None  # only a first layer, on integer inputs, returns no input gradient
        dx = layer.backward(dx)
        for name in layer.parameters:
            _check_finite(layer.gradient(name), f"it first appears in the gradient of {layer.name}.{name} (backward)")
        if dx is not None:
            _check_finite(dx, f"it first appears in the input gradient of layer {layer.name} (backward)")
    model.adopt_gradients()
    return y, mean


def layer_masks(model: Model, x: npt.ArrayLike) -> list[dict[str, TimeMask]]:
    """Return the argument `mask` of each layer's `forward`, for layers that are called one by one on inputs x."""
    mask = model.mask_of(x)
    masks: list[dict[str, TimeMask]] = []
    for layer, plan in zip(model.layers, model.plan.layers, strict=True):
        masks.append({"mask": mask} if mask is not None and layer.mask_use == "taken" else {})
        mask = mask if len(plan.output_shape) > 1 else None
    return masks


def where_not_finite(model: Model, loss: Loss, x: Any, targets: Any, weights: Any = None) -> str:
    """Run a step again and return where a value that is not finite first appears. Leaves the buffers unchanged."""
    saved = {name: buffer.copy() for name, buffer in model.buffers.items()}
    try:
        checked_step(model, loss, x, targets, weights)
    except NotFiniteError as error:
        return str(error)
    finally:
        for name, buffer in saved.items():
            model.buffers[name][...] = buffer
    return NOWHERE


def _check_finite(array: npt.NDArray[Any], message: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NotFiniteError(message)
