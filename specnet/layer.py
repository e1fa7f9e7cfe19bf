"""The base classes of layers, which compute; a layer's description in a document is a LayerSpec (layerspec.py).

A layer holds arrays and has three methods. A new layer overrides all three and follows four rules:

1. Results are new arrays that belong to the caller: no views of the input, and none that the layer caches. A method may
   take a last parameter `out`: an array for the result, which is overwritten at the next call.
2. A layer never writes into the arrays passed to it, but for `out`, which may be the same array if the layer is
   `in_place`; it may keep a reference to `x` until `backward`.
3. `backward` overwrites the gradients of the parameters, and returns the same result if it is called again.
4. `predict` reads parameters and writes nothing on the layer, so it is thread-safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import as_floats
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.errors import ShapeError, SpecnetError

T = TypeVar("T")

RowStep: TypeAlias = tuple[Array, Array] | Literal["relu"]
"""A layer of kernels.dense_row: the weight and the bias of y = x @ weight + bias, or a ReLU."""

TimeMask: TypeAlias = npt.NDArray[np.bool_]
"""Which steps of padded sequences count: (batch, time), False for padding."""

MaskUse: TypeAlias = Literal["ignored", "taken", "refused"]

TimeStep: TypeAlias = Callable[[npt.NDArray[Any]], Array]
"""Maps one time step of a batch of sequences, (batch, features), to the layer's output for it."""


class Layer(ABC):
    """Base class of layers: holds named arrays and checks inputs."""

    name: str
    draws: Draws
    mask_use: ClassVar[MaskUse] = "ignored"
    """What the layer does with the mask of padded sequences: it computes each time step alone, so it may ignore the
    mask; or `forward` and `predict` take an argument `mask`; or it mixes steps whether they count or not, so that a
    document with a mask before it is refused."""

    def __init__(self, **parameters: Array | None) -> None:
        self.name = type(self).__name__.lower()
        self.draws = Draws()
        self.parameters: dict[str, Array] = {name: array for name, array in parameters.items() if array is not None}
        self.buffers: dict[str, npt.NDArray[Any]] = {}
        self._gradients: dict[str, Array] = {}
        self._scratch: dict[str, npt.NDArray[Any]] = {}

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        """Return (shape of each parameter, shape of one output) for a document's fields and the shape of one input.

        Shapes have no batch axis. Raises ShapeError for an input that does not fit. All shapes of a layer are defined
        here and nowhere else.
        """
        return {}, input_shape

    @classmethod
    def infer_buffers(
        cls, fields: Mapping[str, Any], input_shape: ShapeTuple
    ) -> dict[str, tuple[ShapeTuple, npt.DTypeLike | None]]:
        """Return (shape, dtype) of each buffer; the dtype None means the model's dtype."""
        return {}

    @classmethod
    def input_limit(cls, fields: Mapping[str, Any]) -> int | None:
        """Return the exclusive upper bound of integer inputs, or None (the default) if the layer takes real numbers."""
        return None

    @classmethod
    def must_be_first(cls, fields: Mapping[str, Any]) -> str:
        """Return the reason why the layer must be the first of the model, or "" if it may be anywhere."""
        return ""

    @classmethod
    def marks_padding(cls, fields: Mapping[str, Any]) -> bool:
        """Return whether the layer, as the first of a model, tells which steps of its inputs are padding."""
        return False

    @classmethod
    def multiply_adds(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> int:
        """Return the number of multiplications by a weight, each with its addition, for one input; 0 by default."""
        return 0

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        """Create the layer from a document's fields and its parameters, which it keeps by reference."""
        return cls(**fields, **parameters)

    @abstractmethod
    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Compute y from x (batch axis first) and cache what `backward` needs; `training` turns on dropout, etc."""

    @abstractmethod
    def backward(self, dy: npt.ArrayLike) -> Array | None:
        """Return ∂loss/∂x from dy = ∂loss/∂y, or None if x holds integers; overwrite the parameters' gradients."""

    @abstractmethod
    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the same bits as `forward` outside training, and change nothing on the layer."""

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        """Do the same as `backward`, but without ∂loss/∂x; override this if it saves work."""
        self.backward(dy)

    def fused_with(self, following: Layer) -> Layer | None:
        """Return a layer that does the work of this and the following one in fewer passes, or None (the default)."""
        return None

    @property
    def in_place(self) -> bool:
        """Whether `out` of each method may be the array that the method reads; False by default.

        A chain then lets the layer overwrite its input, which is the result of the layer before: fewer arrays are
        fetched from memory. Of what it reads, the layer caches at most what it has itself written there.
        """
        return False

    @property
    def keeps_output(self) -> bool:
        """Whether `backward` needs the array that `forward` returned; a chain then lets no layer overwrite it."""
        return False

    def mask_of(self, x: npt.NDArray[Any]) -> TimeMask | None:
        """Return the mask, (batch, time), of the layer's inputs; None (the default) if no step is padding."""
        return None

    def time_step(self, batch: int) -> TimeStep:
        """Return a function that takes a batch of sequences one time step at a time, and keeps the layer's state.

        Raises SpecnetError if the layer needs all steps at once.
        """
        if self.mask_use != "ignored":
            msg = f"{self.name}: needs all time steps at once, so the model cannot take one at a time"
            raise SpecnetError(msg)
        return lambda x: self.predict(x[:, np.newaxis])[:, 0]

    def row_step(self) -> RowStep | None:
        """Return what the layer does to a single row, for kernels.dense_row; None (the default) for something else."""
        return None

    @property
    def formulas(self) -> dict[str, str]:
        """Numpy expressions of what the layer computes, for display: keys "y", "dx", "dweight" and so on.

        They use x, y, dy, and the names of parameters and buffers. They describe the last forward pass, for a batch of
        vectors; long expressions are left out.
        """
        return {}

    @property
    def gradients(self) -> dict[str, Array]:
        """∂loss/∂parameter of the last `backward`, by name; zeros before the first."""
        return {name: self.gradient(name) for name in self.parameters}

    def gradient(self, name: str) -> Array:
        """Return the array that `backward` fills for one parameter."""
        if name not in self._gradients:
            parameter = self.parameters[name]
            self._gradients[name] = np.zeros(parameter.shape, parameter.dtype)
        return self._gradients[name]

    def bind(
        self, name: str, draws: Draws, gradients: Mapping[str, Array], buffers: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Attach the layer to a model: set its full name, the model's draws, and the arrays that it fills."""
        self.name = name
        self.draws = draws
        self._gradients = dict(gradients)
        self.buffers = dict(buffers)

    def floats(self, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> Array:
        """Return x as a float array (of `dtype`), unchanged if it is one. Raises ShapeError unless it is numeric."""
        array = as_floats(x, dtype, self.name)
        if array.ndim == 0:
            msg = f"{self.name}: expected an array of shape (batch, ...), got a single number, shape ()"
            raise ShapeError(msg)
        return array

    def cached(self, value: T | None) -> T:
        """Return what `forward` cached. Raises SpecnetError if there was no forward pass."""
        if value is None:
            msg = f"{self.name}: backward before forward; call forward(x) first"
            raise SpecnetError(msg)
        return value

    def incoming(self, dy: npt.ArrayLike, shape: ShapeTuple, dtype: np.dtype[Any]) -> Array:
        """Return the upstream gradient in `dtype`. Raises ShapeError if its shape is not that of the last output."""
        if type(dy) is np.ndarray and dy.dtype is dtype and dy.shape == shape:
            return dy
        checked = self.floats(dy, dtype)
        if checked.shape != shape:
            msg = f"{self.name}: expected a gradient of shape {shape}, the shape of the output, got {checked.shape}"
            raise ShapeError(msg)
        return checked

    def keep(self, key: str, shape: ShapeTuple, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a reusable array of the layer, the same until shape or dtype changes; its contents are undefined."""
        array = self._scratch.get(key)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._scratch[key] = np.empty(shape, dtype)
        return array


class Elementwise(Layer):
    """Base class of y = f(x), element by element: a subclass defines f and, right below it, its derivative."""

    activation: ClassVar[int | None] = None
    """The position in kernels.ACTIVATIONS of the kernel that computes f and its derivative; None without one."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if vars(cls).keys() & {"value", "slope"} and "activation" not in vars(cls):
            cls.activation = None  # the kernel of the base class computes another function

    def __init__(self) -> None:
        super().__init__()
        self._slope: Array | None = None

    @abstractmethod
    def value(self, x: Array, y: Array) -> None:
        """Write f(x) into y."""

    @abstractmethod
    def slope(self, x: Array, y: Array, slope: Array) -> None:
        """Write f'(x) into slope; y is f(x)."""

    @property
    def in_place(self) -> bool:
        return self.activation is not None and kernels.backend() == "compiled"

    def constants(self) -> tuple[float, float]:
        """Return the constants p and q of the kernel."""
        return 0.0, 0.0

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        x = np.ascontiguousarray(self.floats(x))
        y = np.empty(x.shape, x.dtype) if out is None else out
        slope = self._slope = self.keep("slope", x.shape, x.dtype)
        kind = self.activation
        if kind is None or not kernels.activation_slope(x, y, slope, kind, *self.constants()):
            x = x.copy() if np.may_share_memory(x, y) else x
            self.value(x, y)
            self.slope(x, y, slope)
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        slope = self.cached(self._slope)
        dy = self.incoming(dy, slope.shape, slope.dtype)
        dx = np.empty(slope.shape, slope.dtype) if out is None else out
        return dx if kernels.multiply(dy, slope, dx) else np.multiply(dy, slope, dx)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = np.ascontiguousarray(self.floats(x))
        y = np.empty(x.shape, x.dtype) if out is None else out
        if self.activation is None or not kernels.activation(x, y, self.activation, *self.constants()):
            self.value(x.copy() if np.may_share_memory(x, y) else x, y)
        return y
