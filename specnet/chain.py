"""Consecutive layers: models and composite layers consist of them."""

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
"""The largest batch, in rows, whose intermediate arrays `predict` keeps for the next call of the thread."""


class Chain:
    """Runs layers in turn, and reuses the arrays between them until the shape or dtype of x changes.

    The last result belongs to the caller. With `keeps_last` it belongs to the chain, like the intermediate arrays, and
    `out` is ignored. A chain without layers returns its input.
    """

    def __init__(self, layers: Sequence[Layer], *, keeps_last: bool = False) -> None:
        self.layers = tuple(layers)
        self.keeps_last = keeps_last
        self._last = len(self.layers) - 1
        self._forwards = [_with_out(layer.forward) for layer in layers]
        self._backwards = [_with_out(layer.backward) for layer in layers]
        self._predicts = [_with_out(layer.predict) for layer in layers]
        self._trainable = [index for index, layer in enumerate(layers) if layer.parameters]
        self._outputs_for: tuple[object, object] | None = None  # the x.shape and x.dtype that the arrays below fit
        self._outputs: list[Array | None] = []
        self._input_gradients: list[Array | None] = []
        self._thread_scratch = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_chain, (self.layers, self.keeps_last)

    def forward(self, x: npt.NDArray[Any], training: bool, out: Array | None = None) -> Array:
        """Compute the last layer's output, into `out` if it is set."""
        if self._outputs_for != (x.shape, x.dtype):
            self._outputs_for = x.shape, x.dtype
            self._outputs = [None] * len(self.layers)
            self._input_gradients = [None] * len(self.layers)
        outputs = self._outputs
        for index, forward in enumerate(self._forwards):
            output = outputs[index]
            if output is not None:  # always, from the second call on
                x = forward(x, training, output)
            elif index < self._last or self.keeps_last:
                x = outputs[index] = forward(x, training, None)
            else:
                x = forward(x, training, out)
        return x

    def backward(self, dy: Array, out: Array | None = None) -> Array | None:
        """Return ∂loss/∂x, in `out` if it is set; None if the first layer takes integers."""
        return self._backward_down_to(0, dy, out)

    def parameter_backward(self, dy: Array) -> None:
        """Fill the gradients of the parameters, without computing ∂loss/∂x."""
        if not self._trainable:
            return
        first = self._trainable[0]
        dy = self._backward_down_to(first + 1, dy, None)  # not None: only the model's first layer takes integers
        self.layers[first].parameter_backward(dy)

    def _backward_down_to(self, first: int, dy: Array, out: Array | None) -> Any:
        gradients = self._input_gradients
        for index in range(self._last, first - 1, -1):
            reusable = index > 0 or self.keeps_last
            dx: Any = self._backwards[index](dy, gradients[index] if reusable else out)
            if reusable and gradients[index] is None:
                gradients[index] = dx
            dy = dx
        return dy

    def predict(self, x: npt.NDArray[Any], out: Array | None = None) -> Array:
        """Return the same result as `forward` outside training; thread-safe."""
        outputs = self._thread_outputs(x)
        for index, predict in enumerate(self._predicts):
            output = outputs[index]
            if output is not None:
                x = predict(x, output)
            elif index < self._last or self.keeps_last:
                x = predict(x, None)
                if len(x) <= KEPT_ROWS:
                    outputs[index] = x
            else:
                x = predict(x, out)
        return x

    def _thread_outputs(self, x: npt.NDArray[Any]) -> list[Array | None]:
        outputs_for = x.shape, x.dtype
        outputs: list[Array | None]
        if getattr(self._thread_scratch, "outputs_for", None) == outputs_for:
            outputs = self._thread_scratch.outputs
        else:
            outputs = [None] * len(self.layers)
            self._thread_scratch.outputs_for, self._thread_scratch.outputs = outputs_for, outputs
        return outputs


def _rebuild_chain(layers: Sequence[Layer], keeps_last: bool) -> Chain:
    return Chain(layers, keeps_last=keeps_last)


def _with_out(method: Callable[..., T]) -> Callable[..., T]:
    """Return a method that takes `out` last; it ignores `out` if the method of a custom layer does not take it."""
    if "out" in signature(method).parameters:
        return method
    return lambda *arguments: method(*arguments[:-1])
