"""Convolutions and transposed convolutions: an output and an element of each gradient as the sum of its products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specnet.inspection.explanations.grids import SMALL, added, compact, grid, number, with_signs
from specnet.inspection.explanations.windows import Axis, Index, Named, Place, axes_of, first_and_largest, images
from specnet.inspection.trace import AnyArray, LayerTrace
from specnet.layers.spatial.conv import settings_of
from specnet.layers.spatial.windows import find_windows

MOST_MATRICES = 2
"""How many products of matrices are shown for an element, if not all of them are small."""


def convolution_forward(layer: LayerTrace) -> Iterator[str]:
    """Yield the definition of y, the arrays, and the first and the largest output as sums."""
    convolution = _Convolution.of(layer)
    bias = layer.parameters.get("bias")
    yield convolution.definition(has_bias=bias is not None)
    yield from convolution.x.lines()
    yield from convolution.weight.lines()
    if bias is not None:
        yield f"bias = {compact(bias)}"
    yield ""
    for place, word in first_and_largest(convolution.y.array):
        yield from convolution.output(place, word, bias)
    yield from convolution.y.lines()


def convolution_backward(layer: LayerTrace) -> Iterator[str]:
    """Yield dy, and for each gradient one element as a sum and the array."""
    assert layer.dy is not None
    assert layer.dx is not None
    convolution, dy, dx = _Convolution.of(layer), images("dy", layer.dy), images("dx", layer.dx)
    gradient = convolution.weight._replace(name="dweight", array=convolution.as_kernel(layer.gradients["weight"]))
    yield from dy.lines()
    yield ""
    yield "The first element of dweight:"
    yield from convolution.weight_gradient(dy, gradient)
    yield from gradient.lines()
    if "bias" in layer.gradients:
        yield f"dbias = {layer.formulas['dbias']}"
        yield f"      = {compact(layer.gradients['bias'])}"
    yield ""
    yield "An element in the middle of dx:"
    yield from convolution.input_gradient(dy, dx)
    yield from dx.lines()


@dataclass(frozen=True)
class _Convolution:
    """The arrays of a convolution, and its windows: over x, or over y if it is a transposed one."""

    x: Named
    y: Named
    weight: Named
    rows: Axis
    columns: Axis
    groups: int
    is_transposed: bool

    @classmethod
    def of(cls, layer: LayerTrace) -> _Convolution:
        x, y = images("x", layer.x), images("y", layer.y)
        is_transposed = layer.type.startswith("conv_transpose")
        settings = settings_of(layer.fields, 1 if x.is_sequence else 2)
        rows, columns = axes_of(find_windows(settings, (y if is_transposed else x).size))
        weight = layer.parameters["weight"]
        kernel = Named("weight", weight[np.newaxis] if x.is_sequence else weight, x.is_sequence, rows=0)
        return cls(x, y, kernel, rows, columns, settings.groups, is_transposed)

    def as_kernel(self, array: AnyArray) -> AnyArray:
        """Return an array of the weight's shape with an axis of rows."""
        return array.reshape(self.weight.array.shape)

    @property
    def channels(self) -> int:
        """The number of channels of each group."""
        return self.weight.array.shape[2]

    @property
    def filters(self) -> int:
        """The number of filters of each group."""
        return self.weight.array.shape[3] // self.groups

    def definition(self, *, has_bias: bool) -> str:
        """Return y as a formula of its indices."""
        plus = " + bias[f]" if has_bias else ""
        padded = not self.is_transposed and (self.rows.has_padding or self.columns.has_padding)
        zeros = ", where x is 0 outside" if padded else ""
        inside = ("p", "q") if not self.x.is_sequence else ("p",)
        taps = ("i", "j") if not self.x.is_sequence else ("i",)
        axes = (self.rows, self.columns) if not self.x.is_sequence else (self.columns,)
        places = [_place_text(axis, *names) for axis, *names in zip(axes, inside, taps, strict=True)]
        channel = "c" if self.groups == 1 else f"f // {self.filters} * {self.channels} + c"
        x_place, y_place = (inside, places) if self.is_transposed else (places, inside)
        x = f"x[n, {', '.join(x_place)}, {channel}]"
        y = f"y[n, {', '.join(y_place)}, f]"
        over = ", ".join(([*inside] if self.is_transposed else []) + [*taps, "c"])
        return f"{y} = the sum over {over} of {x} * weight[{', '.join(taps)}, c, f]{plus}{zeros}"

    def output(self, place: Place, word: str, bias: AnyArray | None) -> Iterator[str]:
        """Yield an output as the sum of x times the weight, over the window and the channels."""
        n, row, column, f = place
        meet = Axis.of_input if self.is_transposed else Axis.of_window
        (down, i), (right, j) = meet(self.rows, row), meet(self.columns, column)
        group, channels = f // self.filters, np.arange(self.channels)
        x_part: Index = (n, down, right, group * self.channels + channels)
        plus = [] if bias is None else [(f"bias[{f}]", float(bias[f]))]
        yield f"The {word} output:"
        yield from _sum(self.y, place, (self.x, x_part), (self.weight, (i, j, channels, f)), "channel", plus)

    def weight_gradient(self, dy: Named, gradient: Named) -> Iterator[str]:
        """Yield the first element of dweight as the sum of x times dy, over the batch and all positions."""
        (places, windows), (right, across) = self.rows.of_first_tap(), self.columns.of_first_tap()
        x_at, y_at = (
            ((windows, across), (places, right)) if self.is_transposed else ((places, right), (windows, across))
        )
        batch = np.arange(len(dy.array))
        yield from _sum(gradient, (0, 0, 0, 0), (self.x, (batch, *x_at, 0)), (dy, (batch, *y_at, 0)), "input", [])

    def input_gradient(self, dy: Named, dx: Named) -> Iterator[str]:
        """Yield the middle element of the first dx as the sum of dy times the weight, over what x contributed to."""
        _, height, width, _ = dx.array.shape
        row, column = height // 2, width // 2
        meet = Axis.of_window if self.is_transposed else Axis.of_input
        (down, i), (right, j) = meet(self.rows, row), meet(self.columns, column)
        filters = np.arange(self.filters)
        yield from _sum(
            dx, (0, row, column, 0), (dy, (0, down, right, filters)), (self.weight, (i, j, 0, filters)), "filter", []
        )


def _place_text(axis: Axis, window: str, tap: str) -> str:
    """Return the input that a window has at a tap: 2 * p + i - 1."""
    stride = "" if axis.stride == 1 else f"{axis.stride} * "
    dilation = "" if axis.dilation == 1 else f"{axis.dilation} * "
    return f"{stride}{window} + {dilation}{tap}" + (f" - {axis.before}" if axis.before else "")


def _sum(
    target: Named,
    place: Place,
    left: tuple[Named, Index],
    right: tuple[Named, Index],
    plane: str,
    plus: list[tuple[str, float]],
) -> Iterator[str]:
    """Yield an element as a sum of products: the formula, the products of each `plane`, the numbers and the result."""
    name, value = target.text(place), number(float(target.array[place]))
    a, b = left[0].matrices(left[1]), right[0].matrices(right[1])
    products = a * b
    if not products.size:
        yield f"{name} = {value}: no product contributes to it, only padding or nothing meets here"
        yield ""
        return
    margin, also = " " * len(name), "".join(f" + {text}" for text, _ in plus)
    factors = f"{left[0].text(left[1])} * {right[0].text(right[1])}"
    yield f"{name} = {factors}{also}" if products.size == 1 else f"{name} = ({factors}).sum(){also}"
    shown = _shown_planes(products)
    for index in range(shown):
        matrices = [grid(matrix) for matrix in (a[index], b[index], products[index])]
        label = f"{plane} {index}: " if len(products) > 1 else ""
        for number_of_line, line in enumerate(with_signs(matrices, ["*", "="])):
            yield f"{margin}   {label if number_of_line == 0 else ' ' * len(label)}{line}"
    if 0 < shown < len(products):
        yield f"{margin}   ... and {len(products) - shown} more {plane}s"
    numbers = _added_products(products, plane, [term for _, term in plus])
    yield from (f"{margin} = {text}" for text in dict.fromkeys((numbers, value)))
    yield ""


def _shown_planes(products: AnyArray) -> int:
    """Return how many planes of products are shown as matrices."""
    if products.size <= SMALL:
        return len(products)
    return min(len(products), MOST_MATRICES) if products[0].size <= SMALL else 0


def _added_products(products: AnyArray, plane: str, plus: list[float]) -> str:
    """Return the sum of products as text: each product if they are few, else the sum of each plane."""
    if products.size <= SMALL:
        return added(map(number, [*products.reshape(-1).tolist(), *plus]))
    if 1 < len(products) <= SMALL:
        sums = added(map(number, [*products.sum(axis=(1, 2)).tolist(), *plus]))
        return f"{sums}  (the sum of each {plane}{', and the bias' if plus else ''})"
    return added([f"(the sum of {products.size:,} products)", *map(number, plus)])
