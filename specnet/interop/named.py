"""A model's arrays under the names and in the layout of other programs: .npz and safetensors."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import format as layout
from specnet.errors import CheckpointUnsupportedError, SpecError, SpecnetError
from specnet.model import Model, assemble
from specnet.paths import user_path
from specnet.spec import ModelSpec

Arrays = dict[str, npt.NDArray[Any]]
MODEL_KEY = "specnet.model"
DIGEST_KEY = "specnet.sha256"
LARGEST_HEADER = 100_000_000


def arrays_of(model: Model) -> Arrays:
    """Give all parameters and buffers by their full names."""
    return {**model.parameters, **model.buffers}


def to_npz(model: Model) -> bytes:
    """Write parameters and buffers, and the document as text under "specnet.model", as an .npz file."""
    document: npt.NDArray[Any] = np.array(model.spec.to_json())
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_of(model), **{MODEL_KEY: document})  # type: ignore[arg-type]  # names with dots
    return buffer.getvalue()


def from_npz(path: str | os.PathLike[str], spec: ModelSpec | None) -> Model:
    """Read a model from an .npz file; the document in it, or `spec`. Raises CheckpointUnsupportedError."""
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(user_path(path)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > 1000 * user_path(path).stat().st_size:
            msg = f"{name}: unpacks to {unpacked:,} bytes, more than 1,000 times its size"
            raise CheckpointUnsupportedError(msg)
        with np.load(user_path(path), allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, SpecnetError):
            raise
        msg = f"{name}: cannot be read as .npz: {getattr(error, 'strerror', None) or error}"
        raise CheckpointUnsupportedError(msg) from error
    document = arrays.pop(MODEL_KEY, None)
    return filled(name, spec or _document(name, None if document is None else str(document)), arrays)


def _torch_name(layers: Mapping[str, int], full: str) -> str:
    """Give a parameter's name in an nn.Sequential: the index of its layer, and what torch calls it."""
    layer, _, short = full.rpartition(".")
    short = {"scale": "weight", "shift": "bias", "slope": "weight", "count": "num_batches_tracked"}.get(short, short)
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


def from_safetensors(path: str | os.PathLike[str], spec: ModelSpec | None) -> Model:
    """Read a model from a safetensors file: one of ours, or torch's state dict of an nn.Sequential with `spec` given.

    Modules of other names than "0", "1" are taken in the order of their names, numbers counted as numbers: as many as
    the model has layers with arrays. Raises CheckpointUnsupportedError.
    """
    name = os.fspath(path)
    try:
        data = user_path(path).read_bytes()
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
            msg = "its header is longer than the file"
            raise ValueError(msg)  # noqa: TRY301 - told as the others are
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        arrays = dict(_safetensors().load(data))
    except Exception as error:
        if isinstance(error, SpecnetError):
            raise
        msg = f"{name}: cannot be read as safetensors: {getattr(error, 'strerror', None) or error}"
        raise CheckpointUnsupportedError(msg) from error
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != _digest(arrays):
        msg = f"{name}: its arrays do not match {DIGEST_KEY} in its metadata; the file is damaged"
        raise CheckpointUnsupportedError(msg)
    spec = spec or _document(name, metadata.get(MODEL_KEY))
    model = assemble(spec.plan())
    numbers = {layer.name: index for index, layer in enumerate(spec.layers)}
    matrices = _matrices(spec)
    expected = {full: _torch_name(numbers, full) for full in arrays_of(model)}
    ordered = {key: arrays[key] for key in sorted(header, key=_numbered) if key in arrays}
    if not {key for full, key in expected.items() if not full.endswith(".count")} <= ordered.keys():
        expected = _in_order(name, expected, ordered)
    taken = {}
    for full, key in expected.items():
        if key in ordered:
            taken[full] = ordered.pop(key)
            if full in matrices:
                taken[full] = taken[full].T
    return filled(name, spec, {**taken, **ordered})


def _in_order(name: str, expected: Mapping[str, str], arrays: Arrays) -> dict[str, str]:
    """Give the file's name of each array where the modules have other names than an nn.Sequential: in their order."""
    layers: dict[str, list[str]] = {}
    for full in expected:
        layers.setdefault(full.rpartition(".")[0], []).append(full)
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in arrays))
    if len(modules) != len(layers):
        told = f"{len(modules)} modules with arrays, the model has {len(layers)} layers with arrays"
        msg = f"{name}: holds {told}: {', '.join(layers)}"
        raise CheckpointUnsupportedError(msg)
    return {
        full: f"{module}.{expected[full].rpartition('.')[2]}".lstrip(".")
        for module, fulls in zip(modules, layers.values(), strict=True)
        for full in fulls
    }


def _numbered(key: str) -> list[tuple[int, str]]:
    """Sort names as people count: layers.2 before layers.10, weight before bias."""
    parts = key.replace("bias", "~bias").split(".")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def filled(name: str, spec: ModelSpec, arrays: Arrays) -> Model:
    """Make a model of arrays by full name. Raises CheckpointUnsupportedError where they do not fit."""
    model = assemble(spec.plan())
    for full, target in arrays_of(model).items():
        found = arrays.pop(full, None)
        if found is None:
            if full.endswith(".count"):  # others do not keep it
                continue
            msg = f"{name}: {full} is missing"
            raise CheckpointUnsupportedError(msg)
        if found.shape != target.shape or found.dtype.kind not in "iuf":
            told = f"{found.dtype} of shape {found.shape}"
            msg = f"{name}: {full}: expected {target.dtype} of shape {target.shape}, got {told}"
            raise CheckpointUnsupportedError(msg)
        target[...] = found
    if arrays:
        msg = f"{name}: {next(iter(arrays))!r:.80} is no part of the model; {len(arrays)} arrays are left over"
        raise CheckpointUnsupportedError(msg)
    return model


def _document(name: str, text: str | None) -> ModelSpec:
    if text is None:
        msg = f"{name}: holds no model document; name one: --model FILE"
        raise CheckpointUnsupportedError(msg)
    try:
        return ModelSpec.from_text(text, f"{name}:{MODEL_KEY}")
    except SpecError as error:
        raise CheckpointUnsupportedError("; ".join(error.lines())) from None


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
