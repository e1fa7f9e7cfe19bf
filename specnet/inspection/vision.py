"""What a classifier of images sees: the filters of its first convolution, feature maps, and saliency maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.composite import Composite
from specnet.errors import ShapeError, SpecnetError
from specnet.inspection.trace import AnyArray
from specnet.layer import Layer
from specnet.layerspec import LayerSpec
from specnet.model import Model, assemble
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec

MOST_MAPS = 8
MOST_FILTERS = 64
SQUARES = (64, 784)
"""Vectors of these sizes are shown as images of 8 x 8 and 28 x 28."""
LEAST_SIDE = 4
NORMALIZING = ("softmax", "log_softmax", "sigmoid")
"""Layers that turn the scores of classes into probabilities, if they are a model's last one."""


@dataclass(frozen=True)
class Filters:
    """The filters of the first 2-D convolution: (filters, height, width), or (..., 3) for the colours of an image.

    `layer` is its full name. With other numbers of channels, `weight` is the mean over them. `count` is the number of
    filters of the layer, of which at most 64 are here.
    """

    layer: str
    weight: AnyArray
    channels: int
    count: int


@dataclass(frozen=True)
class View:
    """How a model reads one image: `image` and `saliency` (height, width), or `image` (height, width, 3).

    `saliency` is |∂score/∂pixel| for the predicted class, the largest of all channels. `maps` are the first feature
    maps, (height, width, maps), with no maps if the model has no convolution.
    """

    image: AnyArray
    saliency: AnyArray
    maps: AnyArray


@dataclass(frozen=True)
class Views:
    """The views of several images; the maps are the first of `channels` outputs of `layer`, "" if there is none."""

    views: tuple[View, ...]
    layer: str = ""
    channels: int = 0


def image_shape(spec: ModelSpec) -> ShapeTuple | None:
    """Return the shape (height, width) or (height, width, 3) of an input as an image; None if it is none.

    Two axes may as well be a sequence of vectors. They are taken for an image if the first layer that changes their
    shape is flatten, reshape or a layer over two axes.
    """
    shape = spec.input_shape
    if spec.layers[0].input_limit is not None:
        return None
    if len(shape) == 1 and shape[0] in SQUARES:
        side = int(np.sqrt(shape[0]))
        return side, side
    if not 2 <= len(shape) <= 3 or min(shape[:2]) < LEAST_SIDE:
        return None
    if len(shape) == 3:
        return {1: shape[:2], 3: shape}.get(shape[2])
    for _, layer, plan in spec.walk():
        if plan.output_shape != plan.input_shape and not isinstance(layer, CompositeSpec):
            return shape if layer.type in ("flatten", "reshape") or layer.type.endswith("2d") else None
    return None


def first_filters(model: Model) -> Filters | None:
    """Return the filters of the first 2-D convolution; None if the model has none."""
    name = next((name for name, spec, _ in model.spec.walk() if spec.type == "conv2d"), None)
    if name is None:
        return None
    weight = np.moveaxis(model.parameters[f"{name}.weight"].astype(np.float64), -1, 0)
    count, _, _, channels = weight.shape
    is_coloured = channels == 3 and len(image_shape(model.spec) or ()) == 3
    shown = weight[:MOST_FILTERS]
    return Filters(name, shown if is_coloured else shown.mean(axis=3), channels, count)


def look(model: Model, x: npt.NDArray[Any], classes: npt.NDArray[np.intp]) -> Views | None:
    """Return how a classifier reads images x as `classes`, the predicted ones; None if its inputs are no images."""
    shape = image_shape(model.spec)
    if shape is None or len(model.output_shape) != 1 or not len(x):
        return None
    x = x.astype(model.dtype)
    specs = {name: spec for name, spec, _ in model.spec.walk()}
    with np.errstate(all="ignore"):  # values that are not finite are shown as such, without a warning
        strengths = saliency(model, x, classes).reshape(len(x), *shape)
        found = _first_maps(model.layers, x, specs)
    strengths = strengths if len(shape) == 2 else strengths.max(axis=3)
    layer, maps = found or ("", np.empty((len(x), 0, 0, 0), x.dtype))
    views = (
        View(image, strength, channels[..., :MOST_MAPS].copy())
        for image, strength, channels in zip(x.reshape(-1, *shape), strengths, maps, strict=True)
    )
    return Views(tuple(views), layer, maps.shape[3])


def saliency(model: Model, x: npt.ArrayLike, classes: npt.ArrayLike) -> Array:
    """Return |∂score/∂x|, of the shape of x: how strongly each input changes the score of the class of its row.

    The score is the output before a softmax or sigmoid at the end of the model: a probability near 1 hardly changes, so
    its gradient is nearly 0 for every input. Changes nothing on the model. Raises ShapeError, and SpecnetError for
    classes that do not fit and for a model of integers, which has no such gradient.
    """
    scorer = _without_normalization(model)
    scores = scorer.forward(x)
    if scores.ndim != 2:
        msg = f"saliency: expected a classifier with outputs (batch, classes), got outputs of shape {scores.shape}"
        raise ShapeError(msg)
    count = max(scores.shape[1], 2)  # a single score decides between two classes
    indices = np.asarray(classes)
    if (
        indices.shape != (len(scores),)
        or indices.dtype.kind not in "iu"
        or not ((indices >= 0) & (indices < count)).all()
    ):
        msg = f"saliency: expected one class from 0 to {count - 1} for each of {len(scores)} rows, got {classes!r:.80}"
        raise SpecnetError(msg)
    dy = np.zeros_like(scores)
    dy[np.arange(len(dy)), indices if scores.shape[1] > 1 else 0] = 1
    dx = scorer.backward(dy)
    if dx is None:
        msg = f"saliency: {model.plan.name} takes integers, which have no gradient"
        raise SpecnetError(msg)
    return np.abs(dx)


def _without_normalization(model: Model) -> Model:
    """Return a model with the parameters of `model`, shared, its buffers, and gradients and caches of its own."""
    last = len(model.layers) - (len(model.layers) > 1 and model.spec.layers[-1].type in NORMALIZING)
    plan = replace(model.plan, layers=model.plan.layers[:last])
    scorer = assemble(plan, lambda: model.spec, model.parameters)
    for name, buffer in model.buffers.items():
        scorer.buffers[name][...] = buffer
    return scorer


def _first_maps(layers: Sequence[Layer], x: Array, specs: Mapping[str, LayerSpec]) -> tuple[str, Array] | None:
    """Return the name and the output of the first 2-D convolution, or of its activation; None without a convolution."""
    for index, layer in enumerate(layers):
        if specs[layer.name].type == "conv2d":
            return _activated(layers[index:], x, specs)
        for chain in layer.chains if isinstance(layer, Composite) else ():
            found = _first_maps(chain.layers, x, specs)
            if found is not None:
                return found
        x = layer.predict(x)
    return None


def _activated(layers: Sequence[Layer], x: Array, specs: Mapping[str, LayerSpec]) -> tuple[str, Array]:
    """Return name and output of the activation that follows a convolution, maybe after a norm; else its own."""
    first, *following = layers
    y = convolved = first.predict(x)
    for layer in following:
        spec = specs[layer.name]
        y = layer.predict(y)
        if spec.is_activation and y.shape == convolved.shape:
            return layer.name, y
        if not spec.transparent:
            break
    return first.name, convolved
