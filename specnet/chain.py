"""Layers one behind the other: what a model and the composite layers are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, TypeVar

import numpy.typing as npt

from specnet.arrays.parameters import Array
from specnet.layer import Layer

T = TypeVar("T")

KEPT_ROWS = 1024
"""Up to so many rows, the intermediate arrays of `predict` are kept for the next call of the thread."""


class Chain:
    """Runs layers in turn; the arrays between them are made at the first call and used again while x keeps its shape.

    The last result is the caller's, or, with `keeps_last`, the chain's own like those between, whatever `out` is.
    Without layers it passes on what it gets.
    """

    def __init__(self, layers: Sequence[Layer], *, keeps_last: bool = False) -> None:
        self.layers = tuple(layers)
        self.keeps_last = keeps_last
        self._last = len(self.layers) - 1
        self._forwards = [_taking_out(layer.forward) for layer in layers]
        self._backwards = [_taking_out(layer.backward) for layer in layers]
        self._predicts = [_taking_out(layer.predict) for layer in layers]
        self._trained = [index for index, layer in enumerate(layers) if layer.parameters]
        self._fits: tuple[object, object] | None = None  # shape and dtype of the x that the arrays below are for
        self._outputs: list[Array | None] = []
        self._input_gradients: list[Array | None] = []
        self._scratch = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.layers, self.keeps_last)

    def forward(self, x: npt.NDArray[Any], training: bool, out: Array | None = None) -> Array:
        """Compute the last layer's output, into `out` where it is given."""
        if self._fits != (x.shape, x.dtype):
            self._fits = x.shape, x.dtype
            self._outputs = [None] * len(self.layers)
            self._input_gradients = [None] * len(self.layers)
        outputs = self._outputs
        for index, forward in enumerate(self._forwards):
            kept = outputs[index]
            if kept is not None:  # as always from the second call on
                x = forward(x, training, kept)
            elif index < self._last or self.keeps_last:
                x = outputs[index] = forward(x, training, None)
            else:
                x = forward(x, training, out)
        return x

    def backward(self, dy: Array, out: Array | None = None) -> Array | None:
        """Give ∂loss/∂x, into `out` where it is given; None where the first layer takes integers."""
        return self._back(dy, 0, out)

    def parameter_backward(self, dy: Array) -> None:
        """Fill the parameters' gradients and stop there."""
        if not self._trained:
            return
        first = self._trained[0]
        dy = self._back(dy, first + 1, None)  # not None: only the very first layer takes integers
        self.layers[first].parameter_backward(dy)

    def _back(self, dy: Array, first: int, out: Array | None) -> Any:
        kept = self._input_gradients
        for index in range(self._last, first - 1, -1):
            mine = index > 0 or self.keeps_last
            dx: Any = self._backwards[index](dy, kept[index] if mine else out)
            if mine and kept[index] is None:
                kept[index] = dx
            dy = dx
        return dy

    def predict(self, x: npt.NDArray[Any], out: Array | None = None) -> Array:
        """Compute what `forward` does outside training; several threads may call it at once."""
        outputs = self._scratch_for(x)
        for index, predict in enumerate(self._predicts):
            kept = outputs[index]
            if kept is not None:
                x = predict(x, kept)
            elif index < self._last or self.keeps_last:
                x = predict(x, None)
                if len(x) <= KEPT_ROWS:
                    outputs[index] = x
            else:
                x = predict(x, out)
        return x

    def _scratch_for(self, x: npt.NDArray[Any]) -> list[Array | None]:
        fits = x.shape, x.dtype
        outputs: list[Array | None]
        if getattr(self._scratch, "fits", None) == fits:
            outputs = self._scratch.outputs
        else:
            outputs = [None] * len(self.layers)
            self._scratch.fits, self._scratch.outputs = fits, outputs
        return outputs


def _rebuilt(layers: Sequence[Layer], keeps_last: bool) -> Chain:
    return Chain(layers, keeps_last=keeps_last)


def _taking_out(method: Callable[..., T]) -> Callable[..., T]:
    """Let a layer's method be called with `out` last, also where a custom layer does not know it."""
    if "out" in signature(method).parameters:
        return method
    return lambda *arguments: method(*arguments[:-1])
