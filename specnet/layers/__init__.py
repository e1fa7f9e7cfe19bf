"""The built-in layers, each beside the others of its family, and in specs.py what documents say of them.

Names are resolved when first used: a loaded network imports the files of its own layers only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnet.layer import Layer as Layer
    from specnet.layers.affine import Affine as Affine
    from specnet.layers.composite import Concat as Concat
    from specnet.layers.composite import Residual as Residual
    from specnet.layers.composite import Sequential as Sequential
    from specnet.layers.dropout import Dropout as Dropout
    from specnet.layers.elu import Elu as Elu
    from specnet.layers.elu import Selu as Selu
    from specnet.layers.embedding import Embedding as Embedding
    from specnet.layers.gelu import Gelu as Gelu
    from specnet.layers.norm import BatchNorm as BatchNorm
    from specnet.layers.norm import LayerNorm as LayerNorm
    from specnet.layers.norm import RmsNorm as RmsNorm
    from specnet.layers.relu import LeakyRelu as LeakyRelu
    from specnet.layers.relu import Prelu as Prelu
    from specnet.layers.relu import Relu as Relu
    from specnet.layers.reshape import Flatten as Flatten
    from specnet.layers.reshape import Reshape as Reshape
    from specnet.layers.sigmoid import Mish as Mish
    from specnet.layers.sigmoid import Sigmoid as Sigmoid
    from specnet.layers.sigmoid import Silu as Silu
    from specnet.layers.sigmoid import Softplus as Softplus
    from specnet.layers.sigmoid import Tanh as Tanh
    from specnet.layers.softmax import LogSoftmax as LogSoftmax
    from specnet.layers.softmax import Softmax as Softmax
    from specnet.layers.standardize import Standardize as Standardize

_HOMES = {
    "Affine": "affine",
    "BatchNorm": "norm",
    "Concat": "composite",
    "Dropout": "dropout",
    "Elu": "elu",
    "Embedding": "embedding",
    "Flatten": "reshape",
    "Gelu": "gelu",
    "LayerNorm": "norm",
    "LeakyRelu": "relu",
    "LogSoftmax": "softmax",
    "Mish": "sigmoid",
    "Prelu": "relu",
    "Relu": "relu",
    "Reshape": "reshape",
    "Residual": "composite",
    "RmsNorm": "norm",
    "Selu": "elu",
    "Sequential": "composite",
    "Sigmoid": "sigmoid",
    "Silu": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "sigmoid",
    "Standardize": "standardize",
    "Tanh": "sigmoid",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - the keys are strings


def built_in(type_name: str) -> type[Layer] | None:
    """Give the class of a built-in layer: "leaky_relu" -> LeakyRelu; None for a type that is not built in."""
    name = type_name.title().replace("_", "")
    return getattr(import_module(f"specnet.layers.{_HOMES[name]}"), name) if name in _HOMES else None


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"specnet.layers.{_HOMES[name]}"), name)
    if name in ("Layer", "LayerSpec"):
        return getattr(import_module(f"specnet.{name.lower()}"), name)
    if name.endswith("Spec") and name.removesuffix("Spec") in _HOMES:
        return getattr(import_module("specnet.layers.specs"), name)
    msg = f"module 'specnet.layers' has no attribute {name!r}"
    raise AttributeError(msg)
