"""Trained arrays: two flat vectors, allocated once when every shape is known, and named views of them.

Flat in memory, named to the outside: an optimizer walks the vectors, people and files see `hidden.weight`.
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
    """A span of parameters that lie side by side in memory and are treated alike: 1-D views, not copies."""

    value: Array
    gradient: Array
    offset: int  # of the span in the gradient vector
    group: Any


class Parameters:
    """The values and gradients of a model's parameters.

    `values` and `gradients` map full names, in document order, to views that are never rebound. The gradients lie
    in one vector always; the values too, unless they were given from elsewhere (a mapped file).
    """

    def __init__(
        self, shapes: Mapping[str, ShapeTuple], dtype: npt.DTypeLike, values: Mapping[str, Array] | None = None
    ) -> None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.size = sum(sizes.values())
        self.shared_vector: Array = np.zeros(self.size + 1, dtype)
        """The gradients and one number more, which processes that add them up can tell each other by."""
        self.gradient_vector: Array = self.shared_vector[:-1]
        self.gradients = _views(self.gradient_vector, shapes)
        self.value_vector: Array | None = None
        if values is None:
            self.value_vector = np.zeros(self.size, dtype)
            values = _views(self.value_vector, shapes)
        self.values: dict[str, Array] = dict(values)

    def spans(self, group: Callable[[str], Hashable] = lambda _name: None) -> Iterator[Span]:
        """Yield the longest spans of neighbours whose names `group` maps to the same key."""
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
        """Give the named views of another vector of the same layout (an optimizer's moments)."""
        return _views(vector, {name: value.shape for name, value in self.values.items()})


def _views(vector: Array, shapes: Mapping[str, ShapeTuple]) -> dict[str, Array]:
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

    `layer.weight` is the live array, or None where the layer has none. It is changed in place (`layer.weight[...] =`,
    `layer.weight -= …`); binding another array would cut it off from the model, so that is refused.
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
    """Declares the gradient of a parameter: `weight_grad = GradientView("weight")`; zeros before any backward."""

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
