"""The built-in layers, one file per family. The specs of a family are in the file of the same name in spec/layers/.

Imports `arrays`, `kernels`, `chain`, `composite`, `layer` and `plan`, but not Pydantic. Names are resolved when first
used, so a loaded network imports only the files of its layers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnet.layer import Layer
    from specnet.layers.affine import Affine as Affine
    from specnet.layers.batch_norm import BatchNorm as BatchNorm
    from specnet.layers.composite import Concat as Concat
    from specnet.layers.composite import Residual as Residual
    from specnet.layers.composite import Sequential as Sequential
    from specnet.layers.dropout import ChannelDropout as ChannelDropout
    from specnet.layers.dropout import Dropout as Dropout
    from specnet.layers.elu import Elu as Elu
    from specnet.layers.elu import Selu as Selu
    from specnet.layers.embedding import Embedding as Embedding
    from specnet.layers.gelu import Gelu as Gelu
    from specnet.layers.norm import LayerNorm as LayerNorm
    from specnet.layers.norm import RmsNorm as RmsNorm
    from specnet.layers.relu import LeakyRelu as LeakyRelu
    from specnet.layers.relu import Prelu as Prelu
    from specnet.layers.relu import Relu as Relu
    from specnet.layers.reshape import Flatten as Flatten
    from specnet.layers.reshape import Reshape as Reshape
    from specnet.layers.sequence.attention import Attention as Attention
    from specnet.layers.sequence.bidirectional import Bidirectional as Bidirectional
    from specnet.layers.sequence.gru import Gru as Gru
    from specnet.layers.sequence.lstm import Lstm as Lstm
    from specnet.layers.sequence.positional_encoding import PositionalEncoding as PositionalEncoding
    from specnet.layers.sequence.simple_rnn import SimpleRnn as SimpleRnn
    from specnet.layers.sequence.steps import LastStep as LastStep
    from specnet.layers.sequence.steps import Mask as Mask
    from specnet.layers.sequence.steps import TimeAverage as TimeAverage
    from specnet.layers.sigmoid import Mish as Mish
    from specnet.layers.sigmoid import Sigmoid as Sigmoid
    from specnet.layers.sigmoid import Silu as Silu
    from specnet.layers.sigmoid import Softplus as Softplus
    from specnet.layers.sigmoid import Tanh as Tanh
    from specnet.layers.softmax import LogSoftmax as LogSoftmax
    from specnet.layers.softmax import Softmax as Softmax
    from specnet.layers.spatial.conv import Conv1d as Conv1d
    from specnet.layers.spatial.conv import Conv2d as Conv2d
    from specnet.layers.spatial.conv_transpose import ConvTranspose1d as ConvTranspose1d
    from specnet.layers.spatial.conv_transpose import ConvTranspose2d as ConvTranspose2d
    from specnet.layers.spatial.global_pool import GlobalAveragePool as GlobalAveragePool
    from specnet.layers.spatial.global_pool import GlobalMaxPool as GlobalMaxPool
    from specnet.layers.spatial.pad import Crop1d as Crop1d
    from specnet.layers.spatial.pad import Crop2d as Crop2d
    from specnet.layers.spatial.pad import ZeroPad1d as ZeroPad1d
    from specnet.layers.spatial.pad import ZeroPad2d as ZeroPad2d
    from specnet.layers.spatial.pool import AveragePool1d as AveragePool1d
    from specnet.layers.spatial.pool import AveragePool2d as AveragePool2d
    from specnet.layers.spatial.pool import MaxPool1d as MaxPool1d
    from specnet.layers.spatial.pool import MaxPool2d as MaxPool2d
    from specnet.layers.spatial.upsample import Upsample1d as Upsample1d
    from specnet.layers.spatial.upsample import Upsample2d as Upsample2d
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
    "batch_norm": {"batch_norm": "BatchNorm"},
    "norm": {"layer_norm": "LayerNorm", "rms_norm": "RmsNorm"},
    "dropout": {"dropout": "Dropout", "channel_dropout": "ChannelDropout"},
    "reshape": {"flatten": "Flatten", "reshape": "Reshape"},
    "spatial.conv": {"conv1d": "Conv1d", "conv2d": "Conv2d"},
    "spatial.conv_transpose": {"conv_transpose1d": "ConvTranspose1d", "conv_transpose2d": "ConvTranspose2d"},
    "spatial.pool": {
        "max_pool1d": "MaxPool1d",
        "max_pool2d": "MaxPool2d",
        "average_pool1d": "AveragePool1d",
        "average_pool2d": "AveragePool2d",
    },
    "spatial.global_pool": {"global_average_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool"},
    "spatial.pad": {"zero_pad1d": "ZeroPad1d", "zero_pad2d": "ZeroPad2d", "crop1d": "Crop1d", "crop2d": "Crop2d"},
    "spatial.upsample": {"upsample1d": "Upsample1d", "upsample2d": "Upsample2d"},
    "sequence.simple_rnn": {"simple_rnn": "SimpleRnn"},
    "sequence.lstm": {"lstm": "Lstm"},
    "sequence.gru": {"gru": "Gru"},
    "sequence.bidirectional": {"bidirectional": "Bidirectional"},
    "sequence.attention": {"attention": "Attention"},
    "sequence.positional_encoding": {"positional_encoding": "PositionalEncoding"},
    "sequence.steps": {"mask": "Mask", "last_step": "LastStep", "time_average": "TimeAverage"},
    "composite": {"sequential": "Sequential", "residual": "Residual", "concat": "Concat"},
}
"""All built-in layers: file (a dot is a folder) -> {type in a document: class}. A family adds a row and two files."""

_CLASS_OF = {kind: (family, name) for family, row in FAMILIES.items() for kind, name in row.items()}
_FAMILY_OF = {name: family for family, name in _CLASS_OF.values()}

__all__ = [*_FAMILY_OF]  # noqa: PLE0604 - the keys are strings


def built_in(type_name: str) -> type[Layer] | None:
    """Return the class of a built-in layer type, "leaky_relu" -> LeakyRelu; None for a type that is not built in."""
    if type_name not in _CLASS_OF:
        return None
    family, name = _CLASS_OF[type_name]
    layer: type[Layer] = getattr(import_module(f"specnet.layers.{family}"), name)
    return layer


def __getattr__(name: str) -> Any:
    if name in _FAMILY_OF:
        return getattr(import_module(f"specnet.layers.{_FAMILY_OF[name]}"), name)
    layer_name = name.removesuffix("Spec")
    if layer_name != name and layer_name in _FAMILY_OF:  # the only import against the package's order
        return getattr(import_module(f"specnet.spec.layers.{_FAMILY_OF[layer_name]}"), name)
    msg = f"module 'specnet.layers' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*_FAMILY_OF, *(f"{name}Spec" for name in _FAMILY_OF)])
