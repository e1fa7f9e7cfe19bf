"""Swish with a trained sharpness: y = x * sigmoid(beta * x), one beta a feature (Ramachandran et al. 2017)."""

import numpy as np

from specnet import Layer, LayerSpec, ParameterSpec, register_layer
from specnet.fields import PositiveReal
from specnet.initializers import Constant


class Swish(Layer):
    """y = x * sigmoid(beta * x). beta: (features,); `backward` fills its gradient."""

    def __init__(self, beta):
        super().__init__()
        self.parameters["beta"] = self.floats(beta)  # kept by reference: the model's array
        self.x = None

    @classmethod
    def infer(cls, fields, input_shape):
        """One beta a feature of the last axis; the output has the input's shape."""
        return {"beta": input_shape[-1:]}, input_shape

    @classmethod
    def from_document(cls, fields, parameters):
        """Make the layer around the array that the model gives it; `beta` of the document is only its first value."""
        return cls(**parameters)

    def forward(self, x, training=False):
        """Cache x for `backward`."""
        self.x = self.floats(x)
        return self.predict(self.x)

    def backward(self, dy):
        """∂y/∂x = s + beta x s (1 - s), ∂y/∂beta = x^2 s (1 - s), with s = sigmoid(beta x)."""
        x, beta = self.cached(self.x), self.parameters["beta"]
        dy = self.incoming(dy, x.shape, x.dtype)
        s = 1 / (1 + np.exp(-beta * x))
        bend = x * s * (1 - s)
        np.sum((dy * x * bend).reshape(-1, len(beta)), axis=0, out=self.gradient("beta"))
        return dy * (s + beta * bend)

    def predict(self, x):
        """Write nothing on the layer."""
        x = self.floats(x)
        return x / (1 + np.exp(-self.parameters["beta"] * x))


@register_layer("swish")
class SwishSpec(LayerSpec):
    """Swish: y = x * sigmoid(beta * x), beta trained, one a feature of the last axis."""

    layer = Swish
    activation = True
    rectifier = True

    beta: PositiveReal = 1.0
    """First value of the sharpness."""

    def parameters(self, shapes):
        """Start every beta at the document's number."""
        return {"beta": ParameterSpec(Constant(value=self.beta), decay=False)}
