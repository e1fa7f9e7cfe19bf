"""Spec of gelu."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from specnet.layers.gelu import Gelu
from specnet.layerspec import LayerSpec
from specnet.spec.registry import register_layer


@register_layer("gelu")
class GeluSpec(LayerSpec):
    """Gaussian error linear unit: y = x * Phi(x), where Phi is the standard normal distribution function."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "gelu"}, {"type": "gelu", "approximate": "tanh"}]}
    )
    layer = Gelu
    is_activation = True
    rectifier = True

    approximate: Literal["none", "tanh"] = "none"
    """Whether to compute the exact function ("none") or the approximation by tanh ("tanh")."""
