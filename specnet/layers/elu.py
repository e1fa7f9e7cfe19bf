"""Exponential units: elu, selu."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import ConfigDict

from specnet.layer import Elementwise, LayerSpec
from specnet.parameters import Array, ShapeTuple
from specnet.registry import register_layer
from specnet.validation import Real

# Klambauer et al. 2017, the fixed point of mean 0 and variance 1
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@register_layer("elu")
class EluSpec(LayerSpec):
    """Exponential linear unit: y = x where x > 0, alpha * (exp(x) - 1) elsewhere."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "elu", "alpha": 0.5}]})
    activation = True
    rectifier = True

    alpha: Real = 1.0
    """The negative of the limit for x towards minus infinity."""

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Elu:
        return Elu(self.alpha)


class Elu(Elementwise):
    """y = scale * x where x > 0, scale * alpha * (exp(x) - 1) elsewhere."""

    scale = 1.0

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def value(self, x: Array, y: Array) -> None:
        np.minimum(x, 0, out=y)
        np.expm1(y, y)
        np.multiply(y, self.scale * self.alpha, y)
        np.multiply(x, self.scale, y, where=x > 0)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.add(y, self.scale * self.alpha, slope)  # scale * alpha * exp(x)
        np.copyto(slope, self.scale, where=x > 0)


@register_layer("selu")
class SeluSpec(LayerSpec):
    """Scaled exponential linear unit: an elu with the alpha and scale that keep mean 0 and variance 1."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "selu"}]})
    activation = True

    def build(self, _input_shape: ShapeTuple, _parameters: Mapping[str, Array]) -> Selu:
        return Selu()


class Selu(Elu):
    """y = scale * elu(x), with the constants of Klambauer et al. 2017."""

    scale = SELU_SCALE

    def __init__(self) -> None:
        super().__init__(SELU_ALPHA)
