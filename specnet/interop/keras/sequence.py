"""Readers of Keras's layers over sequences; the writers are in sequence_writers.py.

The gates of an LSTM are i, f, c, o in Keras, which is specnet's order, those of a GRU z, r, h, see arrays.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from specnet.interop.imported_model import LayerNames
from specnet.interop.keras.arrays import BOTH_BIASES
from specnet.interop.keras.layers import (
    INITIALIZERS,
    READERS,
    Entry,
    Found,
    Unsupported,
    Variable,
    initializers_of,
    is_kerass,
)
from specnet.layers.sequence.bidirectional import SUFFIX

_KINDS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}


def _need_function(layer: Found, key: str, *allowed: str) -> str:
    """Return the name of a function, one of those allowed. Raises Unsupported for another one."""
    value = layer.config.get(key, allowed[0])
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
    if not isinstance(value, str) or value not in allowed:
        raise Unsupported(f"{key}={value!r:.40}, expected {' or '.join(allowed)}")
    return value


def _settings(layer: Found, class_name: str) -> Entry:
    """Return the entry of a recurrent layer without its direction. Raises Unsupported."""
    for key in ("return_state", "stateful", "time_major"):
        layer.need(key, 0)
    for key in ("dropout", "recurrent_dropout"):
        if layer.config.get(key):
            layer.notes.append(f"{layer.name}: its {key} was not imported; it only matters in training")
    entry: Entry = {"type": _KINDS[class_name], "units": layer.config.get("units")}
    entry["return_sequences"] = bool(layer.config.get("return_sequences", False))
    entry["bias"] = bool(layer.config.get("use_bias", True))
    entry |= initializers_of(layer)
    recurrent = layer.config.get("recurrent_initializer")
    kind = recurrent.get("class_name") if isinstance(recurrent, Mapping) else recurrent
    if isinstance(kind, str) and kind in INITIALIZERS:
        entry["recurrent_init"] = INITIALIZERS[kind]
    if class_name == "SimpleRNN":
        return {**entry, "activation": _need_function(layer, "activation", "tanh", "relu")}
    _need_function(layer, "activation", "tanh")
    _need_function(layer, "recurrent_activation", "sigmoid")
    if class_name == "LSTM":
        return {**entry, "unit_forget_bias": bool(layer.config.get("unit_forget_bias", True))}
    return {**entry, "reset_after": bool(layer.config.get("reset_after", False))}  # Keras before 2.1.3 has no such key


def recurrent_variables(entry: Mapping[str, object]) -> list[str]:
    """Return the targets of the variables of a recurrent layer, in Keras's order."""
    if entry["type"] != "gru":
        return ["weight", "recurrent_weight", *(["bias"] if entry["bias"] else [])]
    bias = BOTH_BIASES if entry["reset_after"] else "zrh_bias"
    return ["zrh_weight", "zrh_recurrent_weight", *([bias] if entry["bias"] else [])]


def _recurrent(class_name: str) -> Callable[[Found], list[Entry]]:
    def read(layer: Found) -> list[Entry]:
        entry = _settings(layer, class_name)
        entry["reverse"] = bool(layer.config.get("go_backwards", False))
        if entry["reverse"] and entry["return_sequences"]:
            raise Unsupported("go_backwards with return_sequences, which returns the steps in the reverse order")
        layer.variables = [Variable(target) for target in recurrent_variables(entry)]
        return [entry]

    return read


def _bidirectional(layer: Found) -> list[Entry]:
    layer.need("merge_mode", "concat")
    entry, name = _inner(layer, "layer", backwards=False)
    if layer.config.get("backward_layer") is not None:
        other, _ = _inner(layer, "backward_layer", backwards=True)
        if any(entry[key] != other[key] for key in entry if not key.endswith("_init")):
            raise Unsupported("a backward_layer with other settings than the forward layer")
    layer.variables = [
        Variable(f"{name}{end}.{target}") for end in ("", SUFFIX) for target in recurrent_variables(entry)
    ]
    return [{"type": "bidirectional", "layers": [{**entry, "name": name}]}]


def _inner(layer: Found, key: str, *, backwards: bool) -> tuple[Entry, str]:
    """Return the entry and the name of a recurrent layer inside another layer. Raises Unsupported."""
    class_name, config = _wrapped(layer, key)
    if class_name not in _KINDS:
        raise Unsupported(f"{key}={class_name!r:.40}, expected one of {', '.join(_KINDS)}")
    if bool(config.get("go_backwards", False)) != backwards:
        raise Unsupported(f"{key} with go_backwards={not backwards}")
    inner = Found(layer.name, config, layer.shape)
    entry = _settings(inner, class_name)
    layer.notes += inner.notes
    return entry, LayerNames()(str(config.get("name", entry["type"])).removeprefix("forward_"))


def _wrapped(layer: Found, key: str) -> tuple[str, Mapping[str, Any]]:
    """Return the class of a layer inside another one, "" if it is not one of Keras's, and its config."""
    value = layer.config.get(key)
    config = value.get("config") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(config, Mapping) or not is_kerass(value):
        return "", {}
    return str(value.get("class_name")), config


def _time_distributed(layer: Found) -> list[Entry]:
    """Read a Dense layer at every step, which is what a Dense layer does anyway."""
    class_name, config = _wrapped(layer, "layer")
    if class_name != "Dense":
        raise Unsupported(f"layer={class_name!r:.40}, expected Dense")
    inner = Found(layer.name, config, layer.shape)
    entries = READERS["Dense"](inner)
    layer.variables = inner.variables
    return entries


def _embedding(layer: Found) -> list[Entry]:
    layer.need("lora_rank", None)
    layer.variables = [Variable("weight")]
    sizes = {"vocabulary": layer.config.get("input_dim"), "dimension": layer.config.get("output_dim")}
    return [{"type": "embedding", **sizes, **({"mask_index": 0} if layer.config.get("mask_zero") else {})}]


SEQUENCE_READERS: dict[str, Callable[[Found], list[Entry]]] = {
    **{class_name: _recurrent(class_name) for class_name in _KINDS},
    "Bidirectional": _bidirectional,
    "Embedding": _embedding,
    "Masking": lambda layer: [{"type": "mask", "value": layer.number("mask_value", default=0.0)}],
    "TimeDistributed": _time_distributed,
}
