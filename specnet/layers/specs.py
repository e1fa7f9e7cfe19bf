"""What documents say of the built-in layers; importing this registers them.

Apart from the layers themselves, as those are needed without documents: to load and to predict.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from specnet.initializers import Constant, Initializer, Normal
from specnet.layers.affine import Affine
from specnet.layers.composite import Concat, Residual, Sequential
from specnet.layers.dropout import Dropout
from specnet.layers.elu import Elu, Selu
from specnet.layers.embedding import Embedding
from specnet.layers.gelu import Gelu
from specnet.layers.norm import BatchNorm, LayerNorm, RmsNorm
from specnet.layers.relu import LeakyRelu, Prelu, Relu
from specnet.layers.reshape import Flatten, Reshape
from specnet.layers.sigmoid import Mish, Sigmoid, Silu, Softplus, Tanh
from specnet.layers.softmax import LogSoftmax, Softmax
from specnet.layers.standardize import Standardize
from specnet.layerspec import LayerSpec, ParameterSpec
from specnet.layertree import LAYERS_SCHEMA, LIST_SCHEMA, CompositeSpec, LayerBranches, LayerEntries
from specnet.parameters import ShapeTuple
from specnet.registry import register_layer
from specnet.validation import Feature, Flag, PositiveFeature, PositiveInteger, PositiveReal, Real, Shape, Share
from specnet.wording import fault


@register_layer("affine")
class AffineSpec(LayerSpec):
    """Affine map of the last axis: y = x @ weight + bias, weight of shape (in_features, units)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "affine", "units": 32}]})
    layer = Affine
    width_field = "units"

    units: PositiveInteger
    """Width of the output; the input's is inferred."""
    bias: Flag = True
    """Whether a bias is added."""
    weight_init: Initializer = Field("glorot_uniform", examples=["he_normal", {"type": "normal", "std": 0.01}])
    """Initial weights. Default: he_normal before a ReLU-like layer, glorot_uniform otherwise."""
    bias_init: Initializer = Field("zeros", examples=["zeros", {"type": "constant", "value": 0.1}])
    """Initial bias."""

    def parameters(self, input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        shapes, _ = Affine.infer(self.fields(), input_shape)
        weight = ParameterSpec(shapes["weight"], self.weight_init, "weight_init")
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": ParameterSpec(shapes["bias"], self.bias_init, "bias_init", decay=False)}

    def resolve(self, activation: LayerSpec | None) -> Self:
        if "weight_init" in self.model_fields_set:
            return self
        rectified = activation is not None and activation.rectifier
        return self.model_copy(update={"weight_init": "he_normal" if rectified else "glorot_uniform"})


@register_layer("relu")
class ReluSpec(LayerSpec):
    """Rectified linear unit: y = max(x, 0)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "relu"}]})
    layer = Relu
    activation = True
    rectifier = True


@register_layer("leaky_relu")
class LeakyReluSpec(LayerSpec):
    """Leaky rectified linear unit: y = x where x > 0, negative_slope * x elsewhere."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "leaky_relu", "negative_slope": 0.1}]})
    layer = LeakyRelu
    activation = True
    rectifier = True

    negative_slope: Real = 0.01
    """Slope where x is negative."""


@register_layer("prelu")
class PreluSpec(LayerSpec):
    """Leaky rectified linear unit whose slope is trained, one a feature of the last axis; 0.25 at first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "prelu"}]})
    layer = Prelu
    activation = True
    rectifier = True

    def parameters(self, input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        return {"slope": ParameterSpec(input_shape[-1:], Constant(value=0.25))}


@register_layer("elu")
class EluSpec(LayerSpec):
    """Exponential linear unit: y = x where x > 0, alpha * (exp(x) - 1) elsewhere."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "elu", "alpha": 0.5}]})
    layer = Elu
    activation = True
    rectifier = True

    alpha: Real = 1.0
    """The negative of the limit for x towards minus infinity."""


@register_layer("selu")
class SeluSpec(LayerSpec):
    """Scaled exponential linear unit: an elu with the alpha and scale that keep mean 0 and variance 1."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "selu"}]})
    layer = Selu
    activation = True


@register_layer("sigmoid")
class SigmoidSpec(LayerSpec):
    """Logistic function: y = 1 / (1 + exp(-x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "sigmoid"}]})
    layer = Sigmoid
    activation = True


@register_layer("tanh")
class TanhSpec(LayerSpec):
    """Hyperbolic tangent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "tanh"}]})
    layer = Tanh
    activation = True


@register_layer("softplus")
class SoftplusSpec(LayerSpec):
    """Smooth ReLU: y = log(1 + exp(beta * x)) / beta."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "softplus", "beta": 2.0}]})
    layer = Softplus
    activation = True
    rectifier = True

    beta: PositiveReal = 1.0
    """Sharpness of the bend at 0."""


@register_layer("silu")
class SiluSpec(LayerSpec):
    """Sigmoid linear unit (swish): y = x * sigmoid(x)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "silu"}]})
    layer = Silu
    activation = True
    rectifier = True


@register_layer("mish")
class MishSpec(LayerSpec):
    """Mish: y = x * tanh(softplus(x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "mish"}]})
    layer = Mish
    activation = True
    rectifier = True


@register_layer("gelu")
class GeluSpec(LayerSpec):
    """Gaussian error linear unit: y = x * Phi(x), Phi the normal distribution function."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "gelu"}, {"type": "gelu", "approximate": "tanh"}]}
    )
    layer = Gelu
    activation = True
    rectifier = True

    approximate: Literal["none", "tanh"] = "none"
    """Exact, or the approximation by tanh."""


@register_layer("softmax")
class SoftmaxSpec(LayerSpec):
    """Softmax over the last axis: y = exp(x) / sum(exp(x))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "softmax"}]})
    layer = Softmax
    activation = True


@register_layer("log_softmax")
class LogSoftmaxSpec(LayerSpec):
    """Logarithm of the softmax over the last axis: y = x - log(sum(exp(x)))."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "log_softmax"}]})
    layer = LogSoftmax
    activation = True


@register_layer("flatten")
class FlattenSpec(LayerSpec):
    """Join all axes but the batch's into one, row-major."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "flatten"}]})
    layer = Flatten
    transparent = True


@register_layer("dropout")
class DropoutSpec(LayerSpec):
    """While training, set elements to 0 with probability `rate` and divide the others by 1 - rate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "dropout", "rate": 0.2}]})
    layer = Dropout
    transparent = True

    rate: Share = 0.5
    """Share of elements that are set to 0, in [0, 1)."""


@register_layer("reshape")
class ReshapeSpec(LayerSpec):
    """Arrange the axes of each row anew, row-major."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "reshape", "shape": [28, 28]}]})
    layer = Reshape
    transparent = True

    shape: Shape
    """Shape of one output, without the batch axis; as many elements as the input has."""


@register_layer("standardize")
class StandardizeSpec(LayerSpec):
    """Subtract a mean and divide by a standard deviation, one of each a feature of the last axis.

    Without values it is fitted from the training inputs before the first step, and is the model's first layer.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "standardize"}, {"type": "standardize", "mean": 0.1307, "std": 0.3081}]
        }
    )
    layer = Standardize
    transparent = True

    mean: Feature | None = None
    """A number for all features, or an array of one a feature; with `std`, or fitted."""
    std: PositiveFeature | None = None
    """Likewise, positive."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.mean is None) != (self.std is None):
            there, missing = ("mean", "std") if self.std is None else ("std", "mean")
            message = f"expected mean and std, or neither; {missing} is missing beside {there}, add it"
            raise fault(message, "missing")
        return self

    @property
    def unfitted(self) -> bool:
        return self.mean is None


@register_layer("embedding")
class EmbeddingSpec(LayerSpec):
    """A trained row of `dimension` numbers for each integer from 0 to vocabulary - 1; the model's first layer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "embedding", "vocabulary": 1000, "dimension": 16}]}
    )
    layer = Embedding
    width_field = "vocabulary"

    vocabulary: PositiveInteger
    """Number of rows; inputs are below it."""
    dimension: PositiveInteger
    """Numbers a row: the last axis of the output, added to the input's."""
    weight_init: Initializer = Normal(std=1.0)
    """Initial rows. Default: normal, std 1."""

    def parameters(self, input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        shapes, _ = Embedding.infer(self.fields(), input_shape)
        return {"weight": ParameterSpec(shapes["weight"], self.weight_init, "weight_init")}


class _NormSpec(LayerSpec):
    """What the normalizations share: a scale of ones and, where there is one, a shift of zeros."""

    transparent = True

    def parameters(self, input_shape: ShapeTuple) -> dict[str, ParameterSpec]:
        shapes, _ = self.layer.infer(self.fields(), input_shape)
        first = {"scale": "ones", "shift": "zeros"}
        return {name: ParameterSpec(shape, first[name], decay=False) for name, shape in shapes.items()}


@register_layer("batch_norm")
class BatchNormSpec(_NormSpec):
    """Normalize each feature of the last axis over the batch; by running mean and variance outside training."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "batch_norm"}]})
    layer = BatchNorm

    momentum: Share = 0.1
    """Share by which the running mean and variance move towards each batch's."""
    epsilon: PositiveReal = 1e-5
    """Added to the variance."""


@register_layer("layer_norm")
class LayerNormSpec(_NormSpec):
    """Normalize each row over the last axis."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "layer_norm"}]})
    layer = LayerNorm

    epsilon: PositiveReal = 1e-5
    """Added to the variance."""


@register_layer("rms_norm")
class RmsNormSpec(_NormSpec):
    """Divide each row by its root mean square over the last axis."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "rms_norm"}]})
    layer = RmsNorm

    epsilon: PositiveReal = 1e-5
    """Added to the mean square."""


@register_layer("sequential")
class SequentialSpec(CompositeSpec):
    """Layers one behind the other, under one name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "sequential", "layers": [{"type": "affine", "units": 32}]}]}
    )
    layer = Sequential

    layers: Annotated[tuple[LayerSpec, ...], LayerEntries(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, first to last."""


@register_layer("residual")
class ResidualSpec(CompositeSpec):
    """Layers whose output is added to their input, or to the output of a shortcut: y = layers(x) + shortcut(x)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "residual", "layers": [{"type": "affine", "units": 32}]}]}
    )
    layer = Residual

    layers: Annotated[tuple[LayerSpec, ...], LayerEntries(), WithJsonSchema(LAYERS_SCHEMA)]
    """The layers, first to last; what they give has the shape that the shortcut gives."""
    shortcut: Annotated[tuple[LayerSpec, ...], LayerEntries(least=0), WithJsonSchema(LIST_SCHEMA)] = ()
    """Layers beside them; none pass the input on as it is."""


@register_layer("concat")
class ConcatSpec(CompositeSpec):
    """Branches side by side: their outputs are joined on the last axis."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "concat", "branches": [[], [{"type": "affine", "units": 32}]]}]}
    )
    layer = Concat

    branches: Annotated[
        tuple[tuple[LayerSpec, ...], ...],
        LayerBranches(),
        WithJsonSchema({"type": "array", "minItems": 1, "items": LIST_SCHEMA}),
    ]
    """Lists of layers that all begin at the input; an empty one passes it on."""
