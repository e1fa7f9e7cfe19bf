"""Consecutive layers: models and composite layers consist of them.

Layers that can be computed together are: a batch norm or a convolution and its ReLU (Layer.fused_with), and, for one
row, affine layers and ReLUs (Layer.row_step), because a call from Python takes longer than their arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.layer import Layer, TimeMask

T = TypeVar("T")

MOST_DENSE = 16
"""The most affine layers in one call of kernels.dense_row."""

TIME_AXES = 3
"""The axes of sequences: batch, time, features."""

KEPT_ROWS = 1024
"""The largest batch, in rows, whose intermediate arrays `predict` keeps for the next call of the thread."""


class Chain:
    """Runs layers in turn, and reuses the arrays between them until the shape or dtype of x changes.

    A mask of padded sequences goes to every layer that takes one, until a result has no time axis any more. The last
    result belongs to the caller. With `keeps_last` it belongs to the chain, like the intermediate arrays, and
    `out` is ignored. A chain without layers returns its input.
    """

    def __init__(self, layers: Sequence[Layer], *, keeps_last: bool = False) -> None:
        self.layers = tuple(layers)
        self.keeps_last = keeps_last
        self._units = _fuse(self.layers)
        self._last = len(self._units) - 1
        self._forwards = [_with_out(unit.forward) for unit in self._units]
        self._backwards = [_with_out(unit.backward) for unit in self._units]
        self._predicts = [_with_out(unit.predict) for unit in self._units]
        self._takes_mask = [unit.mask_use == "taken" for unit in self._units]
        self._trainable = [index for index, unit in enumerate(self._units) if unit.parameters]
        self._in_place = [False] + [
            unit.in_place and _is_built_in(before) and not before.keeps_output for before, unit in pairwise(self._units)
        ]
        self._in_place_back = [unit.in_place and _is_built_in(after) for unit, after in pairwise(self._units)]
        rows = list(_split_for_rows(self._units)) if kernels.backend() == "compiled" else []
        self._rows = rows if any(each.arrays for each in rows) else []
        self._outputs_for: tuple[object, object] | None = None  # the x.shape and x.dtype that the arrays below fit
        self._outputs: list[Array | None] = []
        self._input_gradients: list[Array | None] = []
        self._thread_scratch = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_chain, (self.layers, self.keeps_last)

    def forward(
        self, x: npt.NDArray[Any], training: bool, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        """Compute the last layer's output, into `out` if it is set."""
        if self._outputs_for != (x.shape, x.dtype):
            self._outputs_for = x.shape, x.dtype
            self._outputs = [None] * len(self._units)
            self._input_gradients = [None] * len(self._units)
        outputs = self._outputs
        for index, forward in enumerate(self._forwards):
            output = outputs[index]
            if mask is not None and self._takes_mask[index]:
                forward = partial(forward, mask=mask)  # noqa: PLW2901
            if output is not None:  # always, from the second call on, but for a last result that is the caller's
                x = forward(x, training, output)
            elif index < self._last or self.keeps_last:
                is_own = self._in_place[index] and x is outputs[index - 1]
                x = outputs[index] = forward(x, training, x if is_own else None)
            else:
                x = forward(x, training, out)
            if mask is not None and x.ndim < TIME_AXES:
                mask = None
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
        self._units[first].parameter_backward(dy)

    def _backward_down_to(self, first: int, dy: Array, out: Array | None) -> Any:
        gradients = self._input_gradients
        for index in range(self._last, first - 1, -1):
            reusable = index > 0 or self.keeps_last
            target = gradients[index] if reusable else out
            if target is None and reusable and index < self._last and self._in_place_back[index]:
                target = dy if dy is gradients[index + 1] else None
            dx: Any = self._backwards[index](dy, target)
            if reusable and gradients[index] is None:
                gradients[index] = dx
            dy = dx
        return dy

    def predict(self, x: npt.NDArray[Any], out: Array | None = None, mask: TimeMask | None = None) -> Array:
        """Return the same result as `forward` outside training; thread-safe."""
        if len(x) == 1 and self._rows:
            return self._predict_row(x, out, mask)
        outputs = self._thread_outputs(x)
        for index, predict in enumerate(self._predicts):
            output = outputs[index]
            if mask is not None and self._takes_mask[index]:
                predict = partial(predict, mask=mask)  # noqa: PLW2901
            if output is not None:
                x = predict(x, output)
            elif index < self._last or self.keeps_last:
                is_own = self._in_place[index] and (x is outputs[index - 1] or len(x) > KEPT_ROWS)
                x = predict(x, x if is_own else None)
                if len(x) <= KEPT_ROWS:
                    outputs[index] = x
            else:
                x = predict(x, out)
            if mask is not None and x.ndim < TIME_AXES:
                mask = None
        return x

    def _predict_row(self, x: npt.NDArray[Any], out: Array | None, mask: TimeMask | None) -> Array:
        """Predict for a single row, as many layers in one call as possible."""
        for rows in self._rows:
            is_last = rows.stop > self._last and not self.keeps_last
            if rows.arrays and x.ndim == 2:
                y = out if is_last and out is not None else np.empty(rows.shape, x.dtype)
                if kernels.dense_row(x, y, rows.rectified, *rows.arrays):
                    x = y
                    continue
            for index in range(rows.first, rows.stop):
                predict = self._predicts[index]
                if mask is not None and self._takes_mask[index]:
                    predict = partial(predict, mask=mask)
                x = predict(x, out if is_last and index == self._last else None)
                if mask is not None and x.ndim < TIME_AXES:
                    mask = None
        return x

    def _thread_outputs(self, x: npt.NDArray[Any]) -> list[Array | None]:
        outputs_for = x.shape, x.dtype
        outputs: list[Array | None]
        if getattr(self._thread_scratch, "outputs_for", None) == outputs_for:
            outputs = self._thread_scratch.outputs
        else:
            outputs = [None] * len(self._units)
            self._thread_scratch.outputs_for, self._thread_scratch.outputs = outputs_for, outputs
        return outputs


def _is_built_in(layer: Layer) -> bool:
    """Return whether a layer's results are known to be arrays that it does not need itself, as its rules demand.

    A composite returns what its inner layers do, so they must be built in, too.
    """
    inner = (each for chain in getattr(layer, "chains", ()) for each in chain.layers)
    return type(layer).__module__.startswith("specnet.layers.") and all(map(_is_built_in, inner))


def _fuse(layers: Sequence[Layer]) -> list[Layer]:
    """Replace layers by one that computes both; not the last, because the caller may write into its result."""
    units: list[Layer] = []
    for index, layer in enumerate(layers):
        fused = units[-1].fused_with(layer) if units and index < len(layers) - 1 else None
        if fused is None:
            units.append(layer)
        else:
            units[-1] = fused
    return units


class _RowUnits(NamedTuple):
    """Units from `first` to `stop` - 1; with `arrays`, kernels.dense_row computes them in one call for a single row."""

    first: int
    stop: int
    shape: ShapeTuple = ()  # of their output for one row
    rectified: int = 0
    arrays: tuple[Array, ...] = ()


def _split_for_rows(units: Sequence[Layer]) -> Iterator[_RowUnits]:
    """Split into the longest runs of affine layers with ReLUs, with at most MOST_DENSE affine layers, and others."""
    index = 0
    while index < len(units):
        first, rectified, arrays = index, 0, list[Array]()
        while index < len(units) and (step := units[index].row_step()) is not None:
            if step == "relu":
                if not arrays:
                    break
                rectified |= 1 << (len(arrays) // 2 - 1)
            elif len(arrays) == 2 * MOST_DENSE:
                break
            else:
                arrays += step
            index += 1
        if arrays:
            yield _RowUnits(first, index, (1, len(arrays[-1])), rectified, tuple(arrays))
        else:
            index += 1
            yield _RowUnits(first, index)


def _rebuild_chain(layers: Sequence[Layer], keeps_last: bool) -> Chain:
    return Chain(layers, keeps_last=keeps_last)


def _with_out(method: Callable[..., T]) -> Callable[..., T]:
    """Return a method that takes `out` last; it ignores `out` if the method of a custom layer does not take it."""
    if "out" in signature(method).parameters:
        return method
    return lambda *arguments, **mask: method(*arguments[:-1], **mask)
