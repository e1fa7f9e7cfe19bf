"""Readers of Keras's layer configs; the writers are in layer_writers.py.

Keras stores Dense's kernel as (in, out), as `affine` does. A layer's variables are in Keras's order, the trained ones
first. Keras's batch normalization updates its running variance with the biased batch variance, specnet the unbiased.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from specnet.arrays.parameters import ShapeTuple
from specnet.interop.imported_model import undo_float32_rounding

Entry = dict[str, Any]


EPSILON = 1e-7
"""Keras's epsilon(), the smallest standard deviation by which its Normalization divides."""


class Unsupported(Exception):  # noqa: N818 - a reason, collected with others before an error is raised
    """The reason why a Keras layer cannot be converted."""


class Variable(NamedTuple):
    """A variable of a Keras layer: the specnet array for it, "" if it is dropped, and whether Keras trains it.

    Targets such as "turned" are weights in another layout, see arrays.py. `layer` is the index of the variable's layer,
    if Keras's layer becomes several.
    """

    target: str
    trained: bool = True
    layer: int = 0


class Found:
    """A layer of a Keras config: the input of its reader, and the variables, fills and notes that the reader adds.

    `masked` says whether its input has a mask. If it becomes several layers, the one at index `main` has its name.
    """

    def __init__(self, name: str, config: Mapping[str, Any], shape: ShapeTuple, *, masked: bool = False) -> None:
        self.name = name
        self.config = config
        self.shape = shape
        self.masked = masked
        self.variables: list[Variable] = []
        self.fills: dict[str, float] = {}
        """The fill values of arrays that Keras omits, for a normalization without scale or center."""
        self.notes: list[str] = []
        self.main = 0

    def need(self, key: str, *allowed: Any) -> None:
        """Raise Unsupported if a setting has another value than `allowed`; a missing setting is accepted."""
        value = self.config.get(key, allowed[0])
        if value not in allowed:
            raise Unsupported(f"{key}={value!r:.40}")

    def number(self, *keys: str, default: float) -> float:
        """Return a number under the first of its names that is present (Keras 2 has other names for some)."""
        value = next((self.config[key] for key in keys if self.config.get(key) is not None), default)
        if isinstance(value, Mapping):  # how Keras 2 writes arrays
            written = value.get("config")
            value = np.asarray(written.get("value", math.nan)).item() if isinstance(written, Mapping) else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Unsupported(f"{keys[0]}={value!r:.40}")
        return undo_float32_rounding(float(value))

    def need_last_axis(self, key: str = "axis") -> None:
        """Raise Unsupported if the layer works on another axis than the last."""
        axis = self.config.get(key, -1)
        axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
        if axis not in (-1, len(self.shape)):
            raise Unsupported(f"{key}={axis!r:.40}, expected the last axis")


def is_kerass(layer: Mapping[str, Any]) -> bool:
    """Return whether a layer is Keras's, not a custom layer of the same name. Legacy files do not name the module."""
    class_name = layer.get("class_name")
    module = layer.get("module", "keras")
    is_keras_module = str(module).split(".", maxsplit=1)[0] in ("keras", "tf_keras", "tensorflow")
    return is_keras_module and (layer.get("registered_name") or class_name) == class_name


def keys_by_class(class_names: Iterable[str]) -> list[str]:
    """Return the keys of layers in a weights file: the class in snake case, from the second on with a number."""
    counts: dict[str, int] = {}
    keys = []
    for class_name in class_names:
        kind = _snake_case(class_name)
        number = counts[kind] = counts.get(kind, -1) + 1
        keys.append(f"{kind}_{number}" if number else kind)
    return keys


def _snake_case(class_name: str) -> str:
    """Convert a class name to snake case: LeakyReLU becomes leaky_re_lu."""
    separated = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", separated).lower()


_ACTIVATIONS: dict[str, Entry] = {
    "relu": {"type": "relu"},
    "leaky_relu": {"type": "leaky_relu", "negative_slope": 0.2},
    "elu": {"type": "elu"},
    "selu": {"type": "selu"},
    "gelu": {"type": "gelu"},
    "silu": {"type": "silu"},
    "swish": {"type": "silu"},
    "mish": {"type": "mish"},
    "softplus": {"type": "softplus"},
    "sigmoid": {"type": "sigmoid"},
    "tanh": {"type": "tanh"},
    "softmax": {"type": "softmax"},
    "log_softmax": {"type": "log_softmax"},
}


INITIALIZERS = {
    "HeNormal": "he_normal",
    "HeUniform": "he_uniform",
    "GlorotNormal": "glorot_normal",
    "GlorotUniform": "glorot_uniform",
    "LecunNormal": "lecun_normal",
    "Zeros": "zeros",
    "Ones": "ones",
    "Orthogonal": "orthogonal",
}


def activation_after(layer: Found) -> list[Entry]:
    """Read the setting `activation` of a layer as an additional layer; return nothing for a linear activation."""
    value = layer.config.get("activation", "linear")
    if isinstance(value, Mapping):  # a layer, or the name of a function
        inner, kind = value.get("config"), str(value.get("class_name"))
        if isinstance(inner, Mapping) and kind in READERS and is_kerass(value):
            units = layer.config.get("units", layer.config.get("filters"))
            output_shape = (*layer.shape[:-1], units) if isinstance(units, int) else layer.shape
            activation = Found(layer.name, inner, output_shape)
            entries = READERS[kind](activation)
            if activation.variables or activation.fills:
                raise Unsupported(f"activation={kind:.40}, which has weights; make it a separate layer")
            return entries
        value = inner if kind == "function" else kind
    if value in (None, "linear"):
        return []
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise Unsupported(f"activation={value!r:.40}")
    return [dict(_ACTIVATIONS[value])]


def initializers_of(layer: Found, kernel: str = "kernel") -> Entry:
    """Return the initializers of a layer's weight and bias, if specnet has them; `kernel` begins the name of one."""
    found: Entry = {}
    for field, setting in (("weight_init", f"{kernel}_initializer"), ("bias_init", "bias_initializer")):
        value = layer.config.get(setting)
        kind = value.get("class_name") if isinstance(value, Mapping) else value
        if isinstance(kind, str) and kind in INITIALIZERS:
            found[field] = INITIALIZERS[kind]
    return found


def _dense(layer: Found) -> list[Entry]:
    layer.need("quantization_config", None)
    layer.need("lora_rank", None)
    bias = bool(layer.config.get("use_bias", True))
    layer.variables = [Variable("weight"), *([Variable("bias")] if bias else [])]
    entry: Entry = {"type": "affine", "units": layer.config.get("units"), "bias": bias, **initializers_of(layer)}
    return [entry, *activation_after(layer)]


def _relu(layer: Found) -> list[Entry]:
    layer.need("max_value", None)
    layer.need("threshold", 0, None)
    slope = layer.number("negative_slope", default=0)
    return [{"type": "leaky_relu", "negative_slope": slope} if slope else {"type": "relu"}]


def _prelu(layer: Found) -> list[Entry]:
    shared = layer.config.get("shared_axes") or []
    if sorted(shared) != list(range(1, len(layer.shape))):
        raise Unsupported(f"shared_axes={shared!r:.40}, expected all axes except the last")
    layer.variables = [Variable("slope")]
    return [{"type": "prelu"}]


def _softmax(layer: Found) -> list[Entry]:
    layer.need_last_axis()
    return [{"type": "softmax"}]


def _dropout(layer: Found) -> list[Entry]:
    layer.need("noise_shape", None)
    return [{"type": "dropout", "rate": layer.number("rate", default=math.nan)}]


def _reshape(layer: Found) -> list[Entry]:
    shape = list(layer.config.get("target_shape") or ())
    if shape.count(-1) == 1:
        product = -math.prod(shape)
        shape[shape.index(-1)] = math.prod(layer.shape) // product if product > 0 else 0
    return [{"type": "reshape", "shape": shape}]


def _flatten(layer: Found) -> list[Entry]:
    layer.need("data_format", "channels_last")
    return [{"type": "flatten"}]


def _add_scale_and_shift(layer: Found) -> None:
    """Add the variables gamma and beta; one that the layer does not have is filled with its neutral value."""
    for key, target, fill in (("scale", "scale", 1.0), ("center", "shift", 0.0)):
        if layer.config.get(key, True):
            layer.variables.append(Variable(target))
        else:
            layer.fills[target] = fill
            layer.notes.append(f"{layer.name}: has no {target} in Keras; here it starts at {fill:g} and is trained")


def _batch_norm(layer: Found) -> list[Entry]:
    layer.need_last_axis()
    layer.need("renorm", 0)
    _add_scale_and_shift(layer)
    layer.variables += [Variable("running_mean", trained=False), Variable("running_var", trained=False)]
    momentum = round(1 - layer.number("momentum", default=0.99), 12)  # so that 1 - 0.99 is 0.01
    return [{"type": "batch_norm", "momentum": momentum, "epsilon": layer.number("epsilon", default=1e-3)}]


def _layer_norm(layer: Found) -> list[Entry]:
    layer.need_last_axis()
    layer.need("rms_scaling", 0)
    _add_scale_and_shift(layer)
    return [{"type": "layer_norm", "epsilon": layer.number("epsilon", default=1e-3)}]


def _rms_norm(layer: Found) -> list[Entry]:
    layer.need_last_axis()
    layer.variables = [Variable("scale")]
    return [{"type": "rms_norm", "epsilon": layer.number("epsilon", default=1e-6)}]


def _normalization(layer: Found) -> list[Entry]:
    layer.need_last_axis()
    layer.need("invert", 0)
    if layer.config.get("mean") is None:
        layer.variables = [Variable(name, trained=False) for name in ("mean", "variance", "")]
        return [{"type": "standardize"}]
    mean, variance = (np.asarray(layer.config[key], np.float64).reshape(-1) for key in ("mean", "variance"))
    std = np.maximum(np.sqrt(variance), EPSILON)
    values = [value.item() if value.size == 1 else value.tolist() for value in (mean, std)]
    return [{"type": "standardize", "mean": values[0], "std": values[1]}]


READERS: dict[str, Callable[[Found], list[Entry]]] = {
    "Activation": activation_after,
    "BatchNormalization": _batch_norm,
    "Dense": _dense,
    "Dropout": _dropout,
    "ELU": lambda layer: [{"type": "elu", "alpha": layer.number("alpha", default=1.0)}],
    "Flatten": _flatten,
    "LayerNormalization": _layer_norm,
    "LeakyReLU": lambda layer: [
        {"type": "leaky_relu", "negative_slope": layer.number("negative_slope", "alpha", default=0.3)}
    ],
    "Normalization": _normalization,
    "PReLU": _prelu,
    "RMSNormalization": _rms_norm,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Softmax": _softmax,
}
