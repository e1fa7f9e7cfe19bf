"""An ONNX Add of a vector for each step of time, which becomes a positional encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.imported_model import Arrays
from specnet.interop.onnx.builder import Entry, LayerBuilder
from specnet.interop.onnx.steps import NodeRead
from specnet.layers.sequence.positional_encoding import sinusoids


def are_positions(reader: LayerBuilder, added: npt.NDArray[Any]) -> bool:
    """Return whether a constant that is added has a number for each feature of each of several steps of time."""
    is_plain = not reader.axes and not reader.first and len(reader.shape) == 2 and reader.shape[0] > 1
    return is_plain and added.shape in (reader.shape, (1, *reader.shape))


def add_positions(reader: LayerBuilder, step: NodeRead) -> int:
    """Add a positional encoding, sinusoidal if the constant is, and return the number of nodes read."""
    name, table = step.constants[0]
    rows = table.reshape(reader.shape)
    entry: Entry = {"type": "positional_encoding"}
    arrays: Arrays = {}
    if not (rows == sinusoids(*reader.shape, rows.dtype)).all():
        entry |= {"kind": "learned", "length": len(rows)}
        arrays["weight"] = np.asarray(rows)
    reader.add(entry, arrays, name)
    return 1
