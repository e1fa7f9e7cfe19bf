"""The built-in layers, a file a family. What documents say of a family is in the file of the same name in spec/layers/.

Imports `arrays`, `kernels`, `chain`, `composite`, `layer` and `plan`; no Pydantic. Names are resolved when first used,
so a loaded network imports the files of its own layers only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnet.layer import Layer
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

FAMILIES = {
    "affine": {"affine": "Affine"},
    "embedding": {"embedding": "Embedding"},
    "standardize": {"standardize": "Standardize"},
    "relu": {"relu": "Relu", "leaky_relu": "LeakyRelu", "prelu": "Prelu"},
    "elu": {"elu": "Elu", "selu": "Selu"},
    "gelu": {"gelu": "Gelu"},
    "sigmoid": {"silu": "Silu", "mish": "Mish", "softplus": "Softplus", "sigmoid": "Sigmoid", "tanh": "Tanh"},
    "softmax": {"softmax": "Softmax", "log_softmax": "LogSoftmax"},
    "norm": {"batch_norm": "BatchNorm", "layer_norm": "LayerNorm", "rms_norm": "RmsNorm"},
    "dropout": {"dropout": "Dropout"},
    "reshape": {"flatten": "Flatten", "reshape": "Reshape"},
    "composite": {"sequential": "Sequential", "residual": "Residual", "concat": "Concat"},
}
"""Every built-in layer: file -> {type in a document: class}. A new family adds a row here and its two files."""

_BY_TYPE = {kind: (family, name) for family, row in FAMILIES.items() for kind, name in row.items()}
_BY_NAME = {name: family for family, name in _BY_TYPE.values()}

__all__ = [*_BY_NAME]  # noqa: PLE0604 - the keys are strings


def built_in(type_name: str) -> type[Layer] | None:
    """Return the class of a built-in layer type, "leaky_relu" -> LeakyRelu; None for a type that is not built in."""
    if type_name not in _BY_TYPE:
        return None
    family, name = _BY_TYPE[type_name]
    layer: type[Layer] = getattr(import_module(f"specnet.layers.{family}"), name)
    return layer


def __getattr__(name: str) -> Any:
    if name in _BY_NAME:
        return getattr(import_module(f"specnet.layers.{_BY_NAME[name]}"), name)
    spec = name.removesuffix("Spec")
    if spec != name and spec in _BY_NAME:  # public names: the one import against the order of the package
        return getattr(import_module(f"specnet.spec.layers.{_BY_NAME[spec]}"), name)
    msg = f"module 'specnet.layers' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*_BY_NAME, *(f"{name}Spec" for name in _BY_NAME)])
