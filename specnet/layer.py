"""The contract of a layer: LayerSpec is what a document says of it, Layer is the object that computes.

A spec is a frozen value: it knows its shapes and says how its layer is made. A layer holds arrays and has three
methods; a new one overrides all three and follows four rules:

1. `out`, where given, is an array for the result, overwritten at the next call; the result may be put elsewhere.
   Without it the result is the caller's to keep: a new array, not a view of the input, never one the layer caches.
2. Arrays that are handed in are never written into; `x` may be kept by reference until `backward`.
3. `backward` overwrites the parameters' gradients, and gives the same when it is called again.
4. `predict` reads parameters and writes nothing on the layer, so that several threads may call it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from specnet.errors import ShapeError, SpecnetError
from specnet.parameters import Array, ShapeTuple
from specnet.randomness import Draws
from specnet.validation import Document, describe, expecting, fault

NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]*\Z"
LayerName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$"),
    expecting("a name of letters, digits, _ and - that does not begin with a digit or -"),
]

T = TypeVar("T")

FLOAT32: np.dtype[Any] = np.dtype(np.float32)
FLOAT64: np.dtype[Any] = np.dtype(np.float64)


@dataclass(frozen=True)
class ParameterSpec:
    """What a layer's document says of one parameter, before it exists."""

    shape: ShapeTuple
    initializer: str | Document
    field: str = ""
    """The document's key that holds the initializer; errors point at it."""
    decay: bool = True
    """Whether weight decay applies: biases and norms are left out."""


class LayerSpec(Document):
    """Base of the documents of layers; `register_layer("swish")` gives a subclass its type."""

    registered_type: ClassVar[str] = ""
    activation: ClassVar[bool] = False
    """An affine layer's default initializer is chosen by the activation that follows it."""
    rectifier: ClassVar[bool] = False
    """An activation that, like ReLU, passes about half of its input: he_normal suits the layer before it."""
    transparent: ClassVar[bool] = False
    """Neither activation nor trained (dropout, flatten): the next activation is looked for behind it."""
    width_field: ClassVar[str] = ""
    """The key that decides how many parameters there are."""

    type: Annotated[str, Field(validate_default=True)] = ""
    """The kind of layer."""
    name: LayerName = ""
    """Addresses the layer and its parameters; unique among its siblings. Default: <type>_<n>."""

    @field_validator("type", mode="before")
    @classmethod
    def _own_type(cls, value: Any) -> str:
        if value not in ("", cls.registered_type):
            raise fault(f'expected "{cls.registered_type}", got {describe(value)}', "wrong_value")
        return cls.registered_type

    def output_shape(self, input_shape: ShapeTuple) -> ShapeTuple:
        """Infer the shape of one output, without the batch axis. Raises ShapeError where the input does not fit."""
        return input_shape

    def parameters(self, _input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        """List the trained arrays, in the order of the constructor."""
        return {}

    def resolve(self, _activation: LayerSpec | None) -> Self:
        """Fill in the defaults that depend on the next activation in the same list."""
        return self

    @abstractmethod
    def build(self, input_shape: ShapeTuple, parameters: Mapping[str, Array]) -> Layer:
        """Make the layer around these arrays, which it keeps by reference."""


class Layer(ABC):
    """Base of the objects that compute: holds named arrays, checks what comes in."""

    name: str
    draws: Draws

    def __init__(self, **parameters: Array | None) -> None:
        self.name = type(self).__name__.lower()
        self.draws = Draws()
        self.parameters: dict[str, Array] = {name: array for name, array in parameters.items() if array is not None}
        self._gradients: dict[str, Array] = {}
        self._kept: dict[str, npt.NDArray[Any]] = {}

    @abstractmethod
    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        """Compute y from x (batch first) and cache what `backward` needs; `training` switches dropout and the like."""

    @abstractmethod
    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        """From ∂loss/∂y give ∂loss/∂x, of x's shape; overwrites the parameters' gradients."""

    @abstractmethod
    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Compute what `forward` does outside training, bit for bit, and leave no trace on the layer."""

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        """Do what `backward` does, but for ∂loss/∂x; overridden where sparing it saves work."""
        self.backward(dy)

    @property
    def gradients(self) -> dict[str, Array]:
        """∂loss/∂parameter of the last `backward`, by name; zeros before the first."""
        return {name: self.gradient(name) for name in self.parameters}

    def gradient(self, name: str) -> Array:
        """Give the array that `backward` fills for one parameter."""
        if name not in self._gradients:
            self._gradients[name] = np.zeros_like(self.parameters[name])
        return self._gradients[name]

    def bind_gradients(self, gradients: Mapping[str, Array]) -> None:
        """Let `backward` fill these arrays (the model's) from now on."""
        self._gradients = dict(gradients)

    def floats(self, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> Array:
        """Take x as it is where it is a float array (of `dtype`), else as one; ShapeError for anything but numbers."""
        if type(x) is np.ndarray and (x.dtype is dtype or (dtype is None and x.dtype in (FLOAT32, FLOAT64))):
            return x
        return as_floats(x, dtype, self.name)

    def cached(self, value: T | None) -> T:
        """Give what forward cached; SpecnetError where there was no forward."""
        if value is None:
            msg = f"{self.name}: backward before forward; call forward(x) first"
            raise SpecnetError(msg)
        return value

    def incoming(self, dy: npt.ArrayLike, shape: ShapeTuple, dtype: np.dtype[Any]) -> Array:
        """Check a gradient against the output of the last forward."""
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


def as_floats(x: npt.ArrayLike, dtype: np.dtype[Any] | None, who: str) -> Array:
    """Convert bool, integer or real numbers to float64, or `dtype`; float32 and float64 stay what they are."""
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        msg = f"{who}: expected an array of numbers, got {type(x).__name__} that makes none ({error})"
        raise ShapeError(msg) from None
    if array.dtype.kind not in "biuf":
        msg = f"{who}: expected an array of real numbers, got dtype {array.dtype}"
        raise ShapeError(msg)
    if dtype is None:
        dtype = FLOAT32 if array.dtype == FLOAT32 else FLOAT64
    return np.asarray(array, dtype)


def batch_of(shape: ShapeTuple) -> str:
    """Write the shape of a batch of arrays: (64,) -> "(batch, 64)"."""
    return f"(batch, {', '.join(map(str, shape))})" if shape else "(batch,)"


def size_of(shape: ShapeTuple) -> int:
    """Count the elements of an array of this shape."""
    return math.prod(shape)
