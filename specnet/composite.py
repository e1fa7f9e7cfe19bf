"""The base of layers made of layers. Arrays inside are addressed by dotted names, `hidden.weight`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.chain import Chain
from specnet.errors import KeyPath, SpecnetError
from specnet.layer import Layer
from specnet.plan import LayerPlan, Planner, fold

T = TypeVar("T")


class Composite(Layer):
    """Base of the layers made of lists of layers that all begin at the composite's input.

    A subclass says where the lists stand in a document, how their outputs join, and how the gradients come back.
    `layers` maps the names of the layers inside to the layers; those without a name get `<class>_<n>`.
    """

    keeps_last = True
    """Whether the results of the lists are arrays of the composite's own; False where they are its result."""

    def __init__(self, lists: Sequence[Sequence[Layer]], names: Iterable[str] | None = None) -> None:
        inside = [layer for entries in lists for layer in entries]
        given = _automatic(inside) if names is None else list(names)
        _check(type(self).__name__.lower(), inside, given)
        self.layers = dict(zip(given, inside, strict=True))
        super().__init__(**dotted((n, layer.parameters) for n, layer in self.layers.items()))
        for name, layer in self.layers.items():
            layer.name = name  # a model gives them their full names
        self.chains = [Chain(entries, keeps_last=self.keeps_last) for entries in lists]
        self._y_shape: ShapeTuple | None = None
        self._dtype = FLOAT64
        self._widths: list[int] = []  # of the lists' outputs, on the last axis

    @property
    def buffers(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays that are state but not trained, by dotted name: those of the layers inside."""
        return dotted((name, layer.buffers) for name, layer in self.layers.items())

    @buffers.setter
    def buffers(self, _own: Mapping[str, npt.NDArray[Any]]) -> None:
        """Ignore what is set: a composite has none of its own."""

    @classmethod
    @abstractmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        """Give the lists of layers in a document's fields, each with its path; of faulty fields what is there."""

    @classmethod
    @abstractmethod
    def join(cls, outputs: Sequence[ShapeTuple]) -> ShapeTuple:
        """Infer the shape of one output from those of the lists. Raises ShapeError."""

    @classmethod
    @abstractmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        """Make the composite of these layers."""

    @classmethod
    def plan(cls, name: str, lists: Sequence[Sequence[Planner]], input_shape: ShapeTuple) -> LayerPlan:
        """Follow the shapes through all lists. Raises ShapeError."""
        plans = [list(fold(planners, input_shape)) for planners in lists]
        output_shape = cls.join([entries[-1].output_shape if entries else input_shape for entries in plans])
        inside = [entry for entries in plans for entry in entries]

        def make(parameters: Mapping[str, Array]) -> Layer:
            of = by_layer(parameters)
            made = [[entry.make(of.get(entry.name, {})) for entry in entries] for entries in plans]
            return cls.of(made, [entry.name for entry in inside])

        limits = [entries[0].input_limit for entries in plans if entries and entries[0].input_limit is not None]
        return LayerPlan(
            name,
            input_shape,
            output_shape,
            dotted((entry.name, entry.parameters) for entry in inside),
            dotted((entry.name, entry.buffers) for entry in inside),
            make,
            min(limits, default=None),
            tuple(inside),
        )

    @abstractmethod
    def _joined(self, results: Sequence[Array], out: Array | None) -> Array:
        """Join the results of the lists."""

    @abstractmethod
    def _parts(self, dy: Array) -> Sequence[Array]:
        """Give ∂loss/∂result of each list."""

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self._input(x)
        self._y_shape = None  # what fails half-way is no forward
        results = [_real(chain.forward(x, training, out)) for chain in self.chains]
        self._widths = [result.shape[-1] for result in results]
        y = self._joined(results, out)
        self._y_shape, self._dtype = y.shape, y.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array | None:
        parts = self._parts(self.incoming(dy, self.cached(self._y_shape), self._dtype))
        found = [chain.backward(part, out) for chain, part in zip(self.chains, parts, strict=True)]
        gradients = [gradient for gradient in found if gradient is not None]
        if len(gradients) == 1 and not self.keeps_last:
            return gradients[0]
        return _sum(gradients, out) if gradients else None

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        parts = self._parts(self.incoming(dy, self.cached(self._y_shape), self._dtype))
        for chain, part in zip(self.chains, parts, strict=True):
            chain.parameter_backward(part)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self._input(x)
        return self._joined([_real(chain.predict(x, out)) for chain in self.chains], out)

    def gradient(self, name: str) -> Array:
        layer, _, inner = name.partition(".")
        return self.layers[layer].gradient(inner)

    def bind(
        self, name: str, draws: Draws, gradients: Mapping[str, Array], buffers: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        super().bind(name, draws, gradients, buffers)
        filled, kept = by_layer(gradients), by_layer(buffers)
        for inner, layer in self.layers.items():
            layer.bind(f"{name}.{inner}", draws, filled.get(inner, {}), kept.get(inner, {}))

    def __getitem__(self, name: str) -> Layer:
        return self.layers[name]

    def _input(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Check x; integers pass, as the first layer may be an embedding."""
        return x if isinstance(x, np.ndarray) and x.ndim and x.dtype.kind in "iu" else self.floats(x)


def _automatic(layers: Sequence[Layer]) -> list[str]:
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        kind = type(layer).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}_{counts[kind]}")
    return names


def _check(who: str, inside: Sequence[Layer], names: Sequence[str]) -> None:
    """Refuse lists that cannot be a composite's. Raises SpecnetError."""
    odd = next((entry for entry in inside if not isinstance(entry, Layer)), None)
    if odd is not None:
        msg = f"{who}: expected lists of layers, got {odd!r:.80}"
        raise SpecnetError(msg)
    every = [part for layer in inside for part in _parts_of(layer)]
    if len({id(part) for part in every}) != len(every):
        msg = f"{who}: a layer stands here twice; make one for each place"
        raise SpecnetError(msg)
    if len(names) != len(inside) or len(set(names)) != len(names) or any("." in name or not name for name in names):
        msg = f"{who}: expected a name of its own, without dots, for each of {len(inside)} layers, got {list(names)}"
        raise SpecnetError(msg)


def _parts_of(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inner in layer.layers.values() if isinstance(layer, Composite) else ():
        yield from _parts_of(inner)


def _real(result: npt.NDArray[Any]) -> Array:
    """Make integers that an empty list passes on real numbers."""
    return result.astype(FLOAT64) if result.dtype.kind in "iu" else result


def dotted(entries: Iterable[tuple[str, Mapping[str, T]]]) -> dict[str, T]:
    """Join mappings: ("hidden", {"weight": w}) -> {"hidden.weight": w}."""
    return {f"{outer}.{inner}": value for outer, values in entries for inner, value in values.items()}


def by_layer(values: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Undo `dotted`: {"hidden.weight": w} -> {"hidden": {"weight": w}}."""
    made: dict[str, dict[str, T]] = {}
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        made.setdefault(outer, {})[inner] = value
    return made


def _sum(arrays: Sequence[Array], out: Array | None) -> Array:
    if len(arrays) == 1:
        return np.array(arrays[0]) if out is None else arrays[0]
    total = np.add(arrays[0], arrays[1], out)
    for array in arrays[2:]:
        total += array
    return total
