"""The base class of layers made of layers. Arrays of inner layers have dotted names, `hidden.weight`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import FLOAT64
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.chain import Chain
from specnet.errors import KeyPath, SpecnetError
from specnet.layer import Layer, MaskUse, TimeMask, TimeStep
from specnet.plan import LayerPlan, Planner, fold

T = TypeVar("T")


class Composite(Layer):
    """Base class of layers made of lists of layers; every list takes the composite's input.

    A subclass defines where the lists are in a document, how their outputs are joined, and how the upstream gradient is
    split. `layers` maps the names of the inner layers to the layers; without `names` they are named `<class>_<n>`.
    """

    mask_use: ClassVar[MaskUse] = "taken"
    keeps_last = True
    """Whether the lists' results are intermediate arrays of the composite; False if one is the composite's result."""

    def __init__(self, lists: Sequence[Sequence[Layer]], names: Iterable[str] | None = None) -> None:
        layers = [layer for entries in lists for layer in entries]
        layer_names = _automatic_names(layers) if names is None else list(names)
        _check_layers(type(self).__name__.lower(), layers, layer_names)
        self.layers = dict(zip(layer_names, layers, strict=True))
        super().__init__(**dotted((name, layer.parameters) for name, layer in self.layers.items()))
        for name, layer in self.layers.items():
            layer.name = name  # until a model sets the full name, `block.hidden`
        self.chains = [Chain(entries, keeps_last=self.keeps_last) for entries in lists]
        self._y_shape: ShapeTuple | None = None
        self._dtype = FLOAT64
        self._widths: list[int] = []  # size of each list's output on the last axis

    @property
    def buffers(self) -> dict[str, npt.NDArray[Any]]:
        """The untrained state arrays of the inner layers, by dotted name."""
        return dotted((name, layer.buffers) for name, layer in self.layers.items())

    @buffers.setter
    def buffers(self, _buffers: Mapping[str, npt.NDArray[Any]]) -> None:
        """Ignore the new value: all buffers belong to the inner layers."""

    @classmethod
    @abstractmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        """Return the lists of layers in a document's fields, each with its path; the fields may be invalid."""

    @classmethod
    def is_valid(cls, fields: Mapping[str, Any]) -> bool:
        """Return whether the lists of a document have what this class demands of them; True by default."""
        return True

    @classmethod
    @abstractmethod
    def join(cls, outputs: Sequence[ShapeTuple]) -> ShapeTuple:
        """Return the shape of one output, given the output shapes of the lists. Raises ShapeError."""

    @classmethod
    @abstractmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        """Create the composite from these layers."""

    @classmethod
    def plan(cls, name: str, lists: Sequence[Sequence[Planner]], input_shape: ShapeTuple) -> LayerPlan:
        """Infer the shapes in all lists and return the plan. Raises ShapeError."""
        plans = [list(fold(planners, input_shape)) for planners in lists]
        output_shape = cls.join([entries[-1].output_shape if entries else input_shape for entries in plans])
        inner_plans = [entry for entries in plans for entry in entries]

        def make(parameters: Mapping[str, Array]) -> Layer:
            layer_parameters = by_layer(parameters)
            layers = [[entry.make(layer_parameters.get(entry.name, {})) for entry in entries] for entries in plans]
            return cls.of(layers, [entry.name for entry in inner_plans])

        limits = [entries[0].input_limit for entries in plans if entries and entries[0].input_limit is not None]
        return LayerPlan(
            name,
            input_shape,
            output_shape,
            dotted((entry.name, entry.parameters) for entry in inner_plans),
            dotted((entry.name, entry.buffers) for entry in inner_plans),
            make,
            min(limits, default=None),
            tuple(inner_plans),
        )

    @abstractmethod
    def _join_results(self, results: Sequence[Array], out: Array | None) -> Array:
        """Join the results of the lists."""

    @abstractmethod
    def _split_gradient(self, dy: Array) -> Sequence[Array]:
        """Return the upstream gradient of each list."""

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        x = self._check_input(x)
        self._y_shape = None  # a forward pass that fails leaves no valid cache
        results = [_as_floats(chain.forward(x, training, out, mask)) for chain in self.chains]
        self._widths = [result.shape[-1] for result in results]
        y = self._join_results(results, out)
        self._y_shape, self._dtype = y.shape, y.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array | None:
        parts = self._split_gradient(self.incoming(dy, self.cached(self._y_shape), self._dtype))
        results = [chain.backward(part, out) for chain, part in zip(self.chains, parts, strict=True)]
        gradients = [gradient for gradient in results if gradient is not None]
        if len(gradients) == 1 and not self.keeps_last:
            return gradients[0]
        return _add_gradients(gradients, out) if gradients else None

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        parts = self._split_gradient(self.incoming(dy, self.cached(self._y_shape), self._dtype))
        for chain, part in zip(self.chains, parts, strict=True):
            chain.parameter_backward(part)

    def predict(self, x: npt.ArrayLike, out: Array | None = None, mask: TimeMask | None = None) -> Array:
        x = self._check_input(x)
        return self._join_results([_as_floats(chain.predict(x, out, mask)) for chain in self.chains], out)

    def time_step(self, batch: int) -> TimeStep:
        lists = [[layer.time_step(batch) for layer in chain.layers] for chain in self.chains]

        def step(x: npt.NDArray[Any]) -> Array:
            results = []
            for functions in lists:
                y = x
                for function in functions:
                    y = function(y)
                results.append(_as_floats(y))
            return self._join_results(results, None)

        return step

    def gradient(self, name: str) -> Array:
        layer, _, parameter = name.partition(".")
        return self.layers[layer].gradient(parameter)

    def bind(
        self, name: str, draws: Draws, gradients: Mapping[str, Array], buffers: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        super().bind(name, draws, gradients, buffers)
        layer_gradients, layer_buffers = by_layer(gradients), by_layer(buffers)
        for inner, layer in self.layers.items():
            layer.bind(f"{name}.{inner}", draws, layer_gradients.get(inner, {}), layer_buffers.get(inner, {}))

    def __getitem__(self, name: str) -> Layer:
        return self.layers[name]

    def _check_input(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Check x; accept integers, because the first layer may be an embedding."""
        return x if isinstance(x, np.ndarray) and x.ndim and x.dtype.kind in "iu" else self.floats(x)


def _automatic_names(layers: Sequence[Layer]) -> list[str]:
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        kind = type(layer).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}_{counts[kind]}")
    return names


def _check_layers(owner: str, layers: Sequence[Layer], names: Sequence[str]) -> None:
    """Check that a composite can have these layers and names. Raises SpecnetError."""
    invalid = next((entry for entry in layers if not isinstance(entry, Layer)), None)
    if invalid is not None:
        msg = f"{owner}: expected lists of layers, got {invalid!r:.80}"
        raise SpecnetError(msg)
    nested = [inner for layer in layers for inner in _iterate_nested(layer)]
    if len({id(layer) for layer in nested}) != len(nested):
        msg = f"{owner}: the same layer object is used twice; create one for each place"
        raise SpecnetError(msg)
    if len(names) != len(layers) or len(set(names)) != len(names) or any("." in name or not name for name in names):
        msg = f"{owner}: expected {len(layers)} different names without dots, one for each layer, got {list(names)}"
        raise SpecnetError(msg)


def _iterate_nested(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inner in layer.layers.values() if isinstance(layer, Composite) else ():
        yield from _iterate_nested(inner)


def _as_floats(result: npt.NDArray[Any]) -> Array:
    """Convert integers, which an empty list passes on, to float64."""
    return result.astype(FLOAT64) if result.dtype.kind in "iu" else result


def dotted(entries: Iterable[tuple[str, Mapping[str, T]]]) -> dict[str, T]:
    """Merge mappings by dotted names: ("hidden", {"weight": w}) -> {"hidden.weight": w}."""
    return {f"{outer}.{inner}": value for outer, values in entries for inner, value in values.items()}


def by_layer(values: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Reverse `dotted`: {"hidden.weight": w} -> {"hidden": {"weight": w}}."""
    groups: dict[str, dict[str, T]] = {}
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        groups.setdefault(outer, {})[inner] = value
    return groups


def _add_gradients(arrays: Sequence[Array], out: Array | None) -> Array:
    if len(arrays) == 1:
        return np.array(arrays[0]) if out is None else arrays[0]
    total = np.add(arrays[0], arrays[1], out)
    for array in arrays[2:]:
        total += array
    return total
