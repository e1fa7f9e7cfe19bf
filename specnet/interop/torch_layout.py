"""The arrays whose layout differs in torch: weights, and features that come from a flattened image.

affine   here (in, out), there (out, in)
conv     see channels_first.py
flatten  here (height, width, channels) in a row, there (channels, height, width): the features that follow have another
         order, up to the next affine. A flatten is taken for torch's if a spatial layer comes before it in the same
         list, or within a composite of it, and between them only layers that work on each element or channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.interop.channels_first import CONVOLUTIONS, TRANSPOSED, from_channels_first, to_channels_first
from specnet.layers import FAMILIES
from specnet.layerspec import LayerSpec
from specnet.plan import LayerPlan
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec

_SPATIAL = frozenset(kind for family, row in FAMILIES.items() if family.startswith("spatial.") for kind in row)


_ON_CHANNELS = (
    *("batch_norm", "channel_dropout", "dropout", "elu", "gelu", "leaky_relu", "mish", "prelu", "relu"),
    *("selu", "sigmoid", "silu", "softplus", "tanh"),
)
"""The layers that work on each element, or on each channel, alone."""


class TorchLayout(NamedTuple):
    """How torch stores an array of this `shape`, of a layer of this type.

    `flattened` is the (height, width, channels) that its features come from, () for none.
    """

    kind: str
    shape: ShapeTuple
    groups: int
    flattened: ShapeTuple

    @property
    def is_convolution(self) -> bool:
        return self.kind in (*CONVOLUTIONS, *TRANSPOSED)

    @property
    def torch_shape(self) -> ShapeTuple:
        """The shape of the array in torch."""
        if not self.is_convolution:
            return self.shape[::-1]
        *kernel, channels, filters = self.shape
        if self.kind in TRANSPOSED:
            return channels * self.groups, filters // self.groups, *kernel
        return filters, channels, *kernel

    def to_torch(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of specnet as torch stores it."""
        if self.is_convolution:
            return to_channels_first(self.kind, array, self.groups)
        if self.flattened:
            separate = array.reshape(*self.flattened, *array.shape[1:])
            array = np.moveaxis(separate, len(self.flattened) - 1, 0).reshape(array.shape)
        return array.T

    def from_torch(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of torch, which has the `torch_shape`, as specnet has it."""
        if self.is_convolution:
            return from_channels_first(self.kind, array, self.groups)
        array = array.T
        if not self.flattened:
            return array
        *sizes, channels = self.flattened
        separate = array.reshape(channels, *sizes, *array.shape[1:])
        return np.moveaxis(separate, 0, len(sizes)).reshape(array.shape)


def torch_layouts(spec: ModelSpec) -> dict[str, TorchLayout]:
    """Return the layouts of the arrays, by full name, that torch stores in another one."""
    plan = spec.plan()
    shapes = {**plan.parameter_shapes(), **{name: shape for name, (shape, _) in plan.buffer_shapes().items()}}
    flattened = dict(_flattened(spec.layers, plan.layers, ""))
    entries = {layer: entry for layer, entry, _ in spec.walk()}
    layouts = {}
    for full, shape in shapes.items():
        layer, _, short = full.rpartition(".")
        kind, order = entries[layer].type, flattened.get(layer, ()) if shape else ()
        is_weight = short == "weight" and kind in ("affine", *CONVOLUTIONS, *TRANSPOSED)
        if is_weight or (order and kind != "affine"):
            layouts[full] = TorchLayout(kind, shape, entries[layer].fields().get("groups", 1), order)
    return layouts


def _flattened(specs: Sequence[Any], plans: Sequence[LayerPlan], prefix: str) -> Iterator[tuple[str, ShapeTuple]]:
    """Yield the name of each layer whose inputs are the features of a flattened image, and the image's shape."""
    is_spatial = False
    order: ShapeTuple = ()
    for spec, plan in zip(specs, plans, strict=True):
        full = f"{prefix}{spec.name}"
        if spec.type == "sequential":
            yield from _flattened(spec.layers, plan.layers, f"{full}.")
        if order and spec.type in ("affine", *_ON_CHANNELS):
            yield full, order
        if spec.type == "flatten" and is_spatial and plan.input_shape[-1] > 1 < math.prod(plan.input_shape[:-1]):
            order = plan.input_shape
        elif spec.type not in _ON_CHANNELS:
            order = ()
        is_spatial = _has_spatial(spec) or (
            is_spatial and (spec.type in _ON_CHANNELS or isinstance(spec, CompositeSpec))
        )


def _has_spatial(spec: LayerSpec) -> bool:
    """Return whether a layer is spatial, or contains one that is."""
    return spec.type in _SPATIAL or (isinstance(spec, CompositeSpec) and any(map(_has_spatial, spec.inside)))
