"""Readers of Keras's files: `.keras`, the legacy `.h5` of a whole model, and files that hold only weights.

.keras       a zip of metadata.json, config.json and model.weights.h5
.weights.h5  /layers/<key>/vars/<n>, key: the class in snake case and a number; /optimizer/vars/<n>
.h5          attribute model_config; /model_weights/<layer>, whose weight_names name its arrays; before Keras 3,
             weights files had the same groups below the root, without model_config

Keras need not be installed, and no code in a file is run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.interop.foreign_file import Archive, json_object, open_archive
from specnet.interop.hdf5.sandbox import Hdf5Content, read_hdf5
from specnet.interop.imported_model import MODEL_KEY, Arrays, Imported, document_of, fill_model, unsupported
from specnet.interop.keras.arrays import PLACES, from_keras_array
from specnet.interop.keras.config import KerasLayer, KerasNetwork
from specnet.interop.keras.layers import keys_by_class
from specnet.interop.keras.optimizer import Stored, restored
from specnet.interop.keras.writer import config_of

LAYER_GROUPS = ("layers", "_layer_checkpoint_dependencies")
"""The group of the layers in a weights file: in Keras 3, and before Keras 3."""


_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


def from_keras(path: str | os.PathLike[str], *, own: bool = True) -> Imported:
    """Read a .keras file of Keras 2.12 and later; with `own`, use the specnet document in it if there is one.

    Raises CheckpointError.
    """
    name = os.fspath(path)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.h5"
        with open_archive(path, name, "a .keras archive") as archive, weights.open("wb") as target:
            _check_members(archive, name)
            texts = [archive.read(key) for key in ("config.json", "metadata.json")]
            archive.copy("model.weights.h5", target)
        config, metadata = json_object(name, texts[0], "config.json"), json_object(name, texts[1], "metadata.json")
        network = KerasNetwork(name, config)
        content = read_hdf5(weights, name, archive.size)
    arrays = arrays_by_key(name, content, network.layers)
    stored = {key for key in content.arrays if key.startswith("/optimizer/vars/")}
    optimizer = [content.arrays[key] for key in sorted(stored, key=_index)]
    compiled = config.get("compile_config")
    settings = compiled.get("optimizer") if isinstance(compiled, Mapping) else None
    document = metadata.get(MODEL_KEY) if own else None
    return _build_imported(network, arrays, settings, Stored(optimizer), document)


def from_keras_h5(path: str | os.PathLike[str], content: Hdf5Content | None = None) -> Imported:
    """Read a whole model in the legacy HDF5 format of Keras 2 and 3. Raises CheckpointError."""
    name = os.fspath(path)
    content = content or read_hdf5(path)
    root = content.attributes["/"]
    network = KerasNetwork(name, json_object(name, root.get("model_config"), "model_config"))
    groups = dict(legacy_groups(name, content, "/model_weights"))
    arrays: Arrays = {}
    weights: list[str] = []
    for layer in network.layers:
        named = groups.pop(layer.name, {})
        take(name, layer, list(named.values()), arrays)
        weights += [n for n, variable in zip(named, layer.all_variables(), strict=False) if variable.trained]
    if any(groups.values()):
        raise unsupported(name, f"contains weights of layers that are not in its config: {', '.join(groups)}"[:300])
    has_optimizer = "/optimizer_weights" in content.attributes
    optimizer = _named_arrays(name, content, "/optimizer_weights") if has_optimizer else {}
    training = root.get("training_config")
    settings = json_object(name, training, "training_config").get("optimizer_config") if training else None
    return _build_imported(network, arrays, settings, Stored([*optimizer.values()], [*optimizer], weights), None)


def _build_imported(network: KerasNetwork, arrays: Arrays, settings: Any, optimizer: Stored, document: Any) -> Imported:
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
        arrays[full] = np.broadcast_to(np.dtype(spec.dtype).type(value), shapes[full])  # takes no memory
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
            places = PLACES.get(layer.class_name, ("",))
            take(name, layer, [array for place in places for array in variables.get(f"{key}{place}", [])], arrays)
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
            try:
                made = from_keras_array(short, array)
            except ValueError:
                detail = f"{layer.name}: {short} cannot be {array.dtype} of shape {array.shape}"
                raise unsupported(name, detail) from None
            arrays |= {f"{owner}.{specnet_name}": value for specnet_name, value in made.items()}


def legacy_groups(name: str, content: Hdf5Content, base: str) -> Iterator[tuple[str, Arrays]]:
    """Yield the name of each layer of a legacy file, and its arrays by their names, in the file's order."""
    for layer in _name_list(name, content, base or "/", "layer_names"):
        yield layer, _named_arrays(name, content, f"{base}/{layer}")


def _named_arrays(name: str, content: Hdf5Content, group: str) -> Arrays:
    arrays: Arrays = {}
    for weight in _name_list(name, content, group, "weight_names"):
        path = f"{group}/{weight}"
        if path not in content.arrays:
            raise unsupported(name, f"{path!r:.200} is missing")
        arrays[weight] = content.arrays[path]
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
    if len(set(value)) != len(value):
        raise unsupported(name, f"{group!r:.200}: its list {attribute} has a name twice")
    return value


def _index(path: str) -> int:
    """Return the number at the end of a variable's path, -1 if there is none."""
    last = path.rpartition("/")[2]
    return int(last) if last.isdecimal() and len(last) < 9 else -1


def _check_members(archive: Archive, name: str) -> None:
    """Raise CheckpointUnsupportedError for an archive that Keras cannot have written."""
    unknown = [n for n in archive.members if (n not in _MEMBERS and not n.startswith("assets/")) or ".." in n]
    if unknown:
        raise unsupported(name, f"the archive contains {unknown[0]!r:.100}, which Keras does not write")
    for member in _MEMBERS:
        if member not in archive.members:
            raise unsupported(name, f"is not a .keras file: it contains no {member}")
