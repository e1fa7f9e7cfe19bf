"""The layers and arrays read from an ONNX graph so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.interop.channels_first import CONVOLUTIONS, TRANSPOSED
from specnet.interop.imported_model import Arrays, LayerNames, shape_after
from specnet.interop.onnx.steps import Given

Entry = dict[str, Any]


NO_EPSILON = 1e-30
"""Used instead of an epsilon of 0, which a document does not allow; the variance then already includes epsilon."""


class UnsupportedNodeError(Exception):
    """The reason why a node cannot become a layer."""


class LayerBuilder:
    """Collects layer entries and arrays by full name, and keeps the output shape of the layers so far.

    `shape` is specnet's, without the batch axis. `first` says that the graph's value has its channels on the second
    axis. `flattened` is the shape that was flattened from such a value: the graph's features are then in another order.
    `axes` names the axes of a value that has them in the order of a recurrent operator, see `sequence/axes.py`;
    `directions` is the size of the axis "d".
    """

    def __init__(self, file: str, given: Given, shape: ShapeTuple, prefix: str, names: LayerNames) -> None:
        self.file = file
        self.given = given
        self.shape = shape
        self.first = given.channels_first
        self.flattened: ShapeTuple = ()
        self.axes = ""
        self.directions = 1
        self.version = given.version
        self.integers = given.integers and shape == given.shape and not prefix
        self.prefix = prefix
        self.names = names
        self.entries: list[Entry] = []
        self.arrays: Arrays = {}
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}

    def branch(self, prefix: str, names: LayerNames) -> LayerBuilder:
        """Return a builder of layers that start at the current value."""
        inner = LayerBuilder(self.file, self.given, self.shape, prefix, names)
        inner.first, inner.flattened, inner.axes = self.first, self.flattened, self.axes
        inner.directions = self.directions
        return inner

    def add(self, entry: Entry, arrays: Arrays | None = None, source: str = "") -> None:
        """Add a layer; it is named after `source`, the name of one of its arrays in the file: "hidden.weight"."""
        kind = entry["type"]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        module = source.rpartition(".")[0].rpartition("/")[2].rpartition(".")[2]
        wanted = module if module and not module.isdecimal() else f"{kind}_{self.counts[kind]}"
        name = self.names(wanted)
        if self.integers and kind != "embedding":
            raise UnsupportedNodeError("computes with integers, the type of the graph's input")
        self.integers = False
        self.shape = shape_after(self.file, entry, self.shape)
        self.entries.append({"name": name, **entry})
        self.arrays |= {f"{self.prefix}{name}.{short}": array for short, array in (arrays or {}).items()}

    def note_use(self, weight: str) -> None:
        """Add a note if a layer already has this weight."""
        if weight in self.given.seen:
            self.notes.append(f"{weight} is used more than once; each use is now trained separately")
        self.given.seen.add(weight)

    def layer_without_bias(self) -> Entry | None:
        """Return the entry of the last layer if it has weights, but no bias; dropout after it does not count."""
        last = next((entry for entry in reversed(self.entries) if entry["type"] != "dropout"), {})
        return last if last.get("type") in ("affine", *CONVOLUTIONS, *TRANSPOSED) and not last["bias"] else None

    @property
    def features(self) -> int:
        return self.shape[-1]

    @property
    def graph_shape(self) -> ShapeTuple:
        """The shape of the graph's value, without the batch axis."""
        return (self.features, *self.shape[:-1]) if self.first else self.shape

    def vector(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a constant that is broadcast to the current value as an array with a number for each feature."""
        behind = len(self.shape) - 1 if self.first else 0
        rank = len(self.shape) + 1
        if behind and array.size > 1:
            if array.ndim <= behind or set(array.shape[-behind:]) != {1}:
                raise UnsupportedNodeError(
                    f"a constant of shape {array.shape} does not fit the channels of {self.graph_shape}"
                )
            array, rank = array.reshape(array.shape[:-behind]), rank - behind
        return self.in_order(vector_of(array, self.features, rank))

    def in_order(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array whose first axis is that of the graph's features, in the order of specnet's."""
        if not self.flattened or array.shape[:1] != (self.features,):
            return array
        *sizes, channels = self.flattened
        self.given.copies(array.nbytes)
        separate = array.reshape(channels, *sizes, *array.shape[1:])
        return np.moveaxis(separate, 0, len(sizes)).reshape(array.shape)


def vector_of(array: npt.NDArray[Any], size: int, rank: int = 2) -> npt.NDArray[Any]:
    """Return the constant as an array of shape (size,); `rank` is that of the value it is broadcast to."""
    if array.size not in (1, size) or (array.ndim and array.shape[-1] != array.size) or array.ndim > rank:
        raise UnsupportedNodeError(f"a constant of shape {array.shape} does not fit {size} features")
    return np.broadcast_to(array.reshape(-1), (size,))
