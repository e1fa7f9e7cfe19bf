"""Each layer type as Keras writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import SpecnetError
from specnet.interop.keras.layers import INITIALIZERS, Entry

# To Keras.


class Written(NamedTuple):
    """A layer as Keras has it: its class, its config but for name and dtype, its variables in Keras's order."""

    class_name: str
    config: Entry
    variables: tuple[str, ...] = ()


def _write_affine(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    bias = fields["bias"]
    config = {"units": fields["units"], "use_bias": bias, "activation": "linear"}
    theirs = {ours: name for name, ours in INITIALIZERS.items()}
    for ours, key in (("weight_init", "kernel_initializer"), ("bias_init", "bias_initializer")):
        if isinstance(fields[ours], str):
            made = {"module": "keras.initializers", "class_name": theirs[fields[ours]], "config": {}}
            config[key] = {**made, "registered_name": None}
    return Written("Dense", config, ("weight", "bias") if bias else ("weight",))


def _write_gelu(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    if fields["approximate"] != "none":
        msg = 'Keras has no layer for gelu with approximate "tanh"; ONNX has'
        raise SpecnetError(msg)
    return Written("Activation", {"activation": "gelu"})


def _write_softplus(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    if fields["beta"] != 1:
        msg = f"Keras has no softplus of beta {fields['beta']:g}; ONNX has"
        raise SpecnetError(msg)
    return Written("Activation", {"activation": "softplus"})


def _write_batch_norm(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    config = {"axis": -1, "momentum": round(1 - fields["momentum"], 12), "epsilon": fields["epsilon"]}
    return Written("BatchNormalization", config, ("scale", "shift", "running_mean", "running_var"))


def _write_standardize(fields: Mapping[str, Any], shape: ShapeTuple) -> Written:
    if fields["mean"] is None:
        return Written("Normalization", {"axis": [-1]}, ("mean", "variance", ""))
    mean, std = (np.broadcast_to(np.asarray(fields[key], np.float64), shape[-1:]) for key in ("mean", "std"))
    return Written("Normalization", {"axis": [-1], "mean": mean.tolist(), "variance": (std * std).tolist()})


def _of_activation(name: str) -> Callable[[Mapping[str, Any], ShapeTuple], Written]:
    return lambda _fields, _shape: Written("Activation", {"activation": name})


WRITERS: dict[str, Callable[[Mapping[str, Any], ShapeTuple], Written]] = {
    "affine": _write_affine,
    "batch_norm": _write_batch_norm,
    "dropout": lambda fields, _: Written("Dropout", {"rate": fields["rate"]}),
    "elu": lambda fields, _: Written("ELU", {"alpha": fields["alpha"]}),
    "embedding": lambda fields, _: Written(
        "Embedding", {"input_dim": fields["vocabulary"], "output_dim": fields["dimension"]}, ("weight",)
    ),
    "flatten": lambda _fields, _: Written("Flatten", {"data_format": "channels_last"}),
    "gelu": _write_gelu,
    "layer_norm": lambda fields, _: Written(
        "LayerNormalization", {"axis": -1, "epsilon": fields["epsilon"]}, ("scale", "shift")
    ),
    "leaky_relu": lambda fields, _: Written("LeakyReLU", {"negative_slope": fields["negative_slope"]}),
    "log_softmax": _of_activation("log_softmax"),
    "mish": _of_activation("mish"),
    "prelu": lambda _fields, shape: Written("PReLU", {"shared_axes": list(range(1, len(shape)))}, ("slope",)),
    "relu": lambda _fields, _: Written("ReLU", {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    "reshape": lambda fields, _: Written("Reshape", {"target_shape": list(fields["shape"])}),
    "rms_norm": lambda fields, _: Written("RMSNormalization", {"axis": -1, "epsilon": fields["epsilon"]}, ("scale",)),
    "selu": _of_activation("selu"),
    "sigmoid": _of_activation("sigmoid"),
    "silu": _of_activation("silu"),
    "softmax": lambda _fields, _: Written("Softmax", {"axis": -1}),
    "softplus": _write_softplus,
    "standardize": _write_standardize,
    "tanh": _of_activation("tanh"),
}


def to_keras_array(target: str, layer: str, arrays: Mapping[str, npt.NDArray[Any]], rank: int) -> npt.NDArray[Any]:
    """Give Keras's array of a layer's variable; arrays by full name, `rank` of the layer's inputs, with the batch."""
    if target == "":  # how many rows a Normalization has seen
        return np.zeros((), np.int32)
    if target == "variance":
        return np.asarray(arrays[f"{layer}.std"] * arrays[f"{layer}.std"])
    array = arrays[f"{layer}.{target}"]
    return array.reshape((1,) * (rank - 2) + (-1,)) if target == "slope" else array
