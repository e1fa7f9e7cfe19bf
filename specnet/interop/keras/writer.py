"""Writers of Keras's files: `.keras`, and the legacy `.h5`, which Netron also draws. Keras 3 loads both."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import SpecnetError
from specnet.interop.imported_model import MODEL_KEY, Arrays, arrays_of
from specnet.interop.keras.arrays import PLACES, short_name, to_keras_array
from specnet.interop.keras.layer_writers import WRITERS, Written
from specnet.interop.keras.layers import Entry, keys_by_class
from specnet.interop.keras.sequence_writers import SEQUENCE_WRITERS
from specnet.interop.keras.spatial_writers import SPATIAL_WRITERS
from specnet.model import Model
from specnet.plan import LayerPlan
from specnet.spec.model_spec import ModelSpec

VERSION = "3.12.0"
"""The version of Keras whose file format is written; later versions read it."""


_DATE = "1980-01-01@00:00:00"


_ALL_WRITERS = {**WRITERS, **SEQUENCE_WRITERS, **SPATIAL_WRITERS}


_NAMES = {
    "weight": "kernel",
    "recurrent_weight": "recurrent_kernel",
    "scale": "gamma",
    "shift": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "slope": "alpha",
    "": "count",
}


class KerasForm(NamedTuple):
    """A layer and its Keras form; `shape` is that of an input, without the batch axis."""

    full: str
    name: str
    written: Written
    inner: tuple[KerasForm, ...]
    shape: ShapeTuple


def _forms(specs: Sequence[Any], plans: Sequence[LayerPlan], prefix: str) -> Iterator[KerasForm]:
    """Yield the Keras form of each layer. Raises SpecnetError, by name, for a layer Keras cannot express."""
    taken = {spec.name for spec in specs}
    for spec, plan in zip(specs, plans, strict=True):
        full = f"{prefix}{spec.name}"
        if spec.type == "sequential":
            inner = tuple(_forms(spec.layers, plan.layers, f"{full}."))
            yield KerasForm(full, spec.name, Written("Sequential", {}), inner, plan.input_shape)
        elif spec.type not in _ALL_WRITERS:
            msg = f"{full}: a Keras Sequential has no layer of type {spec.type!r}; export to onnx instead"
            raise SpecnetError(msg)
        else:
            try:
                written = _ALL_WRITERS[spec.type](spec.fields(), plan.input_shape)
            except SpecnetError as error:
                msg = f"{full}: {error}"
                raise SpecnetError(msg) from None
            form = KerasForm(full, spec.name, written, (), plan.input_shape)
            yield from _with_neighbours(form, plan.output_shape, taken)


def _with_neighbours(form: KerasForm, output_shape: ShapeTuple, taken: set[str]) -> Iterator[KerasForm]:
    """Yield the layer before a layer, the layer and the one behind it; their names are not among those taken."""

    def neighbour(written: Written, suffix: str, shape: ShapeTuple) -> KerasForm:
        name = f"{form.name}_{suffix}"
        while name in taken:
            name += "_"
        taken.add(name)
        return KerasForm(name, name, written, (), shape)

    before, after = form.written.before, form.written.after
    if before is not None:
        yield neighbour(before, "zeros", form.shape)
        form = form._replace(shape=_with_edges(form.shape, before))
    yield form
    if after is not None:
        yield neighbour(after, "cut", _with_edges(output_shape, after))


def _with_edges(shape: ShapeTuple, written: Written) -> ShapeTuple:
    """Return a shape with the positions that a ZeroPadding adds, or those that a Cropping cuts."""
    (edges,) = written.config.values()
    pairs = edges if len(shape) > 2 else [edges]
    return (*(size + sum(pair) for size, pair in zip(shape, pairs, strict=False)), shape[-1])


def forms_of(spec: ModelSpec) -> list[KerasForm]:
    """Return the Keras form of each layer of a document. Raises SpecnetError for layers that Keras cannot express."""
    return list(_forms(spec.layers, spec.plan().layers, ""))


def config_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the Keras Sequential config of a document. Raises SpecnetError for layers that Keras cannot express."""
    plan = spec.plan()
    input_dtype = "int32" if plan.input_dtype == "int64" else plan.dtype
    return _sequential_entry(spec.name, forms_of(spec), plan.input_shape, plan.dtype, input_dtype)


def _sequential_entry(
    name: str, layers: Sequence[KerasForm], shape: ShapeTuple, dtype: str, input_dtype: str
) -> dict[str, Any]:
    input_name = f"{name}_input"
    while any(layer.name == input_name for layer in layers):
        input_name += "_"
    input_config = {"batch_shape": [None, *shape], "dtype": input_dtype, "name": input_name}
    configs = [_entry("InputLayer", input_config), *(_layer_entry(layer, dtype) for layer in layers)]
    return {**_entry("Sequential", {"name": name, "dtype": dtype, "layers": configs}), "module": "keras"}


def _layer_entry(layer: KerasForm, dtype: str) -> dict[str, Any]:
    if layer.inner:
        return _sequential_entry(layer.name, layer.inner, layer.shape, dtype, dtype)
    config = {"name": layer.name, "dtype": dtype, **layer.written.config}
    if "layer" in config:
        config["layer"] = {**config["layer"], "config": {"dtype": dtype, **config["layer"]["config"]}}
    entry = _entry(layer.written.class_name, config)
    return {**entry, "build_config": {"input_shape": [None, *layer.shape]}}


def _entry(class_name: str, config: Entry) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": class_name, "config": config, "registered_name": None}


def _variable_arrays(arrays: Arrays, layer: KerasForm) -> list[npt.NDArray[Any]]:
    return [to_keras_array(target, layer.full, arrays, layer.shape) for target in layer.written.variables]


def to_keras(model: Model) -> bytes:
    """Return a .keras file, the same bytes for the same model. Raises SpecnetError for what Keras cannot express."""
    config = config_of(model.spec)
    metadata = {"keras_version": VERSION, "date_saved": _DATE, MODEL_KEY: model.spec.to_json()}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        _write_group(file, arrays_of(model), forms_of(model.spec))
        file.create_group("vars").attrs["name"] = model.spec.name
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # uncompressed, as Keras writes it
        for name, data in (
            ("metadata.json", json.dumps(metadata)),
            ("config.json", json.dumps(config)),
            ("model.weights.h5", weights.getvalue()),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _write_group(group: Any, arrays: Arrays, layers: Sequence[KerasForm]) -> None:
    layers_group = group.create_group("layers")
    for layer, key in zip(layers, keys_by_class(layer.written.class_name for layer in layers), strict=True):
        layer_group = layers_group.create_group(key)
        if layer.inner:
            _write_group(layer_group, arrays, layer.inner)
        layer_group.create_group("vars").attrs["name"] = layer.name
        variables, places = _variable_arrays(arrays, layer), PLACES.get(layer.written.class_name, ("",))
        count = len(variables) // len(places)
        for index, array in enumerate(variables):
            layer_group[f"{places[index // count]}/vars/{index % count}".lstrip("/")] = array


def to_keras_h5(model: Model) -> bytes:
    """Return a file in Keras's legacy HDF5 format. Raises SpecnetError for what Keras cannot express."""
    layers, arrays = forms_of(model.spec), arrays_of(model)
    config = _remove_keys(config_of(model.spec), "module", "registered_name", "build_config")
    text = json.dumps({"class_name": config["class_name"], "config": config["config"]})
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        if len(text) > 60_000:  # HDF5 limits the size of attributes in this format
            limit = "a config of at most 60,000 characters"
            msg = f"Keras's legacy format: expected {limit}, got {len(text):,}; write .keras instead"
            raise SpecnetError(msg)
        file.attrs.update({"keras_version": VERSION, "backend": "jax", "model_config": text})
        weights = file.create_group("model_weights")
        weights.attrs.update({"keras_version": VERSION, "backend": "jax"})
        weights.attrs["layer_names"] = [layer.name for layer in layers]
        weights.create_group("top_level_model_weights").attrs["weight_names"] = []
        for layer in layers:
            if layer.name == "top_level_model_weights":
                msg = f"{layer.name}: Keras's legacy format reserves this name; rename the layer"
                raise SpecnetError(msg)
            named = [pair for trained in (True, False) for pair in _named_arrays(model, arrays, layer, trained=trained)]
            group = weights.create_group(layer.name)
            group.attrs["weight_names"] = [name for name, _ in named]
            for name, array in named:
                group[name] = array
    return buffer.getvalue()


def _named_arrays(
    model: Model, arrays: Arrays, layer: KerasForm, *, trained: bool
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield path and array of a layer's trained, or not trained, variables, including those of its inner layers."""
    for inner in layer.inner:
        for name, array in _named_arrays(model, arrays, inner, trained=trained):
            yield f"{layer.name}/{name}", array
    for target, array in zip(layer.written.variables, _variable_arrays(arrays, layer), strict=True):
        owner, _, last = f"{layer.full}.{target}".rpartition(".")
        if (f"{owner}.{short_name(last)}" in model.parameters) == trained:
            yield f"{layer.name}/{_variable_name(layer, target)}", array


def _variable_name(layer: KerasForm, target: str) -> str:
    if layer.written.class_name in ("Embedding", "RMSNormalization", "Normalization") and target:
        return {"weight": "embeddings"}.get(target, target)
    owner, _, last = target.rpartition(".")
    return f"{owner}/{_NAMES.get(short_name(last), short_name(last))}".lstrip("/")


def _remove_keys(value: Any, *keys: str) -> Any:
    """Return a copy of JSON data without these keys, at every depth but within "layer", a layer inside a wrapper."""
    if isinstance(value, dict):
        items = ((key, inner) for key, inner in value.items() if key not in keys)
        return {key: inner if key == "layer" else _remove_keys(inner, *keys) for key, inner in items}
    return [_remove_keys(inner, *keys) for inner in value] if isinstance(value, list) else value
