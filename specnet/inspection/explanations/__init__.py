"""Explanations of layers over windows: single elements of their outputs and gradients, with the numbers to check them.

`grids` writes numbers, `windows` names parts of arrays; each family of layers has a module. Imports `layers`, and of
`inspection` only `trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from specnet.inspection.explanations.convolutions import convolution_backward, convolution_forward
from specnet.inspection.explanations.pools import pool_backward, pool_forward
from specnet.inspection.trace import LayerTrace

Lines: TypeAlias = Callable[[LayerTrace], Iterator[str]]

EXPLANATIONS: Mapping[str, tuple[Lines, Lines]] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"), (convolution_forward, convolution_backward)
    ),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "average_pool1d", "average_pool2d"), (pool_forward, pool_backward)),
}
"""By type of layer: the functions that yield the lines of its forward and its backward pass."""
