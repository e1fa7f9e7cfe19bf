"""Spatial layers in float64, in which ONNX Runtime has no convolution, no average pool and no Resize.

They are composed of elementary operators, with the channels on the second axis. A convolution is a matrix product of
the weight with all windows, a transposed one the same with zeros between its inputs. What averages or interpolates is
a matrix for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from specnet.arrays.parameters import Array
from specnet.errors import SpecnetError
from specnet.interop.onnx.graph import Graph, GraphLayer
from specnet.layer import Layer
from specnet.layers.spatial.pool import AveragePool1d
from specnet.layers.spatial.upsample import Upsample1d
from specnet.layers.spatial.windows import Pair, Windows

LARGEST_MATRIX = 2**22
"""The most numbers of a matrix that averages or interpolates."""


def conv(graph: Graph, layer: GraphLayer, inputs: Sequence[str], windows: Windows) -> str:
    """Add a convolution; `inputs` are the value, the weight (filters, channels / groups, *kernel) and the bias."""
    x, weight, *bias = inputs
    axes, groups = layer.rank - 2, windows.groups
    x = _pad(graph, layer, x, windows.padding[2 - axes :])
    filters, taps = layer.fields["filters"], windows.kernel[0] * windows.kernel[1]
    per_group = layer.plan.input_shape[-1] // groups * taps
    weight = _reshape(graph, layer, "matrix", weight, [groups, filters // groups, per_group])
    patches = _reshape(graph, layer, "patches", _patches(graph, layer, x, windows), [0, groups, per_group, -1])
    return _shaped(graph, layer, graph.node("MatMul", [weight, patches]), bias)


def conv_transpose(graph: Graph, layer: GraphLayer, inputs: Sequence[str], windows: Windows) -> str:
    """Add a transposed convolution; `inputs` as above, with the weight (channels, filters / groups, *kernel).

    With stride - 1 zeros behind each input, it is the convolution with the reversed kernel.
    """
    x, weight, *bias = inputs
    axes, groups = layer.rank - 2, windows.groups
    channels, filters = layer.plan.input_shape[-1], layer.fields["filters"]
    taps = windows.kernel[0] * windows.kernel[1]
    shape = [groups, channels // groups, filters // groups, taps]
    weight = graph.node("Transpose", [_reversed_kernel(graph, layer, weight, shape)], perm=[0, 2, 1, 3])
    weight = _reshape(graph, layer, "matrix", weight, [groups, filters // groups, channels // groups * taps])
    stride, sizes = windows.stride[2 - axes :], layer.plan.input_shape[:-1]
    x = _spread(graph, layer, x, stride)
    edges = []
    for axis, size, step in zip(range(2 - axes, 2), sizes, stride, strict=True):
        reach = windows.dilation[axis] * (windows.kernel[axis] - 1)
        before = reach - windows.padding[axis][0]
        edges.append((before, windows.size[axis] + reach - before - size * step))
    x = _pad(graph, layer, x, edges)
    dense = replace(windows, output=windows.size, stride=(1, 1))
    patches = [0, groups, channels // groups * taps, -1]
    x = _reshape(graph, layer, "patches", _patches(graph, layer, x, dense), patches)
    return _shaped(graph, layer, graph.node("MatMul", [weight, x]), bias)


def average_pool(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    """Add an average pool. The count of positions of a window is the product of those along its axes."""
    pools = [
        AveragePool1d(
            windows.kernel[axis], windows.stride[axis], [windows.padding[axis]], layer.fields["count_padding"]
        )
        for axis in range(4 - layer.rank, 2)
    ]
    return _along_axes(graph, layer, x, pools)


def upsample(graph: Graph, layer: GraphLayer, x: str) -> str:
    """Add an upsample layer."""
    interpolation: Literal["nearest", "linear"] = "nearest" if layer.fields["interpolation"] == "nearest" else "linear"
    return _along_axes(graph, layer, x, [Upsample1d(factor, interpolation) for factor in layer.fields["size"]])


def _along_axes(graph: Graph, layer: GraphLayer, x: str, one_axis: Sequence[Layer]) -> str:
    """Add the products with the matrices of linear layers over sequences, one for each axis.

    Raises SpecnetError for a matrix of more than LARGEST_MATRIX numbers.
    """
    matrices = []
    sizes = zip(layer.plan.input_shape[:-1], layer.plan.output_shape[:-1], strict=True)
    for inner, (size, outputs) in zip(one_axis, sizes, strict=True):
        numbers = size * max(size, outputs)
        if numbers > LARGEST_MATRIX:
            wanted = f"expected a matrix of at most {LARGEST_MATRIX:,} numbers for it, got {numbers:,}"
            msg = f"{layer.name}: ONNX Runtime has no {layer.type} in float64; {wanted}; train in float32"
            raise SpecnetError(msg)
        matrices.append(inner.predict(np.eye(size)[np.newaxis])[0])
    *rows, columns = matrices
    for matrix in rows:
        x = graph.node("MatMul", [graph.array(f"{layer.name}.rows", matrix), x])
    return graph.node("MatMul", [x, graph.array(f"{layer.name}.columns", columns.T)])


def _patches(graph: Graph, layer: GraphLayer, x: str, windows: Windows) -> str:
    """Add slices of x, one for each position of the kernel; joined, they have the order (channels, kernel, output)."""
    axes = layer.rank - 2
    indices = [graph.array(f"{layer.name}.axes", np.arange(2, layer.rank))]
    indices.append(graph.array(f"{layer.name}.steps", np.array(windows.stride[2 - axes :])))
    taps = []
    for tap in np.ndindex(*windows.kernel[2 - axes :]):
        starts = np.array(tap) * windows.dilation[2 - axes :]
        ends = starts + (np.array(windows.output[2 - axes :]) - 1) * windows.stride[2 - axes :] + 1
        bounds = [_numbers(graph, starts), _numbers(graph, ends)]
        taps.append(graph.node("Slice", [x, *bounds, *indices]))
    return graph.node("Concat", taps, axis=2)


def _reversed_kernel(graph: Graph, layer: GraphLayer, weight: str, shape: Sequence[int]) -> str:
    """Add a reshape of the weight to (groups, channels / groups, filters / groups, taps), and reverse its taps."""
    weight = _reshape(graph, layer, "taps", weight, shape)
    bounds = [_numbers(graph, [number]) for number in (-1, -shape[3] - 1, 3, -1)]
    return graph.node("Slice", [weight, *bounds])


def _spread(graph: Graph, layer: GraphLayer, x: str, stride: Sequence[int]) -> str:
    """Put stride - 1 zeros behind each input, along each axis."""
    *sizes, channels = layer.plan.input_shape
    apart = [number for size in sizes for number in (size, 1)]
    x = _reshape(graph, layer, "apart", x, [0, channels, *apart])
    zeros = [number for step in stride for number in (0, step - 1)]
    x = graph.node("Pad", [x, _numbers(graph, [0] * (2 + len(zeros)) + [0, 0, *zeros])])
    spread = [size * step for size, step in zip(sizes, stride, strict=True)]
    return _reshape(graph, layer, "spread", x, [0, channels, *spread])


def _pad(graph: Graph, layer: GraphLayer, x: str, edges: Sequence[Pair]) -> str:
    """Add zeros at the edges; a negative number cuts positions."""
    if not any(map(any, edges)):
        return x
    before, behind = zip(*edges, strict=True)
    pads = graph.array(f"{layer.name}.pads", np.array([0, 0, *before, 0, 0, *behind]))
    return graph.node("Pad", [x, pads])


def _shaped(graph: Graph, layer: GraphLayer, x: str, bias: Sequence[str]) -> str:
    """Add the reshape of (batch, groups, filters / groups, positions) to the output's shape, and the bias."""
    *sizes, filters = layer.plan.output_shape
    x = _reshape(graph, layer, "output", x, [0, filters, *sizes])
    behind = [1] * len(sizes)
    return (
        graph.node("Add", [x, *(_reshape(graph, layer, "behind", name, [-1, *behind]) for name in bias)]) if bias else x
    )


def _reshape(graph: Graph, layer: GraphLayer, name: str, x: str, shape: Sequence[int]) -> str:
    return graph.node("Reshape", [x, graph.array(f"{layer.name}.{name}", np.array(shape))])


def _numbers(graph: Graph, values: Sequence[int] | Array) -> str:
    return graph.array(f"numbers_{len(graph.arrays)}", np.array(values, np.int64))
