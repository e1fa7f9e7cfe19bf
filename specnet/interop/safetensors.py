"""Import and export of safetensors files, whose arrays have the names and the layout of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import format as layout
from specnet.errors import SpecnetError
from specnet.interop.foreign_file import json_object, open_foreign
from specnet.interop.imported_model import (
    MODEL_KEY,
    Arrays,
    Imported,
    array_names,
    arrays_of,
    document_of,
    fill_model,
    one_line,
    unsupported,
)
from specnet.interop.torch_layout import TorchLayout, torch_layouts
from specnet.interop.torch_sequence import checked, in_torchs_form, layer_of, split_key, torch_modules
from specnet.model import Model
from specnet.spec.model_spec import ModelSpec

DIGEST_KEY = "specnet.sha256"


LARGEST_HEADER = 100_000_000


TORCH_NAMES = {"scale": "weight", "shift": "bias", "slope": "weight", "count": "num_batches_tracked"}
"""The torch names of parameters and buffers whose names differ from specnet's."""


def to_safetensors(model: Model) -> bytes:
    """Return a safetensors file of parameters and buffers as in torch's nn.Sequential: "0.weight" has shape (out, in).

    The metadata hold the document and a SHA-256 digest of all arrays. Layers in composites keep their full names.
    Raises SpecnetError if the package safetensors is not installed.
    """
    save = _import_safetensors().save
    arrays = _to_torch_arrays(model)
    metadata = {"format": "pt", MODEL_KEY: model.spec.to_json(), DIGEST_KEY: _digest(arrays)}
    written: bytes = save(arrays, metadata)
    # The library writes the metadata in arbitrary order; a fixed order gives the same bytes for the same model.
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(written[8:end])
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + written[end:]


def _to_torch_arrays(model: Model) -> Arrays:
    numbers = {spec.name: index for index, spec in enumerate(model.spec.layers)}
    layouts = torch_layouts(model.spec)
    made = {}
    for layer, short, array in in_torchs_form(torch_modules(model.spec), arrays_of(model)):
        layout = layouts.get(f"{layer}.{short}")
        value = array if layout is None else layout.to_torch(array)
        made[f"{numbers.get(layer, layer)}.{TORCH_NAMES.get(short, short)}"] = np.asarray(value, order="C")
    return made


def from_safetensors(
    path: str | os.PathLike[str], spec: ModelSpec | None = None, names: Mapping[str, str] | None = None
) -> Imported:
    """Read a model from a safetensors file: an export of specnet, or a state dict of torch, which needs `spec`.

    A module is matched with the layer that `names` assigns to it, else with the layer of the same name, else, if it is
    called "0", "1", ..., with the layer of that index. If a layer has no module then, all are matched in the natural
    order of the module names (2 before 10); the counts must be equal. Raises CheckpointError.
    """
    name = os.fspath(path)
    metadata, arrays = _read_safetensors(name, path)
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != _digest(arrays):
        raise unsupported(name, f"its arrays do not match {DIGEST_KEY} in its metadata; the file is damaged")
    spec = spec or document_of(name, metadata.get(MODEL_KEY))
    notes: list[str] = []
    others, layouts = torch_modules(spec), torch_layouts(spec)
    keys = {split_key(key, arrays): key for key in sorted(arrays, key=_natural_order)}
    expected = {full: layer_of(full, others) for full in array_names(spec)}
    layers, found = list(dict.fromkeys(expected.values())), list(dict.fromkeys(module for module, _ in keys))
    modules = _match_modules(name, spec, layers, found, names or {}, notes)
    matched: Arrays = {}
    for layer, module in others.items():
        own = [short for short in module.torch_shapes() if (modules[layer], short) in keys]
        matched |= checked(name, module, {short: arrays.pop(keys[modules[layer], short]) for short in own})
    for full in (full for full in expected if full not in matched):
        short = full.rpartition(".")[2]
        key = keys.get((modules[expected[full]], TORCH_NAMES.get(short, short)))
        if key is not None and key in arrays:
            matched[full] = _from_torch(name, full, arrays.pop(key), layouts.get(full))
    if MODEL_KEY not in metadata:
        notes += [_reordered(full, layout) for full, layout in layouts.items() if layout.flattened]
    return Imported(fill_model(name, spec, {**matched, **arrays}, notes), tuple(notes))


def _from_torch(name: str, full: str, array: npt.NDArray[Any], layout: TorchLayout | None) -> npt.NDArray[Any]:
    if layout is None:
        return array
    if array.shape != layout.torch_shape:
        raise unsupported(name, f"{full}: expected the shape {layout.torch_shape} in torch's layout, got {array.shape}")
    return layout.from_torch(array)


def _reordered(full: str, layout: TorchLayout) -> str:
    first = (layout.flattened[-1], *layout.flattened[:-1])
    return f"{full}: its features, a flattened {first} in torch, are in the order of {layout.flattened} here"


def _read_safetensors(name: str, path: str | os.PathLike[str]) -> tuple[dict[str, str], Arrays]:
    load = _import_safetensors().load
    with open_foreign(path, name) as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
        raise unsupported(name, "cannot be read as safetensors: its header is longer than the file")
    try:
        arrays = dict(load(data))
    except Exception as error:
        advice = "; save them as float32" if "BF16" in str(error) or "F8" in str(error) else ""
        raise unsupported(name, f"cannot be read as safetensors: {one_line(error)}{advice}") from error
    # The library has checked the header, except that it takes the last of two entries with the same name.
    return json_object(name, data[8 : 8 + length], "header").get("__metadata__") or {}, arrays


def _match_modules(
    name: str,
    spec: ModelSpec,
    layers: Sequence[str],
    modules: Sequence[str],
    names: Mapping[str, str],
    notes: list[str],
) -> dict[str, str]:
    """Return the module of each layer with arrays, by the layer's full name; add a note if the order decides."""
    numbers = {layer.name: str(index) for index, layer in enumerate(spec.layers)}
    matched = {ours: theirs for theirs, ours in names.items()}
    for theirs, ours in names.items():
        if theirs not in modules or ours not in layers:
            detail = f"--map {theirs}={ours}: the file has {', '.join(modules)}; the model has {', '.join(layers)}"
            raise unsupported(name, detail[:400])
    for layer in layers:
        candidates = (matched.get(layer), layer, numbers.get(layer))
        module = next((c for c in candidates if c in modules), None)
        if module is not None:
            matched[layer] = module
    if matched.keys() >= set(layers):
        return matched
    if names:
        missing = ", ".join(layer for layer in layers if layer not in matched)
        raise unsupported(name, f"has no module for {missing}; the file has {', '.join(modules)}"[:400])
    if len(modules) != len(layers):
        counts = f"{len(modules)} modules with arrays ({', '.join(modules)}), the model has {len(layers)}"
        raise unsupported(name, f"contains {counts}: {', '.join(layers)}; assign them with --map THEIRS=OURS"[:500])
    pairs = ", ".join(f"{theirs}={ours}" for theirs, ours in zip(modules, layers, strict=True))
    notes.append(f"modules were assigned in the order of their names: {pairs}"[:500])
    return dict(zip(layers, modules, strict=True))


def _natural_order(key: str) -> list[tuple[int, str]]:
    """Return the sort key for the natural order: layers.2 before layers.10, weight before bias."""
    parts = key.replace("bias", "~bias").split(".")
    return [(int(part), "") if part.isdecimal() and len(part) < 19 else (-1, part) for part in parts]


def _digest(arrays: Arrays) -> str:
    rows = ((name, array.dtype.str, array.shape, layout.digest(array)) for name, array in arrays.items())
    return layout.content_digest(rows)


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "safetensors is not installed; pip install 'specnet-nn[safetensors]'"
        raise SpecnetError(msg) from error
    return safetensors.numpy
