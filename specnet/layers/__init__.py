"""The built-in layers: importing this registers them; each file holds documents and objects side by side."""

from specnet.layer import Layer, LayerSpec
from specnet.layers.affine import Affine, AffineSpec
from specnet.layers.dropout import Dropout, DropoutSpec
from specnet.layers.elu import Elu, EluSpec, Selu, SeluSpec
from specnet.layers.flatten import Flatten, FlattenSpec
from specnet.layers.gelu import Gelu, GeluSpec
from specnet.layers.relu import LeakyRelu, LeakyReluSpec, Relu, ReluSpec
from specnet.layers.sigmoid import (
    Mish,
    MishSpec,
    Sigmoid,
    SigmoidSpec,
    Silu,
    SiluSpec,
    Softplus,
    SoftplusSpec,
    Tanh,
    TanhSpec,
)
from specnet.layers.softmax import LogSoftmax, LogSoftmaxSpec, Softmax, SoftmaxSpec

__all__ = [
    "Affine",
    "AffineSpec",
    "Dropout",
    "DropoutSpec",
    "Elu",
    "EluSpec",
    "Flatten",
    "FlattenSpec",
    "Gelu",
    "GeluSpec",
    "Layer",
    "LayerSpec",
    "LeakyRelu",
    "LeakyReluSpec",
    "LogSoftmax",
    "LogSoftmaxSpec",
    "Mish",
    "MishSpec",
    "Relu",
    "ReluSpec",
    "Selu",
    "SeluSpec",
    "Sigmoid",
    "SigmoidSpec",
    "Silu",
    "SiluSpec",
    "Softmax",
    "SoftmaxSpec",
    "Softplus",
    "SoftplusSpec",
    "Tanh",
    "TanhSpec",
]
