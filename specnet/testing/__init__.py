"""Checks for built-in and custom layers: `check_layer({"type": "swish", "beta": 2.0}, input_shape=(5,))`.

Imports everything up to `training`.
"""

from specnet.testing.gradients import (
    GradientCheck,
    build_sample,
    check_gradients,
    numerical_gradient,
    relative_error,
    sample_inputs,
)
from specnet.testing.layer_checks import check_layer

__all__ = [
    "GradientCheck",
    "build_sample",
    "check_gradients",
    "check_layer",
    "numerical_gradient",
    "relative_error",
    "sample_inputs",
]
