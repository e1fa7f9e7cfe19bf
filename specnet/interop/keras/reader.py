"""Readers of Keras's files: `.keras`, the legacy `.h5` of a whole model, and files that hold only weights.

.keras       a zip of metadata.json, config.json and model.weights.h5
.weights.h5  /layers/<key>/vars/<n>, key: the class in snake case and a number; /optimizer/vars/<n>
.h5          attribute model_config; /model_weights/<layer>, whose weight_names name its arrays; before Keras 3,
             weights files had the same groups below the root, without model_config

Keras need not be installed, and no code in a file is run.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import CheckpointError, CheckpointUnsupportedError
from specnet.files.paths import user_path
from specnet.interop.hdf5.sandbox import Hdf5Content, read_hdf5
from specnet.interop.imported_model import MODEL_KEY, Arrays, Imported, document_of, fill_model, unsupported
from specnet.interop.keras.config import KerasLayer, KerasNetwork
from specnet.interop.keras.layers import from_keras_array, keys_by_class
from specnet.interop.keras.optimizer import restored
from specnet.interop.keras.writer import config_of

LAYER_GROUPS = ("layers", "_layer_checkpoint_dependencies")
"""The group of the layers in a weights file: in Keras 3, and before Keras 3."""


_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


_LARGEST_TEXT = 2**24


def from_keras(path: str | os.PathLike[str], *, own: bool = True) -> Imported:
    """Read a .keras file of Keras 2.12 and later; with `own`, use the specnet document in it if there is one.

    Raises CheckpointError.
    """
    name = os.fspath(path)
    members = _read_members(path, name)
    config, metadata = (_parse_json_object(name, members[key], key) for key in ("config.json", "metadata.json"))
    network = KerasNetwork(name, config)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.h5"
        weights.write_bytes(members["model.weights.h5"])
        content = read_hdf5(weights, name)
    arrays = arrays_by_key(name, content, network.layers)
    stored = {key for key in content.arrays if key.startswith("/optimizer/vars/")}
    optimizer = [content.arrays[key] for key in sorted(stored, key=_index)]
    compiled = config.get("compile_config")
    settings = compiled.get("optimizer") if isinstance(compiled, Mapping) else None
    return _build_imported(network, arrays, settings, optimizer, metadata.get(MODEL_KEY) if own else None)


def from_keras_h5(path: str | os.PathLike[str], content: Hdf5Content | None = None) -> Imported:
    """Read a whole model in the legacy HDF5 format of Keras 2 and 3. Raises CheckpointError."""
    name = os.fspath(path)
    content = content or read_hdf5(path)
    root = content.attributes["/"]
    network = KerasNetwork(name, _parse_json_object(name, root.get("model_config"), "model_config"))
    groups = dict(legacy_groups(name, content, "/model_weights"))
    arrays: Arrays = {}
    for layer in network.layers:
        take(name, layer, groups.pop(layer.name, []), arrays)
    if any(groups.values()):
        raise unsupported(name, f"contains weights of layers that are not in its config: {', '.join(groups)}"[:300])
    optimizer = _named_arrays(name, content, "/optimizer_weights") if "/optimizer_weights" in content.attributes else []
    training = root.get("training_config")
    settings = _parse_json_object(name, training, "training_config").get("optimizer_config") if training else None
    return _build_imported(network, arrays, settings, optimizer, None)


def _build_imported(
    network: KerasNetwork, arrays: Arrays, settings: Any, optimizer: list[npt.NDArray[Any]], document: Any
) -> Imported:
    notes = list(network.notes)
    spec = network.spec(arrays)
    if isinstance(document, str):
        specnet_spec = document_of(network.file, document)
        # The config decides; the document adds seed, labels and notes if it describes the same network.
        is_same_type = (specnet_spec.input_shape, specnet_spec.dtype) == (spec.input_shape, spec.dtype)
        if is_same_type and KerasNetwork(network.file, config_of(specnet_spec)).spec({}).layers == spec.layers:
            spec = specnet_spec
        else:
            notes.append("its specnet document describes another network than its config; the config was used")
    shapes = spec.plan().parameter_shapes()
    for full, value in network.fills.items():
        arrays[full] = np.full(shapes[full], value, spec.dtype)
    model = fill_model(network.file, spec, arrays, notes)
    trained = [v.target for layer in network.layers for v in layer.all_variables() if v.trained]
    restored_optimizer, optimizer_notes = restored(model, settings, optimizer, trained)
    return Imported(model, tuple(notes + optimizer_notes), restored_optimizer)


def by_class(layers: Iterable[KerasLayer], group: str) -> list[str]:
    """Return the key of each layer: its class in snake case, numbered within the class."""
    return [f"{group}/{key}" for key in keys_by_class(layer.class_name for layer in layers)]


def arrays_by_key(
    name: str,
    content: Hdf5Content,
    layers: Sequence[KerasLayer],
    base: str = "",
    keys_of: Callable[[Sequence[KerasLayer], str], list[str]] = by_class,
) -> Arrays:
    """Read the arrays of a weights file; `keys_of` returns the layers' groups. Raises CheckpointUnsupportedError."""
    arrays: Arrays = {}
    groups = (f"{base}/{group}" for group in LAYER_GROUPS)
    group = next((g for g in groups if g in content.attributes), f"{base}/layers")
    keys, variables = keys_of(layers, group), _variables_by_key(content, group)
    for layer, key in zip(layers, keys, strict=True):
        if layer.inner:
            arrays |= arrays_by_key(name, content, layer.inner, key, keys_of)
        else:
            take(name, layer, variables.get(key, []), arrays)
    depth = group.count("/") + 2
    stored = {"/".join(path.split("/")[:depth]) for path in content.arrays if path.startswith(f"{group}/")}
    seeds = {key for key in stored if key not in variables and f"{key}/seed_generator" in content.attributes}
    unknown = sorted(stored - seeds - set(keys))
    if unknown:
        raise unsupported(name, f"contains weights in {unknown[0]!r:.100}, which match no layer of the network")
    return arrays


def _variables_by_key(content: Hdf5Content, group: str) -> dict[str, list[npt.NDArray[Any]]]:
    """Return the variables of each layer in a group, by the layer's key, in their order."""
    paths_by_key: dict[str, list[str]] = {}
    for path in content.arrays:
        key, separator, _ = path.partition("/vars/")
        if separator and path.startswith(f"{group}/"):
            paths_by_key.setdefault(key, []).append(path)
    return {key: [content.arrays[path] for path in sorted(paths, key=_index)] for key, paths in paths_by_key.items()}


def take(name: str, layer: KerasLayer, found: Sequence[npt.NDArray[Any]], arrays: Arrays) -> None:
    """Add the arrays of a layer's variables to `arrays`. Raises CheckpointUnsupportedError if the counts differ."""
    variables = layer.all_variables()
    if variables and not variables[-1].target and len(found) == len(variables) - 1:
        variables.pop()  # the row count, which some versions do not write
    if len(variables) != len(found):
        raise unsupported(name, f"{layer.name} has {len(found)} arrays in the file, {len(variables)} in the network")
    for variable, array in zip(variables, found, strict=True):
        if variable.target:
            owner, _, short = variable.target.rpartition(".")
            if array.dtype.kind not in "iuf" or (short in ("variance", "slope") and not array.shape):
                raise unsupported(name, f"{layer.name}: {short} cannot be {array.dtype} of shape {array.shape}")
            specnet_name, value = from_keras_array(short, array)
            arrays[f"{owner}.{specnet_name}"] = value


def legacy_groups(name: str, content: Hdf5Content, base: str) -> Iterator[tuple[str, list[npt.NDArray[Any]]]]:
    """Yield the name and the arrays of each layer of a legacy file, in the file's order."""
    for layer in _name_list(name, content, base or "/", "layer_names"):
        yield layer, _named_arrays(name, content, f"{base}/{layer}")


def _named_arrays(name: str, content: Hdf5Content, group: str) -> list[npt.NDArray[Any]]:
    arrays = []
    for weight in _name_list(name, content, group, "weight_names"):
        path = f"{group}/{weight}"
        if path not in content.arrays:
            raise unsupported(name, f"{path!r:.200} is missing")
        arrays.append(content.arrays[path])
    return arrays


def _name_list(name: str, content: Hdf5Content, group: str, attribute: str) -> list[str]:
    """Read a list of names; Keras splits a long list into attributes with a number after the name."""
    attributes = content.attributes.get(group)
    if attributes is None:
        raise unsupported(name, f"{group!r:.200} is missing")
    value = attributes.get(attribute)
    if value is None and f"{attribute}0" in attributes:
        numbers = range(sum(key.startswith(attribute) for key in attributes))
        parts = [attributes.get(f"{attribute}{number}", []) for number in numbers]
        value = [text for part in parts for text in (part if isinstance(part, list) else [part])]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise unsupported(name, f"{group!r:.200} has no list {attribute}; specnet reads files that Keras 2 and 3 write")
    return value


def _index(path: str) -> int:
    """Return the number at the end of a variable's path, -1 if there is none."""
    last = path.rpartition("/")[2]
    return int(last) if last.isdecimal() and len(last) < 9 else -1


def _parse_json_object(name: str, text: Any, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unsupported(name, f"its {what} is not a JSON object")
    return value


def _read_members(path: str | os.PathLike[str], name: str) -> dict[str, bytes]:
    """Read the three members by name. Refuses a member that is larger than Keras can have written it."""
    try:
        size = user_path(path).stat().st_size
        with zipfile.ZipFile(user_path(path)) as archive:
            _check_members(archive, size, name)
            return {member: archive.read(member) for member in _MEMBERS}
    except OSError as error:
        msg = f"{name}: cannot be read: {error.strerror or error}"
        raise CheckpointError(msg) from error
    except CheckpointUnsupportedError:
        raise
    except Exception as error:  # noqa: BLE001 - each compressor raises its own types
        raise unsupported(name, f"cannot be read as a .keras archive: {error}"[:300]) from None


def _check_members(archive: zipfile.ZipFile, size: int, name: str) -> None:
    """Raise CheckpointUnsupportedError for an archive that Keras cannot have written."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    unknown = [n for n in entries if (n not in _MEMBERS and not n.startswith("assets/")) or ".." in n]
    if unknown or len(entries) != len(archive.infolist()):
        detail = repr(unknown[0])[:100] if unknown else "two members with the same name"
        raise unsupported(name, f"the archive contains {detail}, which Keras does not write")
    for member in _MEMBERS:
        if member not in entries:
            raise unsupported(name, f"is not a .keras file: it contains no {member}")
        unpacked = entries[member].file_size
        if unpacked > (_LARGEST_TEXT if member.endswith(".json") else 1000 * size):
            raise unsupported(name, f"{member} unpacks to {unpacked:,} bytes, but the file has only {size:,}")
