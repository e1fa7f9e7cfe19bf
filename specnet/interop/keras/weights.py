"""Import of HDF5 files that hold only weights; the caller passes the document.

Keras  .weights.h5   /layers/<key>/vars/<n>: matched by the layers' names, else by their order within a class
Keras 2              save_weights: /<layer>, listed in the root's layer_names: matched by name, else by order
Caffe  .caffemodel.h5  /data/<layer>/<n> and optionally the gradients, /diff/<layer>/<n>: matched by name

Caffe stores a weight as (out, in), unless its layer sets `transpose`, which the file does not record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from specnet.errors import SpecnetError
from specnet.interop.hdf5.sandbox import Hdf5Content
from specnet.interop.imported_model import Arrays, Imported, NameMap, fill_model, unsupported
from specnet.interop.keras.config import KerasLayer
from specnet.interop.keras.layers import Variable
from specnet.interop.keras.reader import arrays_by_key, by_class, legacy_groups, take
from specnet.interop.keras.writer import KerasForm, forms_of
from specnet.spec.model_spec import ModelSpec


def from_keras_weights(
    path: str | os.PathLike[str], content: Hdf5Content, spec: ModelSpec, names: NameMap | None = None
) -> Imported:
    """Fill the model of a document from a .weights.h5 file or a weights file of Keras 2. Raises CheckpointError."""
    name, names = os.fspath(path), names or {}
    try:
        layers = tuple(_keras_layers(forms_of(spec)))
    except SpecnetError as error:
        raise unsupported(name, f"--model: {error}") from None
    if "layer_names" in content.attributes["/"] or "layer_names0" in content.attributes["/"]:
        arrays = _keras2_arrays(name, content, layers, names)
    else:
        arrays = arrays_by_key(
            name, content, layers, "", lambda layers, group: _group_keys(name, content, layers, group, names)
        )
    notes: list[str] = []
    if "/optimizer/vars" in content.attributes:
        notes.append("the optimizer's state was not imported: a weights file does not name its optimizer")
    return Imported(fill_model(name, spec, arrays, notes), tuple(notes))


def _keras_layers(forms: Sequence[KerasForm]) -> Iterator[KerasLayer]:
    for form in forms:
        if form.inner or form.written.variables:
            variables = tuple(
                Variable(target and f"{form.full}.{target}", target not in ("running_mean", "running_var", ""))
                for target in form.written.variables
            )
            yield KerasLayer(form.written.class_name, form.name, variables, tuple(_keras_layers(form.inner)))


def _group_keys(name: str, content: Hdf5Content, layers: Sequence[KerasLayer], group: str, names: NameMap) -> list[str]:
    """Return each layer's group: by --map, by the name that Keras stores with the variables, or by order."""
    key_by_name = {}
    for path, attributes in content.attributes.items():
        if path.startswith(f"{group}/") and path.endswith("/vars") and path.count("/") == group.count("/") + 2:
            key = path.removesuffix("/vars")
            key_by_name[str(attributes.get("name"))] = key
    if names:
        keras_names = {ours: theirs for theirs, ours in names.items()}
        wanted = [keras_names.get(layer.name, layer.name) for layer in layers]
        keys = {key.rpartition("/")[2]: key for key in key_by_name.values()}
        missing = [keras_name for keras_name in wanted if keras_name not in key_by_name and keras_name not in keys]
        if missing:
            raise unsupported(name, f"has no layer {missing[0]!r:.80}; it has {', '.join([*key_by_name])}"[:400])
        return [key_by_name.get(keras_name) or keys[keras_name] for keras_name in wanted]
    if all(layer.name in key_by_name for layer in layers):
        return [key_by_name[layer.name] for layer in layers]
    return by_class(layers, group)


def _keras2_arrays(name: str, content: Hdf5Content, layers: Sequence[KerasLayer], names: NameMap) -> Arrays:
    groups = legacy_groups(name, content, "")
    stored = [(names.get(layer, layer), [*arrays.values()]) for layer, arrays in groups if arrays]
    if len(stored) != len(layers):
        counts = f"{len(stored)} layers with arrays, the model has {len(layers)}"
        raise unsupported(name, f"contains {counts}: {', '.join(layer.name for layer in layers)}"[:400])
    by_name = dict(stored)
    if len(by_name) != len(stored):
        raise unsupported(name, "has two layers of the same name; map each layer to another one: --map THEIRS=OURS")
    result: Arrays = {}
    all_named = all(layer.name in by_name for layer in layers)
    for layer, (_, arrays) in zip(layers, stored, strict=True):
        take(name, layer, by_name[layer.name] if all_named else arrays, result)
    return result
