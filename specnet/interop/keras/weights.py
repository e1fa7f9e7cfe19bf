"""HDF5 files of weights alone, for a document that is given.

Keras  .weights.h5   /layers/<key>/vars/<n>: found by the layers' names, else by their order within a class
Keras 2              save_weights: /<layer>, named by the root's layer_names: by name, else by order
Caffe  .caffemodel.h5  /data/<layer>/<n> and, where it has been asked for, /diff/<layer>/<n>, the gradients: by name

Caffe keeps a weight as (out, in), unless its layer says `transpose`, which the file does not tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from specnet.errors import SpecnetError
from specnet.interop.hdf5.sandbox import Hdf5Content
from specnet.interop.imported_model import Arrays, Imported, fill_model, unsupported
from specnet.interop.keras.config import KerasLayer
from specnet.interop.keras.layers import Variable
from specnet.interop.keras.reader import arrays_by_key, by_class, legacy_groups, take
from specnet.interop.keras.writer import KerasForm, forms_of
from specnet.spec.model_spec import ModelSpec

Names = Mapping[str, str]


def from_keras_weights(
    path: str | os.PathLike[str], content: Hdf5Content, spec: ModelSpec, names: Names | None = None
) -> Imported:
    """Fill a document's model from Keras's .weights.h5, or a weights file of Keras 2. Raises CheckpointError."""
    name, names = os.fspath(path), names or {}
    try:
        layers = tuple(_keras_layers(forms_of(spec)))
    except SpecnetError as error:
        raise unsupported(name, f"--model: {error}") from None
    if "layer_names" in content.attributes["/"] or "layer_names0" in content.attributes["/"]:
        arrays = _keras2(name, content, layers, names)
    else:
        arrays = arrays_by_key(
            name, content, layers, "", lambda layers, group: _keys(name, content, layers, group, names)
        )
    notes: list[str] = []
    if "/optimizer/vars" in content.attributes:
        notes.append("the optimizer's state is left behind: a file of weights does not say of which optimizer it is")
    return Imported(fill_model(name, spec, arrays, notes), tuple(notes))


def _keras_layers(forms: Sequence[KerasForm]) -> Iterator[KerasLayer]:
    for form in forms:
        if form.inner or form.written.variables:
            variables = tuple(
                Variable(target and f"{form.full}.{target}", target not in ("running_mean", "running_var", ""))
                for target in form.written.variables
            )
            yield KerasLayer(form.written.class_name, form.name, variables, tuple(_keras_layers(form.inner)))


def _keys(name: str, content: Hdf5Content, layers: Sequence[KerasLayer], group: str, names: Names) -> list[str]:
    """Find each layer's group: as --map says, by the name that Keras has written beside it, or by order."""
    called = {}
    for path, attributes in content.attributes.items():
        if path.startswith(f"{group}/") and path.endswith("/vars") and path.count("/") == group.count("/") + 2:
            key = path.removesuffix("/vars")
            called[str(attributes.get("name"))] = key
    if names:
        ours = {mine: theirs for theirs, mine in names.items()}
        wanted = [ours.get(layer.name, layer.name) for layer in layers]
        keys = {key.rpartition("/")[2]: key for key in called.values()}
        missing = [theirs for theirs in wanted if theirs not in called and theirs not in keys]
        if missing:
            raise unsupported(name, f"has no layer {missing[0]!r:.80}; there are {', '.join([*called])}"[:400])
        return [called.get(theirs) or keys[theirs] for theirs in wanted]
    if all(layer.name in called for layer in layers):
        return [called[layer.name] for layer in layers]
    return by_class(layers, group)


def _keras2(name: str, content: Hdf5Content, layers: Sequence[KerasLayer], names: Names) -> Arrays:
    stored = [(names.get(layer, layer), arrays) for layer, arrays in legacy_groups(name, content, "") if arrays]
    if len(stored) != len(layers):
        told = f"{len(stored)} layers with arrays, the model {len(layers)}: {', '.join(layer.name for layer in layers)}"
        raise unsupported(name, f"holds {told}"[:400])
    by_name = dict(stored)
    found: Arrays = {}
    known = all(layer.name in by_name for layer in layers)
    for layer, (_, arrays) in zip(layers, stored, strict=True):
        take(name, layer, by_name[layer.name] if known else arrays, found)
    return found
