"""The contract of a layer, the object that computes; what a document says of it is a LayerSpec, in layerspec.py.

A layer holds arrays and has three methods; a new one overrides all three and follows four rules:

1. Results are new arrays, which belong to the caller: no views of the input and none that the layer caches. A method
   may take a last parameter `out`, an array for the result that is overwritten at the next call.
2. Arrays that are handed in are never written into; `x` may be kept by reference until `backward`.
3. `backward` overwrites the parameters' gradients, and gives the same when it is called again.
4. `predict` reads parameters and writes nothing on the layer, so that several threads may call it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.errors import ShapeError, SpecnetError

T = TypeVar("T")


class Layer(ABC):
    """Base of the objects that compute: holds named arrays, checks what comes in."""

    name: str
    draws: Draws

    def __init__(self, **parameters: Array | None) -> None:
        self.name = type(self).__name__.lower()
        self.draws = Draws()
        self.parameters: dict[str, Array] = {name: array for name, array in parameters.items() if array is not None}
        self.buffers: dict[str, npt.NDArray[Any]] = {}
        self._gradients: dict[str, Array] = {}
        self._kept: dict[str, npt.NDArray[Any]] = {}

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        """Return (shape of each parameter, shape of one output) for a document's fields and the shape of one input.

        Shapes have no batch axis. Raises ShapeError for an input that does not fit. This is the only place that says
        what shapes a layer has.
        """
        return {}, input_shape

    @classmethod
    def infer_buffers(
        cls, fields: Mapping[str, Any], input_shape: ShapeTuple
    ) -> dict[str, tuple[ShapeTuple, npt.DTypeLike | None]]:
        """Return (shape, dtype) of each buffer; None stands for the model's dtype."""
        return {}

    @classmethod
    def input_limit(cls, fields: Mapping[str, Any]) -> int | None:
        """Return the bound that integer inputs stay below; None for a layer that takes real numbers, as most do."""
        return None

    @classmethod
    def must_be_first(cls, fields: Mapping[str, Any]) -> str:
        """Return why the layer must be the model's first layer, "" where it may stand anywhere."""
        return ""

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        """Make the layer of a document's fields around its parameters, which it keeps by reference."""
        return cls(**fields, **parameters)

    @abstractmethod
    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Compute y from x (batch first) and cache what `backward` needs; `training` switches dropout and the like."""

    @abstractmethod
    def backward(self, dy: npt.ArrayLike) -> Array | None:
        """From ∂loss/∂y give ∂loss/∂x, of x's shape, or None for integers; overwrites the parameters' gradients."""

    @abstractmethod
    def predict(self, x: npt.ArrayLike) -> Array:
        """Compute what `forward` does outside training, bit for bit, and leave no trace on the layer."""

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        """Do what `backward` does, but for ∂loss/∂x; overridden where sparing it saves work."""
        self.backward(dy)

    @property
    def formulas(self) -> dict[str, str]:
        """What the layer computes, in numpy's words, as far as that is short: "y", "dx", "dweight"; for people.

        In them stand x, y, dy, and parameters and buffers by their names. They hold for the last forward, of a batch of
        vectors.
        """
        return {}

    @property
    def gradients(self) -> dict[str, Array]:
        """∂loss/∂parameter of the last `backward`, by name; zeros before the first."""
        return {name: self.gradient(name) for name in self.parameters}

    def gradient(self, name: str) -> Array:
        """Give the array that `backward` fills for one parameter."""
        if name not in self._gradients:
            parameter = self.parameters[name]
            self._gradients[name] = np.zeros(parameter.shape, parameter.dtype)
        return self._gradients[name]

    def bind(
        self, name: str, draws: Draws, gradients: Mapping[str, Array], buffers: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Make the layer a part of a model: its full name, the model's draws, and the arrays it fills from now on."""
        self.name = name
        self.draws = draws
        self._gradients = dict(gradients)
        self.buffers = dict(buffers)

    def floats(self, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> Array:
        """Take x as it is where it is a float array (of `dtype`), else as one; ShapeError for anything but numbers."""
        array = as_floats(x, dtype, self.name)
        if array.ndim == 0:
            msg = f"{self.name}: expected an array of shape (batch, ...), got a single number, shape ()"
            raise ShapeError(msg)
        return array

    def cached(self, value: T | None) -> T:
        """Give what forward cached; SpecnetError where there was no forward."""
        if value is None:
            msg = f"{self.name}: backward before forward; call forward(x) first"
            raise SpecnetError(msg)
        return value

    def incoming(self, dy: npt.ArrayLike, shape: ShapeTuple, dtype: np.dtype[Any]) -> Array:
        """Check a gradient against the output of the last forward."""
        if type(dy) is np.ndarray and dy.dtype is dtype and dy.shape == shape:
            return dy
        checked = self.floats(dy, dtype)
        if checked.shape != shape:
            msg = f"{self.name}: expected a gradient of shape {shape}, as the output, got {checked.shape}"
            raise ShapeError(msg)
        return checked

    def keep(self, key: str, shape: ShapeTuple, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Give an array of the layer's own, the same one while the shape stays; its contents are undefined."""
        kept = self._kept.get(key)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = self._kept[key] = np.empty(shape, dtype)
        return kept


class Elementwise(Layer):
    """Base of y = f(x), element by element: a subclass gives f and, right below it, its derivative."""

    def __init__(self) -> None:
        super().__init__()
        self._slope: Array | None = None

    @abstractmethod
    def value(self, x: Array, y: Array) -> None:
        """Write f(x) into y."""

    @abstractmethod
    def slope(self, x: Array, y: Array, slope: Array) -> None:
        """Write f'(x) into slope, given y = f(x)."""

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = self.floats(x)
        y = np.empty(x.shape, x.dtype) if out is None else out
        self.value(x, y)
        self._slope = self.keep("slope", x.shape, x.dtype)
        self.slope(x, y, self._slope)
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        slope = self.cached(self._slope)
        dy = self.incoming(dy, slope.shape, slope.dtype)
        return np.multiply(dy, slope, out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        y = np.empty(x.shape, x.dtype) if out is None else out
        self.value(x, y)
        return y
