"""Trained arrays: two flat vectors, allocated once when all shapes are known, and named views of them.

The memory is flat, the interface has names: optimizers process the vectors, users and files see `hidden.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]


ShapeTuple: TypeAlias = tuple[int, ...]


class Span(NamedTuple):
    """Parameters that are adjacent in memory and in the same group: 1-D views, not copies."""

    value: Array
    gradient: Array
    offset: int  # position of the span in the gradient vector
    group: Any


class Parameters:
    """The values and gradients of a model's parameters.

    `values` and `gradients` map full names, in document order, to views; only `move_gradients` replaces any. The
    gradients are always in one vector; the values too, unless they are passed in (from a mapped file).
    """

    def __init__(
        self, shapes: Mapping[str, ShapeTuple], dtype: npt.DTypeLike, values: Mapping[str, Array] | None = None
    ) -> None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.size = sum(sizes.values())
        self.shared_vector: Array = np.zeros(self.size + 1, dtype)
        """The gradients and one extra number, which lets processes that sum the vector exchange a value."""
        self.gradient_vector: Array = self.shared_vector[:-1]
        self.gradients = _named_views(self.gradient_vector, shapes)
        self.value_vector: Array | None = None
        if values is None:
            self.value_vector = np.zeros(self.size, dtype)
            values = _named_views(self.value_vector, shapes)
        self.values: dict[str, Array] = dict(values)

    def move_gradients(self, vector: Array) -> None:
        """Copy the gradients and the extra number into `vector`, (size + 1,), and use it in place of `shared_vector`.

        Views of the old vector, which layers and optimizers hold, are no longer gradients of the model.
        """
        vector[...] = self.shared_vector
        self.shared_vector = vector
        self.gradient_vector = vector[:-1]
        self.gradients = self.named(self.gradient_vector)

    def spans(self, group: Callable[[str], Hashable] = lambda _name: None) -> Iterator[Span]:
        """Yield the longest spans of adjacent parameters whose names `group` maps to the same key."""
        offset = 0
        separate = self.value_vector is None
        for (key, _), span in groupby(self.values, key=lambda name: (group(name), name if separate else None)):
            names = list(span)
            size = sum(self.values[name].size for name in names)
            if self.value_vector is None:
                value = self.values[names[0]].reshape(-1)
            else:
                value = self.value_vector[offset : offset + size]
            yield Span(value, self.gradient_vector[offset : offset + size], offset, key)
            offset += size

    def named(self, vector: Array) -> dict[str, Array]:
        """Return named views of another vector of the same layout (an optimizer's moments)."""
        return _named_views(vector, {name: value.shape for name, value in self.values.items()})


def _named_views(vector: Array, shapes: Mapping[str, ShapeTuple]) -> dict[str, Array]:
    views, offset = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        views[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    return views


class _Owner(Protocol):
    parameters: dict[str, Array]

    def gradient(self, name: str) -> Array: ...


class ParameterView:
    """Declares a layer's parameter in its class body: `weight = ParameterView()`.

    `layer.weight` is the array that the layer uses, or None if it has none. Change it in place (`layer.weight[...] =`,
    `layer.weight -= …`). Binding another array is refused, because that array would not be part of the model.
    """

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: _Owner, _owner: type | None = None) -> Array:
        return layer.parameters.get(self.name)  # type: ignore[return-value]

    def __set__(self, layer: _Owner, value: Array) -> None:
        if value is not layer.parameters.get(self.name):
            msg = f"{self.name} cannot be rebound; write into it in place: layer.{self.name}[...] = values"
            raise AttributeError(msg)


class GradientView:
    """Declares the gradient of a parameter: `weight_grad = GradientView("weight")`; zeros before the first backward."""

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter

    def __get__(self, layer: _Owner, _owner: type | None = None) -> Array:
        if self.parameter not in layer.parameters:
            return None  # type: ignore[return-value]
        return layer.gradient(self.parameter)

    def __set__(self, layer: _Owner, value: Array) -> None:
        if value is not self.__get__(layer):
            msg = f"the gradient of {self.parameter} cannot be rebound; write into it in place"
            raise AttributeError(msg)
