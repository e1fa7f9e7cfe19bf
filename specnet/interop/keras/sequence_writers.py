"""Writers of layers over sequences in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import SpecnetError
from specnet.interop.keras.layer_writers import Written, initializer_settings
from specnet.interop.keras.layers import Entry
from specnet.interop.keras.sequence import recurrent_variables
from specnet.layers.sequence.bidirectional import SUFFIX

_CLASSES = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def _config(kind: str, fields: Mapping[str, Any]) -> Entry:
    config: Entry = {
        "units": fields["units"],
        "activation": fields.get("activation", "tanh"),
        "use_bias": fields["bias"],
        "return_sequences": fields["return_sequences"],
        "go_backwards": fields["reverse"],
        **initializer_settings(fields),
    }
    if kind != "simple_rnn":
        config["recurrent_activation"] = "sigmoid"
    own = {"lstm": ("unit_forget_bias",), "gru": ("reset_after",)}.get(kind, ())
    return {**config, **{key: fields[key] for key in own}}


def _recurrent(kind: str) -> Callable[[Mapping[str, Any], ShapeTuple], Written]:
    def write(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
        if fields["reverse"] and fields["return_sequences"]:
            msg = "Keras returns the steps of a reversed layer from the last to the first, specnet in their order"
            raise SpecnetError(f"{msg}; use bidirectional, or export to onnx instead")
        return Written(_CLASSES[kind], _config(kind, fields), tuple(recurrent_variables({**fields, "type": kind})))

    return write


def _bidirectional(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    (inner,) = fields["layers"]
    entry = {"module": "keras.layers", "class_name": _CLASSES[inner.type], "registered_name": None}
    config = {"name": inner.name, **_config(inner.type, inner.fields())}
    targets = recurrent_variables({**inner.fields(), "type": inner.type})
    variables = tuple(f"{inner.name}{end}.{target}" for end in ("", SUFFIX) for target in targets)
    return Written("Bidirectional", {"merge_mode": "concat", "layer": {**entry, "config": config}}, variables)


def _embedding(fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    if fields["mask_index"] not in (None, 0):
        msg = f"Keras masks the index 0, not the mask_index {fields['mask_index']}; export to onnx instead"
        raise SpecnetError(msg)
    config = {"input_dim": fields["vocabulary"], "output_dim": fields["dimension"]}
    return Written("Embedding", {**config, "mask_zero": fields["mask_index"] == 0}, ("weight",))


def _last_step(_fields: Mapping[str, Any], _shape: ShapeTuple) -> Written:
    msg = "a Keras Sequential has no layer of type 'last_step'; make the layer before it return its last step"
    raise SpecnetError(f"{msg} (return_sequences false), or export to onnx instead")


SEQUENCE_WRITERS: dict[str, Callable[[Mapping[str, Any], ShapeTuple], Written]] = {
    **{kind: _recurrent(kind) for kind in _CLASSES},
    "bidirectional": _bidirectional,
    "embedding": _embedding,
    "last_step": _last_step,
    "mask": lambda fields, _: Written("Masking", {"mask_value": fields["value"]}),
    "time_average": lambda _fields, _: Written(
        "GlobalAveragePooling1D", {"data_format": "channels_last", "keepdims": False}
    ),
}
