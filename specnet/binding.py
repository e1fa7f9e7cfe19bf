"""Binds layers to a model: each gets its full name, the model's draws, its gradients and its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Parameters
from specnet.arrays.randomness import Draws
from specnet.errors import SpecnetError
from specnet.layer import Layer
from specnet.plan import LayerPlan, ModelPlan


def bind_layers(
    layers: Sequence[Layer], plan: ModelPlan, store: Parameters, draws: Draws
) -> dict[str, npt.NDArray[Any]]:
    """Bind layers to the arrays of a model; return the buffers, converted to the planned shapes and dtypes."""
    expected = plan.buffer_shapes()
    buffers: dict[str, npt.NDArray[Any]] = {}
    for layer, planned in zip(layers, plan.layers, strict=True):
        _check_arrays(layer, planned, store)
        layer_buffers = {}
        for name in planned.buffers:
            shape, dtype = expected[f"{planned.name}.{name}"]
            buffer = layer.buffers[name]
            fits = (buffer.shape, buffer.dtype) == (shape, dtype)  # then the layer keeps the array that it made
            layer_buffers[name] = buffer if fits else np.array(np.broadcast_to(buffer, shape), dtype)
        gradients = {name: store.gradients[f"{planned.name}.{name}"] for name in planned.parameters}
        layer.bind(planned.name, draws, gradients, layer_buffers)
        buffers |= {f"{planned.name}.{name}": array for name, array in layer_buffers.items()}
    return buffers


def _check_arrays(layer: Layer, planned: LayerPlan, store: Parameters) -> None:
    """Check that the constructor of a layer set the arrays in its plan. Raises SpecnetError, for the layer's author."""
    label = f"{planned.name} ({type(layer).__name__})"
    kinds = (("parameters", layer.parameters, planned.parameters), ("buffers", layer.buffers, planned.buffers))
    for kind, arrays, declared in kinds:
        if arrays.keys() != declared.keys():
            msg = f"{label}: the document declares {kind} {[*declared]}, the constructor sets self.{kind} {[*arrays]}"
            raise SpecnetError(msg)
    for name, array in layer.parameters.items():
        if array is not store.values[f"{planned.name}.{name}"]:
            msg = f"{label}: the constructor must keep the array that it receives for {name}, not a copy"
            raise SpecnetError(msg)
