"""Swish with a trained sharpness: y = x * sigmoid(beta * x), one beta per feature (Ramachandran et al. 2017)."""

import numpy as np

from specnet import Layer, LayerSpec, ParameterSpec, register_layer
from specnet.fields import PositiveReal
from specnet.initializers import Constant
from specnet.layers.sigmoid import sigmoid


class Swish(Layer):
    """Compute y = x * sigmoid(beta * x) with beta of shape (features,); `backward` fills its gradient."""

    def __init__(self, beta):
        super().__init__()
        self.parameters["beta"] = self.floats(beta)  # the model's own array: keep it, do not copy it
        self.x = None

    @classmethod
    def infer(cls, fields, input_shape):
        """Return the shape of beta, one per feature of the last axis, and the output's shape, which is the input's."""
        return {"beta": input_shape[-1:]}, input_shape

    @classmethod
    def from_document(cls, fields, parameters):
        """Create the layer with the model's array; `beta` in the document is only its initial value."""
        return cls(**parameters)

    def forward(self, x, training=False):
        """Return y and cache x for `backward`."""
        self.x = self.floats(x)
        return self.predict(self.x)

    def backward(self, dy):
        """Return ∂loss/∂x: ∂y/∂x = s + beta x s (1 - s), ∂y/∂beta = x^2 s (1 - s), with s = sigmoid(beta x)."""
        x, beta = self.cached(self.x), self.parameters["beta"]
        dy = self.incoming(dy, x.shape, x.dtype)
        s = sigmoid(beta * x)
        curve = x * s * (1 - s)
        np.sum((dy * x * curve).reshape(-1, len(beta)), axis=0, out=self.gradient("beta"))
        return dy * (s + beta * curve)

    def predict(self, x):
        """Return y and store nothing on the layer."""
        x = self.floats(x)
        return x * sigmoid(self.parameters["beta"] * x)


@register_layer("example_swish")
class SwishSpec(LayerSpec):
    """Swish: y = x * sigmoid(beta * x), with a trained beta per feature of the last axis."""

    layer = Swish
    is_activation = True
    rectifier = True

    beta: PositiveReal = 1.0
    """Initial value of beta, the sharpness."""

    def parameters(self, shapes):
        """Describe the initial values: every beta starts at the document's number."""
        return {"beta": ParameterSpec(Constant(value=self.beta), decay=False)}
