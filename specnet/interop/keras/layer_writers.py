"""Writers of the Keras config of each layer type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import SpecnetError
from specnet.interop.keras.layers import INITIALIZERS, Entry


class Written(NamedTuple):
    """A layer in Keras: its class, its config without name and dtype, and its variables in Keras's order.

    `before` is a ZeroPadding of its input, `after` a Cropping of its output.
    """

    class_name: str
    config: Entry
    variables: tuple[str, ...] = ()
    before: Written | None = None
    after: Written | None = None


def _write_affine(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    bias = fields["bias"]
    config = {"units": fields["units"], "use_bias": bias, "activation": "linear", **initializer_settings(fields)}
    return Written("Dense", config, ("weight", "bias") if bias else ("weight",))


def initializer_settings(fields: Mapping[str, Any], kernel: str = "kernel") -> Entry:
    """Return the settings of a layer's initializers, if Keras has them; `kernel` begins the name of the weight's."""
    config: Entry = {}
    class_names = {initializer: class_name for class_name, initializer in INITIALIZERS.items()}
    names = {"weight": kernel, "recurrent": "recurrent", "bias": "bias"}
    for field, setting in ((f"{ours}_init", f"{theirs}_initializer") for ours, theirs in names.items()):
        if isinstance(fields.get(field), str):
            initializer = {"module": "keras.initializers", "class_name": class_names[fields[field]], "config": {}}
            config[setting] = {**initializer, "registered_name": None}
    return config


def _write_gelu(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    if fields["approximate"] != "none":
        msg = 'Keras has no layer for gelu with approximate "tanh"; export to onnx instead'
        raise SpecnetError(msg)
    return Written("Activation", {"activation": "gelu"})


def _write_softplus(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    if fields["beta"] != 1:
        msg = f"Keras has no softplus with beta {fields['beta']:g}; export to onnx instead"
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


def _activation_writer(name: str) -> Callable[[Mapping[str, Any], ShapeTuple], Written]:
    return lambda _fields, _shape: Written("Activation", {"activation": name})


WRITERS: dict[str, Callable[[Mapping[str, Any], ShapeTuple], Written]] = {
    "affine": _write_affine,
    "batch_norm": _write_batch_norm,
    "dropout": lambda fields, _: Written("Dropout", {"rate": fields["rate"]}),
    "elu": lambda fields, _: Written("ELU", {"alpha": fields["alpha"]}),
    "flatten": lambda _fields, _: Written("Flatten", {"data_format": "channels_last"}),
    "gelu": _write_gelu,
    "layer_norm": lambda fields, _: Written(
        "LayerNormalization", {"axis": -1, "epsilon": fields["epsilon"]}, ("scale", "shift")
    ),
    "leaky_relu": lambda fields, _: Written("LeakyReLU", {"negative_slope": fields["negative_slope"]}),
    "log_softmax": _activation_writer("log_softmax"),
    "mish": _activation_writer("mish"),
    "prelu": lambda _fields, shape: Written("PReLU", {"shared_axes": list(range(1, len(shape)))}, ("slope",)),
    "relu": lambda _fields, _: Written("ReLU", {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    "reshape": lambda fields, _: Written("Reshape", {"target_shape": list(fields["shape"])}),
    "rms_norm": lambda fields, _: Written("RMSNormalization", {"axis": -1, "epsilon": fields["epsilon"]}, ("scale",)),
    "selu": _activation_writer("selu"),
    "sigmoid": _activation_writer("sigmoid"),
    "silu": _activation_writer("silu"),
    "softmax": lambda _fields, _: Written("Softmax", {"axis": -1}),
    "softplus": _write_softplus,
    "standardize": _write_standardize,
    "tanh": _activation_writer("tanh"),
}
