"""The arrays of layers over sequences under torch's names, with the features of the inputs on the last axis.

recurrent  weight, recurrent_weight         weight_ih_l0, weight_hh_l0
           bias                             bias_ih_l0 and bias_hh_l0, of which the sum counts
           recurrent_bias of a gru          the part of bias_hh_l0 in the gate n
attention  query, key, value                in_proj_weight, in_proj_bias
           output                           out_proj.weight, out_proj.bias

The second direction of a bidirectional layer has names that end with "_reverse". The gates have the same order in both.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.interop.imported_model import Arrays, unsupported
from specnet.interop.recurrent_biases import join_biases, split_biases
from specnet.layers.sequence.attention import INPUTS
from specnet.layers.sequence.bidirectional import SUFFIX
from specnet.spec.model_spec import ModelSpec

_RECURRENT = ("simple_rnn", "lstm", "gru")


_STACKED = re.compile(r"(?P<owner>.*\.)?(?P<name>(weight|bias)_(ih|hh))_l(?P<number>\d{1,4})(?P<end>(_reverse)?)")
"""An array of one of several recurrent layers of a module."""


class TorchModule(NamedTuple):
    """A layer that torch stores under other names: its type, full name, and its arrays' shapes by specnet's names.

    A bidirectional layer has the names of both of its layers, "lstm_1.weight" and "lstm_1_reverse.weight".
    """

    kind: str
    name: str
    shapes: Mapping[str, ShapeTuple]
    directions: tuple[str, ...]
    """What the names of each direction's arrays begin with: ("",) for a single layer."""

    def torch_shapes(self) -> dict[str, ShapeTuple]:
        """Return the shapes of torch's arrays by their names."""
        if self.kind == "attention":
            features, width = self.shapes["query"]
            biases = {"in_proj_bias": (3 * width,), "out_proj.bias": (features,)} if "query_bias" in self.shapes else {}
            return {"in_proj_weight": (3 * width, features), "out_proj.weight": (width, features)[::-1], **biases}
        made: dict[str, ShapeTuple] = {}
        for prefix, end in zip(self.directions, ("", "_reverse"), strict=False):
            made[f"weight_ih_l0{end}"] = self.shapes[f"{prefix}weight"][::-1]
            made[f"weight_hh_l0{end}"] = self.shapes[f"{prefix}recurrent_weight"][::-1]
            if f"{prefix}bias" in self.shapes:
                made |= dict.fromkeys((f"bias_ih_l0{end}", f"bias_hh_l0{end}"), self.shapes[f"{prefix}bias"])
        return made

    def to_torch(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Return torch's arrays, from specnet's by their names within the layer."""
        if self.kind == "attention":
            return _attention_to_torch(arrays)
        made: Arrays = {}
        for prefix, end in zip(self.directions, ("", "_reverse"), strict=False):
            made[f"weight_ih_l0{end}"] = arrays[f"{prefix}weight"].T
            made[f"weight_hh_l0{end}"] = arrays[f"{prefix}recurrent_weight"].T
            if f"{prefix}bias" in arrays:
                biases = split_biases(arrays[f"{prefix}bias"], arrays.get(f"{prefix}recurrent_bias"))
                made[f"bias_ih_l0{end}"], made[f"bias_hh_l0{end}"] = biases
        return made

    def from_torch(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Return specnet's arrays, from torch's, which have the `torch_shapes`."""
        if self.kind == "attention":
            return _attention_from_torch(arrays)
        made: Arrays = {}
        for prefix, end in zip(self.directions, ("", "_reverse"), strict=False):
            made[f"{prefix}weight"] = arrays[f"weight_ih_l0{end}"].T
            made[f"{prefix}recurrent_weight"] = arrays[f"weight_hh_l0{end}"].T
            if f"{prefix}bias" in self.shapes:
                apart = self.shapes.get(f"{prefix}recurrent_bias", (0,))[0]
                joined = join_biases(arrays[f"bias_ih_l0{end}"], arrays[f"bias_hh_l0{end}"], apart)
                made |= {f"{prefix}{name}": array for name, array in joined.items()}
        return made


def _attention_to_torch(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    made: Arrays = {"in_proj_weight": np.concatenate([arrays[name].T for name in INPUTS])}
    if "query_bias" in arrays:
        made["in_proj_bias"] = np.concatenate([arrays[f"{name}_bias"] for name in INPUTS])
        made["out_proj.bias"] = arrays["output_bias"]
    return {**made, "out_proj.weight": arrays["output"].T}


def _attention_from_torch(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    made: Arrays = {"output": arrays["out_proj.weight"].T}
    parts = np.split(arrays["in_proj_weight"], 3)
    made |= {name: part.T for name, part in zip(INPUTS, parts, strict=True)}
    if "in_proj_bias" in arrays:
        made["output_bias"] = arrays["out_proj.bias"]
        biases = np.split(arrays["in_proj_bias"], 3)
        made |= {f"{name}_bias": part for name, part in zip(INPUTS, biases, strict=True)}
    return made


def torch_modules(spec: ModelSpec) -> dict[str, TorchModule]:
    """Return the layers of a document that torch stores under other names, by full name.

    Without a counterpart in torch are a layer with reverse, a gru with reset_after false, and attention whose heads do
    not divide the features among them; these keep the names and the layout of specnet.
    """
    modules: dict[str, TorchModule] = {}
    for name, entry, plan in spec.walk():
        owner = name.rpartition(".")[0]
        if owner in modules:  # the parts of a bidirectional layer
            continue
        fields: Mapping[str, Any] = entry.fields()
        directions: tuple[str, ...] = ("",)
        if entry.type == "bidirectional":
            (inner,) = fields["layers"]
            fields, directions = inner.fields(), (f"{inner.name}.", f"{inner.name}{SUFFIX}.")
        is_known = entry.type in (*_RECURRENT, "bidirectional", "attention")
        if not is_known or fields.get("reverse", False) or not fields.get("reset_after", True):
            continue
        shapes = plan.parameters
        if entry.type != "attention" or shapes["query"][0] == shapes["query"][1]:
            modules[name] = TorchModule(entry.type, name, shapes, directions)
    return modules


def split_key(key: str, keys: Container[str]) -> tuple[str, str]:
    """Return the module of an array in a state dict, and the array's name within it.

    The layers of a recurrent module count as modules of their own, "rnn.l0" and "rnn.l1", if there are several.
    """
    owner, _, short = key.rpartition(".")
    base, _, last = owner.rpartition(".")
    if last == "out_proj" and ".".join(filter(None, (base, "in_proj_weight"))) in keys:
        return base, f"out_proj.{short}"
    found = _STACKED.fullmatch(key)
    if found is None:
        return owner, short
    is_stack = ".".join(filter(None, (owner, "weight_ih_l1"))) in keys
    module = ".".join(filter(None, (owner, f"l{found['number']}"))) if is_stack else owner
    return module, f"{found['name']}_l0{found['end']}" if is_stack else short


def checked(file: str, module: TorchModule, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return specnet's arrays, by full name, of a module in a file. Raises CheckpointUnsupportedError."""
    for name, shape in module.torch_shapes().items():
        found = arrays.get(name)
        if found is None or found.shape != shape:
            got = "none; assign its module with --map THEIRS=OURS" if found is None else str(found.shape)
            raise unsupported(file, f"{module.name}: expected {name} of shape {shape} in torch's layout, got {got}")
    return {f"{module.name}.{short}": array for short, array in module.from_torch(arrays).items()}


def in_torchs_form(
    modules: Mapping[str, TorchModule], arrays: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
    """Yield the layer, the name within it and the array, in torch's form for the layers that have one."""
    done: set[str] = set()
    for full, array in arrays.items():
        layer = layer_of(full, modules)
        if layer not in modules:
            yield layer, full.rpartition(".")[2], array
        elif layer not in done:
            done.add(layer)
            own = {name: arrays[f"{layer}.{name}"] for name in modules[layer].shapes}
            yield from ((layer, name, value) for name, value in modules[layer].to_torch(own).items())


def layer_of(full: str, modules: Mapping[str, TorchModule]) -> str:
    """Return the layer of an array: the bidirectional one for an array of the layers in it."""
    layer = full.rpartition(".")[0]
    outer = layer.rpartition(".")[0]
    return outer if outer in modules else layer
