"""Explanations of layers over windows and over time: parts of their outputs and gradients, with the numbers to check.

`grids` writes numbers, `formulas` fills them in, `windows` names parts of arrays; each family of layers has a module.
Imports `layers`, and of `inspection` only `trace` and `heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from specnet.inspection.explanations import steps
from specnet.inspection.explanations.attention import attention_backward, attention_forward
from specnet.inspection.explanations.convolutions import convolution_backward, convolution_forward
from specnet.inspection.explanations.pools import pool_backward, pool_forward
from specnet.inspection.explanations.recurrent import recurrent_backward, recurrent_forward
from specnet.inspection.trace import LayerTrace

Lines: TypeAlias = Callable[[LayerTrace], Iterator[str]]

EXPLANATIONS: Mapping[str, tuple[Lines, Lines]] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"), (convolution_forward, convolution_backward)
    ),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "average_pool1d", "average_pool2d"), (pool_forward, pool_backward)),
    **dict.fromkeys(("simple_rnn", "lstm", "gru"), (recurrent_forward, recurrent_backward)),
    "attention": (attention_forward, attention_backward),
    "bidirectional": (steps.bidirectional_forward, steps.bidirectional_backward),
    "positional_encoding": (steps.positions_forward, steps.positions_backward),
    "last_step": (steps.last_step_forward, steps.last_step_backward),
    "time_average": (steps.average_forward, steps.average_backward),
    "mask": (steps.mask_forward, steps.mask_backward),
}
"""By type of layer: the functions that yield the lines of its forward and its backward pass."""
