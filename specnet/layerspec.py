"""LayerSpec, the base of layer documents: an immutable value that infers the layer's shapes and plans it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from specnet.arrays.parameters import ShapeTuple
from specnet.document.base import Document
from specnet.document.messages import describe, problem, suggestion
from specnet.errors import SpecnetError
from specnet.fields import expecting
from specnet.initializers import NAMES, draw
from specnet.layer import Layer
from specnet.plan import MAX_NAME, LayerPlan, plan_layer

LayerClass: TypeAlias = type[Layer]  # in LayerSpec below, `type` is a field

LayerName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=MAX_NAME),
    expecting(f"a name of at most {MAX_NAME} letters, digits, _ and - that does not begin with a digit or -"),
]


@dataclass(frozen=True)
class ParameterSpec:
    """Description of one parameter of a layer: its initial values, and whether weight decay applies."""

    initializer: str | Document
    """A name such as "he_normal", or an object of `specnet.initializers` such as `Constant(value=0.25)`."""
    field: str = ""
    """The document's key that contains the initializer; errors refer to this key."""
    decay: bool = True
    """Whether weight decay applies; the built-in layers set False for biases and norms."""
    fans: tuple[int, int] | None = None
    """Fan-in and fan-out, by which initializers such as he_normal scale.

    Default: those of a kernel (..., in, out), with the leading axes counted in both.
    """
    ones: tuple[int, int] | None = None
    """Columns [first, stop) that begin as 1 instead."""

    def __post_init__(self) -> None:
        if not isinstance(self.initializer, Document) and self.initializer not in NAMES:
            msg = f"ParameterSpec: unknown initializer {self.initializer!r}{suggestion(str(self.initializer), NAMES)}"
            raise SpecnetError(msg)
        if self.fans is not None and not (len(self.fans) == 2 and all(fan > 0 for fan in self.fans)):
            msg = f"ParameterSpec: expected fans, two positive integers (in, out), got {self.fans!r}"
            raise SpecnetError(msg)

    def draw(self, seed: int, name: str, shape: ShapeTuple) -> npt.NDArray[np.float64]:
        """Return the initial values of the parameter with the full name `name`, in float64."""
        values = draw(self.initializer, seed, name, shape, self.fans)
        if self.ones is not None:
            values[..., slice(*self.ones)] = 1
        return values


class LayerSpec(Document):
    """Base of layer documents; the decorator `register_layer("swish")` sets a subclass's type.

    A subclass sets `layer` to its layer class, whose constructor takes the subclass's fields. If the layer has
    parameters, the subclass also overrides `parameters`; `Layer.infer` infers the parameters' shapes.
    """

    layer: ClassVar[LayerClass]
    """The class of the layer objects, which compute."""
    registered_type: ClassVar[str] = ""
    is_activation: ClassVar[bool] = False
    """Whether this is an activation; the next activation decides the default initializer of an affine layer."""
    rectifier: ClassVar[bool] = False
    """Whether the activation passes about half of its inputs, as ReLU does: he_normal suits the layer before it."""
    transparent: ClassVar[bool] = False
    """Whether the search for the next activation skips this layer, for example dropout, flatten and norms."""
    width_field: ClassVar[str] = ""
    """The key that determines the number of parameters; errors about too many elements refer to it."""

    type: Annotated[str, Field(validate_default=True)] = ""
    """The kind of layer."""
    name: LayerName = ""
    """Identifies the layer and its parameters; unique among its siblings. Default: <type>_<n>."""

    @field_validator("type", mode="before")
    @classmethod
    def _check_type(cls, value: Any) -> str:
        if not isinstance(value, str) or value not in ("", cls.registered_type):
            raise problem(f'expected "{cls.registered_type}", got {describe(value)}', "wrong_value")
        return cls.registered_type

    def fields(self) -> dict[str, Any]:
        """Return the keys and values of the document, without type and name."""
        fields = self.__dict__.copy()  # what iterating over the model yields, in a third of the time
        del fields["type"], fields["name"]
        return fields

    @property
    def input_limit(self) -> int | None:
        """The exclusive upper bound of integer inputs; None for a layer that takes real numbers."""
        return self.layer.input_limit(self.fields())

    @property
    def must_be_first(self) -> str:
        """The reason that the layer must be the model's first layer; "" if it may be anywhere."""
        return self.layer.must_be_first(self.fields())

    def plan(self, input_shape: ShapeTuple) -> LayerPlan:
        """Return the plan of the layer for inputs of this shape. Raises ShapeError."""
        return plan_layer(self.layer, self.name, self.fields(), input_shape)

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        """Return a description of each parameter, given the shapes that the layer's `infer` returns."""
        return {}

    def parameter_specs(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        """Return the result of `parameters`. Raises SpecnetError if the layer's `infer` has other names."""
        specs = self.parameters(shapes)
        if specs.keys() != shapes.keys():
            inferred = f"{self.layer.__name__}.infer names the parameters {[*shapes]}"
            msg = f"{inferred}, {type(self).__name__}.parameters describes {[*specs]}; make the names the same"
            raise SpecnetError(msg)
        return specs

    def resolve(self, activation: LayerSpec | None) -> Self:
        """Return the layer with the defaults that depend on the next activation in the same list filled in."""
        return self
