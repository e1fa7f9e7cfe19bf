"""One forward and one backward through a model, layer by layer, with every array on the way."""

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
from specnet.training.losses.base import Loss

AnyArray = npt.NDArray[Any]
FEWEST_ROWS = 8
"""Fewer rows than this say nothing of dead units."""


@dataclass(frozen=True)
class LayerTrace:
    """One layer on the way: copies of its arrays, those of the backward None or empty where there was none.

    `x` and `y` are input and output, `dy` and `dx` the gradients of the loss with respect to them (dx None for
    integers); `parameters` and `gradients` are by the names that the layer has for them.
    """

    name: str
    type: str
    formulas: dict[str, str]
    x: AnyArray
    y: AnyArray
    parameters: dict[str, AnyArray]
    buffers: dict[str, AnyArray]
    dy: AnyArray | None = None
    dx: AnyArray | None = None
    gradients: dict[str, AnyArray] = field(default_factory=dict)

    def dead_units(self) -> int | None:
        """Count the outputs that are 0 for every row; None for another layer than a ReLU, or too few rows."""
        if self.type != "relu" or len(self.y) < FEWEST_ROWS:
            return None
        return int(np.sum((self.y == 0).all(axis=0)))


@dataclass(frozen=True)
class Trace:
    """What happened to an input: the layers in order, the loss where targets were given, and warnings in words."""

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
    """Run x, (batch, *input_shape), forward, and backward where `dy` or `targets` with a loss are given.

    The layers of the model compute, so they cache what they always do; gradients and buffers are put back, and the
    model waits for a forward. A composite is one step. Raises ShapeError for arrays that do not fit, SpecnetError for
    targets without a loss.
    """
    if targets is not None and (loss is None or dy is not None):
        msg = "trace: targets need a loss, and take the place of dy"
        raise SpecnetError(msg)
    model.predict(x)  # refuses what does not fit, before anything is changed
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
    given = np.asarray(x).astype(model.input_dtype)
    arrays, value = [given], given
    kept = {layer.name: {name: buffer.copy() for name, buffer in layer.buffers.items()} for layer in model.layers}
    for layer in model.layers:
        value = layer.forward(value, training)
        arrays.append(value.copy())
    mean = None
    if targets is not None and loss is not None:
        mean, dy = loss(value, targets)
    backs = _backward(model, None if dy is None else as_floats(dy, model.dtype, model.layers[-1].name))
    types = dict(_types(model))
    layers = tuple(
        LayerTrace(
            layer.name,
            types[layer.name],
            _formulas(layer, before),
            before,
            after,
            {name: parameter.copy() for name, parameter in layer.parameters.items()},
            kept[layer.name],
            **back,
        )
        for layer, before, after, back in zip(model.layers, arrays, arrays[1:], backs, strict=False)
    )
    return Trace(model.plan.name, given, layers, mean, tuple(_warnings(layers)))


def _backward(model: Model, dy: AnyArray | None) -> list[dict[str, Any]]:
    """Give, for each layer, what its backward took and gave."""
    if dy is None:
        return [{}] * len(model.layers)
    found: list[dict[str, Any]] = []
    passed: AnyArray | None = dy
    for layer in reversed(model.layers):
        assert passed is not None  # only the first layer takes integers
        dx = layer.backward(passed)
        gradients = {name: layer.gradient(name).copy() for name in layer.parameters}
        found.append({"dy": passed.copy(), "dx": None if dx is None else dx.copy(), "gradients": gradients})
        passed = dx
    return found[::-1]


def _formulas(layer: Layer, x: AnyArray) -> dict[str, str]:
    """Give a layer's formulas that hold for x: those that sum over the rows are of batches of vectors."""
    over_rows = ("axis=0", "x.T")
    return {k: f for k, f in layer.formulas.items() if x.ndim == 2 or not any(sign in f for sign in over_rows)}


def _types(model: Model) -> Iterator[tuple[str, str]]:
    return ((spec.name, spec.type) for spec in model.spec.layers)


def _warnings(layers: tuple[LayerTrace, ...]) -> Iterator[str]:
    for layer in layers:
        dead, units = layer.dead_units(), math.prod(layer.y.shape[1:])
        if dead:
            yield f"{layer.name}: {dead} of {units} units are 0 for all {len(layer.y)} rows; dead, or not asked"
        for what, array in (("outputs are", layer.y), ("gradient is", layer.dx)):
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                yield f"{layer.name}: its {what} not finite"


def save_trace(path: str | os.PathLike[str], traced: Trace) -> None:
    """Write a trace as an HDF5 tape, whole or not at all: /input, /layers/<n>_<name>/x, y, dy, dx and more.

    A layer's arrays stand below parameters/ and gradients/. Layers are numbered from 01 in their order; attributes say
    type and name; /loss is there where there was one. Raises SpecnetError where it cannot be written.
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
            for name in ("x", "y", "dy", "dx"):
                array = getattr(layer, name)
                if array is not None:
                    group[name] = array
            for kind in ("parameters", "gradients"):
                for name, array in getattr(layer, kind).items():
                    group[f"{kind}/{name}"] = array
        file.flush()
        image = file.id.get_file_image()
    write_file(path, image, SpecnetError)
