"""What a document says of a layer: a frozen value that knows its shapes and says how its layer is made."""

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
from specnet.plan import LayerPlan, plan_layer

LayerClass: TypeAlias = type[Layer]  # in the class below, `type` is a field

LayerName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=255),
    expecting("a name of at most 255 letters, digits, _ and - that does not begin with a digit or -"),
]


@dataclass(frozen=True)
class ParameterSpec:
    """What a layer's document says of one parameter: how its initial values are drawn, and whether it decays."""

    initializer: str | Document
    """A name, "he_normal", or one of `specnet.initializers`' objects, `Constant(value=0.25)`."""
    field: str = ""
    """The document's key that holds the initializer; errors point at it."""
    decay: bool = True
    """Whether weight decay applies. Biases and norms are left out."""
    fans: tuple[int, int] | None = None
    """Numbers of inputs and outputs that one element connects (fan-in, fan-out), which he_normal and its like scale by.

    Default: those of a kernel (..., in, out), whose leading axes count for both.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.initializer, Document) and self.initializer not in NAMES:
            msg = f"ParameterSpec: unknown initializer {self.initializer!r}{suggestion(str(self.initializer), NAMES)}"
            raise SpecnetError(msg)
        if self.fans is not None and not (len(self.fans) == 2 and all(fan > 0 for fan in self.fans)):
            msg = f"ParameterSpec: expected fans, two positive integers (in, out), got {self.fans!r}"
            raise SpecnetError(msg)

    def draw(self, seed: int, name: str, shape: ShapeTuple) -> npt.NDArray[np.float64]:
        """Return the initial values of the parameter with this full name, in float64."""
        return draw(self.initializer, seed, name, shape, self.fans)


class LayerSpec(Document):
    """Base of the documents of layers; `register_layer("swish")` gives a subclass its type.

    A subclass names its layer class, whose constructor takes the subclass's fields. A layer with parameters also
    overrides `parameters`; their shapes are the business of `Layer.infer`.
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
            raise problem(f'expected "{cls.registered_type}", got {describe(value)}', "wrong_value")
        return cls.registered_type

    def fields(self) -> dict[str, Any]:
        """Give what the document says besides type and name."""
        return {name: value for name, value in self if name not in ("type", "name")}

    @property
    def input_limit(self) -> int | None:
        """The bound that integer inputs stay below; None for a layer that takes real numbers."""
        return self.layer.input_limit(self.fields())

    @property
    def must_be_first(self) -> str:
        """Why the layer must be the model's first layer, "" where it may stand anywhere."""
        return self.layer.must_be_first(self.fields())

    def plan(self, input_shape: ShapeTuple) -> LayerPlan:
        """Return how the layer is put together for inputs of this shape. Raises ShapeError."""
        return plan_layer(self.layer, self.name, self.fields(), input_shape)

    def parameters(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        """Describe each parameter, given the shapes that the layer's `infer` returns."""
        return {}

    def parameter_specs(self, shapes: Mapping[str, ShapeTuple]) -> dict[str, ParameterSpec]:
        """Return what `parameters` describes. Raises SpecnetError where that is not what the layer's `infer` names."""
        specs = self.parameters(shapes)
        if specs.keys() != shapes.keys():
            who, names = type(self).__name__, f"{self.layer.__name__}.infer names the parameters {[*shapes]}"
            msg = f"{names}, {who}.parameters describes {[*specs]}; make them the same"
            raise SpecnetError(msg)
        return specs

    def resolve(self, activation: LayerSpec | None) -> Self:
        """Fill in the defaults that depend on the next activation in the same list."""
        return self
