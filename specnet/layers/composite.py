"""Composite layers: sequential, residual, concat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.composite import Composite
from specnet.errors import KeyPath, ShapeError, SpecnetError
from specnet.layer import Layer


class Sequential(Composite):
    """y = last(… second(first(x))): a list of layers with one name."""

    keeps_last = False

    def __init__(self, layers: Sequence[Layer], names: Iterable[str] | None = None) -> None:
        if not layers:
            msg = "sequential: expected at least one layer"
            raise SpecnetError(msg)
        super().__init__([layers], names)

    @classmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        return [(("layers",), fields.get("layers"))]

    @classmethod
    def join(cls, outputs: Sequence[ShapeTuple]) -> ShapeTuple:
        return outputs[0]

    @classmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        return cls(lists[0], names)

    def _join_results(self, results: Sequence[Array], out: Array | None) -> Array:
        return results[0]

    def _split_gradient(self, dy: Array) -> Sequence[Array]:
        return [dy]


class Residual(Composite):
    """y = layers(x) + shortcut(x); an empty shortcut returns x (He et al. 2016)."""

    def __init__(
        self, layers: Sequence[Layer], shortcut: Sequence[Layer] = (), names: Iterable[str] | None = None
    ) -> None:
        super().__init__([layers, shortcut], names)

    @classmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        return [(("layers",), fields.get("layers")), (("shortcut",), fields.get("shortcut", ()))]

    @classmethod
    def join(cls, outputs: Sequence[ShapeTuple]) -> ShapeTuple:
        main, shortcut = outputs
        if main != shortcut:
            msg = (
                f"the layers return shape {main}, the shortcut {shortcut}, and both are added; "
                "make the shapes equal, for example with layers in the shortcut"
            )
            raise ShapeError(msg)
        return main

    @classmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        return cls(lists[0], lists[1], names)

    def _join_results(self, results: Sequence[Array], out: Array | None) -> Array:
        main, shortcut = results
        if main.shape != shortcut.shape:
            msg = f"{self.name}: the layers return shape {main.shape}, the shortcut {shortcut.shape}; make them equal"
            raise ShapeError(msg)
        return np.add(main, shortcut, out)

    def _split_gradient(self, dy: Array) -> Sequence[Array]:
        return [dy, dy]


class Concat(Composite):
    """y = the outputs of the branches, concatenated on the last axis; an empty branch returns x."""

    def __init__(self, branches: Sequence[Sequence[Layer]], names: Iterable[str] | None = None) -> None:
        super().__init__(branches, names)

    @classmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        branches = fields.get("branches")
        return [(("branches", i), b) for i, b in enumerate(branches)] if isinstance(branches, (list, tuple)) else []

    @classmethod
    def join(cls, outputs: Sequence[ShapeTuple]) -> ShapeTuple:
        for index, shape in enumerate(outputs):
            if shape[:-1] != outputs[0][:-1]:
                msg = (
                    f"branches[0] returns shape {outputs[0]}, branches[{index}] {shape}; "
                    "to be joined on the last axis, they must agree in all other axes"
                )
                raise ShapeError(msg)
        return (*outputs[0][:-1], sum(shape[-1] for shape in outputs))

    @classmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        return cls(lists, names)

    def _join_results(self, results: Sequence[Array], out: Array | None) -> Array:
        try:
            return np.concatenate(results, axis=-1, out=out)
        except ValueError:
            shapes = ", ".join(str(result.shape) for result in results)
            msg = f"{self.name}: arrays of the shapes {shapes} cannot be joined on the last axis"
            raise ShapeError(msg) from None

    def _split_gradient(self, dy: Array) -> Sequence[Array]:
        return np.split(dy, np.cumsum(self._widths)[:-1], axis=-1)
