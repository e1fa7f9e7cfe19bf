"""A model's arrays under the names and in the layout of other programs: .npz and safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specnet.checkpoint import format as layout
from specnet.errors import SpecnetError
from specnet.files.paths import user_path
from specnet.interop.imported_model import (
    MODEL_KEY,
    Arrays,
    Imported,
    arrays_of,
    document_of,
    fill_model,
    one_line,
    unsupported,
)
from specnet.model import Model, assemble
from specnet.spec.model_spec import ModelSpec

DIGEST_KEY = "specnet.sha256"


LARGEST_HEADER = 100_000_000


TORCH_NAMES = {"scale": "weight", "shift": "bias", "slope": "weight", "count": "num_batches_tracked"}
"""What torch calls a parameter or buffer, where it calls it otherwise."""


def _torch_name(layers: Mapping[str, int], full: str) -> str:
    """Give a parameter's name in an nn.Sequential: the index of its layer, and what torch calls it."""
    layer, _, short = full.rpartition(".")
    short = TORCH_NAMES.get(short, short)
    return f"{layers[layer]}.{short}" if layer in layers else f"{layer}.{short}"


def to_safetensors(model: Model) -> bytes:
    """Write parameters and buffers as torch has them in an nn.Sequential: "0.weight" of shape (out, in).

    The document and a SHA-256 over all arrays are in the metadata. Layers in composites keep their full names.
    Raises SpecnetError where safetensors is missing.
    """
    save = _safetensors().save
    arrays = _as_torch(model)
    metadata = {"format": "pt", MODEL_KEY: model.spec.to_json(), DIGEST_KEY: _digest(arrays)}
    written: bytes = save(arrays, metadata)
    # The library writes the metadata in any order; the same model is to make the same file.
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(written[8:end])
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + written[end:]


def _as_torch(model: Model) -> Arrays:
    numbers = {spec.name: index for index, spec in enumerate(model.spec.layers)}
    matrices = _matrices(model.spec)
    return {
        _torch_name(numbers, full): np.asarray(array.T if full in matrices else array, order="C")
        for full, array in arrays_of(model).items()
    }


def _matrices(spec: ModelSpec) -> set[str]:
    """List the weights that torch keeps transposed."""
    return {f"{name}.weight" for name, layer, _ in spec.walk() if layer.type == "affine"}


def from_safetensors(
    path: str | os.PathLike[str], spec: ModelSpec | None = None, names: Mapping[str, str] | None = None
) -> Imported:
    """Read a model from a safetensors file: one of ours, or torch's state dict, with `spec` given.

    A module becomes the layer that `names` says; else the one of its name, or, where the modules are called "0", "1",
    ..., the one of its index; else modules are taken in the order of their names, numbers counted as numbers: as many
    as the model has layers with arrays. Raises CheckpointError.
    """
    name = os.fspath(path)
    metadata, arrays = _read_safetensors(name, path)
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != _digest(arrays):
        raise unsupported(name, f"its arrays do not match {DIGEST_KEY} in its metadata; the file is damaged")
    spec = spec or document_of(name, metadata.get(MODEL_KEY))
    expected = list(arrays_of(assemble(spec.plan(), lambda: spec)))
    notes: list[str] = []
    modules = _modules(name, spec, expected, sorted(arrays, key=_numbered), names or {}, notes)
    matrices = _matrices(spec)
    taken = {}
    for full in expected:
        layer, _, short = full.rpartition(".")
        key = f"{modules[layer]}.{TORCH_NAMES.get(short, short)}".lstrip(".")
        if key in arrays:
            taken[full] = arrays.pop(key)
            if full in matrices:
                taken[full] = taken[full].T
    return Imported(fill_model(name, spec, {**taken, **arrays}, notes), tuple(notes))


def _read_safetensors(name: str, path: str | os.PathLike[str]) -> tuple[dict[str, str], Arrays]:
    try:
        data = user_path(path).read_bytes()
        length = int.from_bytes(data[:8], "little")
        whole = len(data) >= 8 and length <= min(LARGEST_HEADER, len(data) - 8)
        if whole:
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
            return metadata, dict(_safetensors().load(data))
    except SpecnetError:
        raise
    except Exception as error:
        advice = "; save them as float32" if "BF16" in str(error) or "F8" in str(error) else ""
        raise unsupported(name, f"cannot be read as safetensors: {one_line(error)}{advice}") from error
    raise unsupported(name, "cannot be read as safetensors: its header is longer than the file")


def _modules(
    name: str,
    spec: ModelSpec,
    expected: Sequence[str],
    keys: Sequence[str],
    names: Mapping[str, str],
    notes: list[str],
) -> dict[str, str]:
    """Find the module of each layer with arrays."""
    layers = list(dict.fromkeys(full.rpartition(".")[0] for full in expected))
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    numbers = {layer.name: str(index) for index, layer in enumerate(spec.layers)}
    found = {ours: theirs for theirs, ours in names.items()}
    for theirs, ours in names.items():
        if theirs not in modules or ours not in layers:
            told = f"--map {theirs}={ours}: the file has {', '.join(modules)}; the model {', '.join(layers)}"
            raise unsupported(name, told[:400])
    for layer in layers:
        candidates = (found.get(layer), layer, numbers.get(layer))
        module = next((c for c in candidates if c in modules), None)
        if module is not None:
            found[layer] = module
    if found.keys() >= set(layers):
        return found
    if names:
        missing = ", ".join(layer for layer in layers if layer not in found)
        raise unsupported(name, f"has no module for {missing}; the file has {', '.join(modules)}"[:400])
    if len(modules) != len(layers):
        told = f"{len(modules)} modules with arrays ({', '.join(modules)}), the model has {len(layers)}"
        raise unsupported(name, f"holds {told}: {', '.join(layers)}; --map THEIRS=OURS says which is which"[:500])
    taken = ", ".join(f"{theirs}={ours}" for theirs, ours in zip(modules, layers, strict=True))
    notes.append(f"modules were taken in the order of their names: {taken}"[:500])
    return dict(zip(layers, modules, strict=True))


def _numbered(key: str) -> list[tuple[int, str]]:
    """Sort names as people count: layers.2 before layers.10, weight before bias."""
    parts = key.replace("bias", "~bias").split(".")
    return [(int(part), "") if part.isdecimal() and len(part) < 19 else (-1, part) for part in parts]


def _digest(arrays: Arrays) -> str:
    rows = ((name, array.dtype.str, array.shape, layout.digest(array)) for name, array in arrays.items())
    return layout.content_digest(rows)


def _safetensors() -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415 - of an extra
    except ImportError as error:
        msg = "safetensors is not installed; pip install 'specnet-nn[safetensors]'"
        raise SpecnetError(msg) from error
    return safetensors.numpy
