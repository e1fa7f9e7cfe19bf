"""Record every array of one forward and one backward pass through a model, layer by layer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats
from specnet.errors import SpecnetError
from specnet.files.atomic import write_file
from specnet.layer import Layer
from specnet.model import Model
from specnet.training.finite_check import layer_masks
from specnet.training.losses.base import Loss

AnyArray = npt.NDArray[Any]
FEWEST_ROWS = 8
"""Dead units are counted only in batches of at least this many rows."""


@dataclass(frozen=True)
class LayerTrace:
    """Copies of the arrays of one layer; without a backward pass, `dy` and `dx` are None and `gradients` is empty.

    `fields` are the keys of the layer's document. `x` and `y` are input and output. `dy` and `dx` are the gradients of
    the loss with respect to y and x; dx is None for integer inputs. The keys of `parameters` and `gradients` are the
    parameter names within the layer. `mask`, (batch, time), tells a layer that mixes steps which of them count; None if
    all do.
    """

    name: str
    type: str
    fields: dict[str, Any]
    formulas: dict[str, str]
    x: AnyArray
    y: AnyArray
    parameters: dict[str, AnyArray]
    buffers: dict[str, AnyArray]
    dy: AnyArray | None = None
    dx: AnyArray | None = None
    gradients: dict[str, AnyArray] = field(default_factory=dict)
    mask: AnyArray | None = None

    def dead_units(self) -> int | None:
        """Count the outputs that are 0 for every row; None for layers other than ReLU, or below FEWEST_ROWS rows."""
        if self.type != "relu" or len(self.y) < FEWEST_ROWS:
            return None
        return int(np.sum((self.y == 0).all(axis=0)))


@dataclass(frozen=True)
class Trace:
    """The trace of one input: the layers in order, the loss (None without targets), and warnings as text."""

    name: str
    x: AnyArray
    layers: tuple[LayerTrace, ...]
    loss: float | None
    warnings: tuple[str, ...]

    @property
    def y(self) -> AnyArray:
        """The model's outputs."""
        return self.layers[-1].y


def trace(
    model: Model,
    x: npt.ArrayLike,
    *,
    dy: npt.ArrayLike | None = None,
    targets: npt.ArrayLike | None = None,
    loss: Loss | None = None,
    training: bool = False,
) -> Trace:
    """Run a forward pass of x, (batch, *input_shape), and a backward pass if `dy`, or `targets` and `loss`, are given.

    The model's own layers compute and overwrite their caches, so the model needs a new forward pass before `backward`.
    Gradients and buffers are restored. A composite is one step. Raises ShapeError for arrays that do not fit, and
    SpecnetError for targets without a loss.
    """
    if targets is not None and (loss is None or dy is not None):
        msg = "trace: targets need a loss, and exclude dy"
        raise SpecnetError(msg)
    model.predict(x)  # checks the shapes before the trace changes the model
    buffers = {name: buffer.copy() for name, buffer in model.buffers.items()}
    gradients = model.store.gradient_vector.copy()
    try:
        return _trace(model, x, dy, targets, loss, training)
    finally:
        model.forget_forward()
        model.store.gradient_vector[...] = gradients
        for name, buffer in buffers.items():
            model.buffers[name][...] = buffer


def _trace(
    model: Model,
    x: npt.ArrayLike,
    dy: npt.ArrayLike | None,
    targets: npt.ArrayLike | None,
    loss: Loss | None,
    training: bool,
) -> Trace:
    inputs = np.asarray(x).astype(model.input_dtype)
    arrays, value = [inputs], inputs
    buffers = {layer.name: {name: buffer.copy() for name, buffer in layer.buffers.items()} for layer in model.layers}
    all_masks = layer_masks(model, inputs)
    for layer, masks in zip(model.layers, all_masks, strict=True):
        value = layer.forward(value, training, **masks)
        arrays.append(value.copy())
    mean_loss = None
    if targets is not None and loss is not None:
        mean_loss, dy = loss(value, targets, None, model.output_mask(inputs))
    backward = _backward(model, None if dy is None else as_floats(dy, model.dtype, model.layers[-1].name))
    layers = tuple(
        LayerTrace(
            spec.name,
            spec.type,
            spec.fields(),
            _formulas(layer, x_in),
            x_in,
            y_out,
            {name: parameter.copy() for name, parameter in layer.parameters.items()},
            buffers[layer.name],
            **backward_arrays,
            **masks,
        )
        for spec, layer, x_in, y_out, backward_arrays, masks in zip(
            model.spec.layers, model.layers, arrays, arrays[1:], backward, all_masks, strict=False
        )
    )
    return Trace(model.plan.name, inputs, layers, mean_loss, tuple(_warnings(layers)))


def _backward(model: Model, dy: AnyArray | None) -> list[dict[str, Any]]:
    """Run the backward pass and return dy, dx and gradients for each layer; empty dicts without dy."""
    if dy is None:
        return [{}] * len(model.layers)
    arrays: list[dict[str, Any]] = []
    upstream: AnyArray | None = dy
    for layer in reversed(model.layers):
        assert upstream is not None  # only the first layer may return None, for integer inputs
        dx = layer.backward(upstream)
        gradients = {name: layer.gradient(name).copy() for name in layer.parameters}
        arrays.append({"dy": upstream.copy(), "dx": None if dx is None else dx.copy(), "gradients": gradients})
        upstream = dx
    return arrays[::-1]


def _formulas(layer: Layer, x: AnyArray) -> dict[str, str]:
    """Return the formulas that are valid for x; those that sum over the batch axis are valid for 2-D x only."""
    over_rows = ("axis=0", "x.T")
    return {k: f for k, f in layer.formulas.items() if x.ndim == 2 or not any(sign in f for sign in over_rows)}


def _warnings(layers: tuple[LayerTrace, ...]) -> Iterator[str]:
    for layer in layers:
        dead, units = layer.dead_units(), math.prod(layer.y.shape[1:])
        if dead:
            rows = f"all {len(layer.y)} rows"
            yield f"{layer.name}: {dead} of {units} units are 0 for {rows}; they are dead, or inactive for these rows"
        for subject, array in (("outputs are", layer.y), ("gradient is", layer.dx)):
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                yield f"{layer.name}: its {subject} not finite"


def save_trace(path: str | os.PathLike[str], traced: Trace) -> None:
    """Write a trace to an HDF5 file, atomically: /input, /layers/<n>_<name>/x, y, dy, dx, parameters and gradients.

    A layer that takes the mask of padded sequences also has mask. The groups parameters/ and gradients/ of a layer
    contain its arrays. Layers are numbered from 01 in their order and have the attributes type and name. /loss exists
    if there were targets. Raises SpecnetError if writing fails.
    """
    import h5py  # noqa: PLC0415 - heavy, and needed for this format only

    with h5py.File("trace", "w", driver="core", backing_store=False) as file:
        file.attrs["format"] = "specnet-trace/1"
        file.attrs["model"] = traced.name
        file["input"] = traced.x
        if traced.loss is not None:
            file["loss"] = traced.loss
        digits = len(str(len(traced.layers)))
        for number, layer in enumerate(traced.layers, 1):
            group = file.create_group(f"layers/{number:0{max(digits, 2)}}_{layer.name}")
            group.attrs["type"], group.attrs["name"] = layer.type, layer.name
            for name in ("x", "mask", "y", "dy", "dx"):
                array = getattr(layer, name)
                if array is not None:
                    group[name] = array
            for kind in ("parameters", "gradients"):
                for name, array in getattr(layer, kind).items():
                    group[f"{kind}/{name}"] = array
        file.flush()
        image = file.id.get_file_image()
    write_file(path, image, SpecnetError)
