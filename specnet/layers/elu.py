"""Exponential units: elu, selu."""

from __future__ import annotations

import numpy as np

from specnet import kernels
from specnet.arrays.parameters import Array
from specnet.layer import Elementwise

# Klambauer et al. 2017, the fixed point of mean 0 and variance 1
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


class Elu(Elementwise):
    """y = scale * x where x > 0, scale * alpha * (exp(x) - 1) elsewhere."""

    activation = kernels.ACTIVATIONS.index("elu")

    scale = 1.0

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    @property
    def formulas(self) -> dict[str, str]:
        scale, below = f"{self.scale:.8g}", f"{self.scale * self.alpha:.8g}"
        return {
            "y": f"where(x > 0, {scale} * x, {below} * (exp(x) - 1))",
            "dx": f"dy * where(x > 0, {scale}, {below} * exp(x))",
        }

    def constants(self) -> tuple[float, float]:
        return self.scale, self.scale * self.alpha

    def value(self, x: Array, y: Array) -> None:
        np.minimum(x, 0, out=y)
        np.expm1(y, y)
        np.multiply(y, self.scale * self.alpha, y)
        np.multiply(x, self.scale, y, where=x > 0)

    def slope(self, x: Array, y: Array, slope: Array) -> None:
        np.add(y, self.scale * self.alpha, slope)  # scale * alpha * exp(x)
        np.copyto(slope, self.scale, where=x > 0)


class Selu(Elu):
    """y = scale * elu(x), with the constants of Klambauer et al. 2017."""

    scale = SELU_SCALE

    def __init__(self) -> None:
        super().__init__(SELU_ALPHA)
