"""What a document says of a layer: a frozen value that knows its shapes and says how its layer is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np
from pydantic import Field, field_validator

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.document.base import Document
from specnet.document.messages import describe, fault, nearest
from specnet.errors import SpecnetError
from specnet.fields import expecting
from specnet.initializers import NAMES
from specnet.layer import Layer
from specnet.plan import LayerPlan

LayerClass: TypeAlias = type[Layer]  # in the class below, `type` is a field

LayerName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=255),
    expecting("a name of at most 255 letters, digits, _ and - that does not begin with a digit or -"),
]


@dataclass(frozen=True)
class ParameterSpec:
    """What a layer's document says of one parameter, before it exists."""

    shape: ShapeTuple
    initializer: str | Document
    field: str = ""
    """The document's key that holds the initializer; errors point at it."""
    decay: bool = True
    """Whether weight decay applies: biases and norms are left out."""

    def __post_init__(self) -> None:
        if not isinstance(self.initializer, Document) and self.initializer not in NAMES:
            msg = f"ParameterSpec: unknown initializer {self.initializer!r}{nearest(str(self.initializer), NAMES)}"
            raise SpecnetError(msg)
        if not isinstance(self.shape, tuple):
            msg = f"ParameterSpec: expected a shape, a tuple of integers, got {self.shape!r}"
            raise SpecnetError(msg)


class LayerSpec(Document):
    """Base of the documents of layers; `register_layer("swish")` gives a subclass its type.

    A subclass names its layer class, whose constructor takes the subclass's fields; a layer with parameters also
    overrides `parameters`.
    """

    layer: ClassVar[LayerClass]
    """The class of the objects that compute."""
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
        if not isinstance(value, str) or value not in ("", cls.registered_type):
            raise fault(f'expected "{cls.registered_type}", got {describe(value)}', "wrong_value")
        return cls.registered_type

    def fields(self) -> dict[str, Any]:
        """Give what the document says besides type and name."""
        return {name: value for name, value in self if name not in ("type", "name")}

    @property
    def input_limit(self) -> int | None:
        """The bound that integer inputs stay below; None for a layer that takes real numbers."""
        return self.layer.input_limit(self.fields())

    @property
    def unfitted(self) -> bool:
        """Whether the layer's buffers are still to be fitted from the training inputs."""
        return False

    def plan(self, input_shape: ShapeTuple) -> LayerPlan:
        """Say how the layer is put together for inputs of this shape. Raises ShapeError."""
        return LayerPlan(
            self.name,
            input_shape,
            self.output_shape(input_shape),
            {name: parameter.shape for name, parameter in self.parameters(input_shape).items()},
            {name: self._buffer(name, announced) for name, announced in self.buffers(input_shape).items()},
            self.build,
            self.input_limit,
        )

    def _buffer(self, name: str, announced: Any) -> tuple[ShapeTuple, np.dtype[Any] | None]:
        try:
            shape, dtype = announced
            return tuple(map(int, shape)), None if dtype is None else np.dtype(dtype)
        except (TypeError, ValueError):
            msg = f"{self.type}: expected (shape, dtype or None) of the buffer {name}, got {announced!r}"
            raise SpecnetError(msg) from None

    def output_shape(self, input_shape: ShapeTuple) -> ShapeTuple:
        """Infer the shape of one output, without the batch axis. Raises ShapeError where the input does not fit."""
        return self.layer.infer(self.fields(), input_shape)[1]

    def parameters(self, _input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        """List the trained arrays, in the order of the constructor."""
        return {}

    def buffers(self, input_shape: ShapeTuple) -> dict[str, tuple[ShapeTuple, np.dtype[Any] | None]]:
        """List the arrays that are state but not trained: shape and dtype, None for the model's."""
        return self.layer.infer_buffers(self.fields(), input_shape)

    def resolve(self, _activation: LayerSpec | None) -> Self:
        """Fill in the defaults that depend on the next activation in the same list."""
        return self

    def build(self, parameters: Mapping[str, Array]) -> Layer:
        """Make the layer around these arrays, which it keeps by reference. Raises SpecnetError, for its author."""
        try:
            return self.layer.from_document(self.fields(), parameters)
        except TypeError as error:
            kind = self.layer.__name__
            msg = f"{self.type}: {kind}.from_document cannot make the layer of the document's keys and arrays: {error}"
            raise SpecnetError(msg) from error
