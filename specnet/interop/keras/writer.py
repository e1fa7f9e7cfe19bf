"""A model as Keras's files: `.keras`, and the legacy `.h5`, which Netron draws, too. Keras 3 loads both."""

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
from specnet.interop.keras.layer_writers import WRITERS, Written, to_keras_array
from specnet.interop.keras.layers import Entry, keys_by_class
from specnet.model import Model
from specnet.plan import LayerPlan
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec

VERSION = "3.12.0"
"""Of Keras: the files are of the form that this version writes, and later ones read."""


_DATE = "1980-01-01@00:00:00"


_NAMES = {
    "weight": "kernel",
    "scale": "gamma",
    "shift": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "slope": "alpha",
    "": "count",
}


class KerasForm(NamedTuple):
    """A layer of ours with what it is in Keras; `rank` of its inputs, with the batch, `shape` without it."""

    full: str
    name: str
    written: Written
    rank: int
    inner: tuple[KerasForm, ...]
    shape: ShapeTuple


def _layers(specs: Sequence[Any], plans: Sequence[LayerPlan], prefix: str) -> Iterator[KerasForm]:
    """Give each layer as Keras has it. Raises SpecnetError, by name, for one that a Sequential has no place for."""
    for spec, plan in zip(specs, plans, strict=True):
        full, rank = f"{prefix}{spec.name}", len(plan.input_shape) + 1
        if spec.type == "sequential":
            inner = tuple(_layers(spec.layers, plan.layers, f"{full}."))
            yield KerasForm(full, spec.name, Written("Sequential", {}), rank, inner, plan.input_shape)
        elif isinstance(spec, CompositeSpec) or spec.type not in WRITERS:
            msg = f"{full}: a Keras Sequential has no layer like {spec.type!r}; export to onnx, which has"
            raise SpecnetError(msg)
        else:
            try:
                written = WRITERS[spec.type](spec.fields(), plan.input_shape)
            except SpecnetError as error:
                msg = f"{full}: {error}"
                raise SpecnetError(msg) from None
            yield KerasForm(full, spec.name, written, rank, (), plan.input_shape)


def forms_of(spec: ModelSpec) -> list[KerasForm]:
    """Give each layer of a document as Keras has it. Raises SpecnetError for what that cannot express."""
    return list(_layers(spec.layers, spec.plan().layers, ""))


def config_of(spec: ModelSpec) -> dict[str, Any]:
    """Write a document as Keras's config of a Sequential. Raises SpecnetError for what that cannot express."""
    plan = spec.plan()
    kind = "int32" if plan.input_dtype == "int64" else plan.dtype
    return _sequential(spec.name, forms_of(spec), plan.input_shape, plan.dtype, kind)


def _sequential(name: str, layers: Sequence[KerasForm], shape: ShapeTuple, dtype: str, kind: str) -> dict[str, Any]:
    inputs = f"{name}_input"
    while any(layer.name == inputs for layer in layers):
        inputs += "_"
    first = {"batch_shape": [None, *shape], "dtype": kind, "name": inputs}
    configs = [_one("InputLayer", first), *(_config(layer, dtype) for layer in layers)]
    return {**_one("Sequential", {"name": name, "dtype": dtype, "layers": configs}), "module": "keras"}


def _config(layer: KerasForm, dtype: str) -> dict[str, Any]:
    if layer.inner:
        return _sequential(layer.name, layer.inner, layer.shape, dtype, dtype)
    made = _one(layer.written.class_name, {"name": layer.name, "dtype": dtype, **layer.written.config})
    return {**made, "build_config": {"input_shape": [None, *layer.shape]}}


def _one(class_name: str, config: Entry) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": class_name, "config": config, "registered_name": None}


def _variables(arrays: Arrays, layer: KerasForm) -> list[npt.NDArray[Any]]:
    return [to_keras_array(target, layer.full, arrays, layer.rank) for target in layer.written.variables]


def to_keras(model: Model) -> bytes:
    """Write a .keras file: the same model makes the same bytes. Raises SpecnetError for what Keras cannot express."""
    config = config_of(model.spec)
    metadata = {"keras_version": VERSION, "date_saved": _DATE, MODEL_KEY: model.spec.to_json()}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        _write_group(file, arrays_of(model), forms_of(model.spec))
        file.create_group("vars").attrs["name"] = model.spec.name
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:  # stored, as Keras has them
        for name, data in (
            ("metadata.json", json.dumps(metadata)),
            ("config.json", json.dumps(config)),
            ("model.weights.h5", weights.getvalue()),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)
    return made.getvalue()


def _write_group(group: Any, arrays: Arrays, layers: Sequence[KerasForm]) -> None:
    within = group.create_group("layers")
    for layer, key in zip(layers, keys_by_class(layer.written.class_name for layer in layers), strict=True):
        own = within.create_group(key)
        if layer.inner:
            _write_group(own, arrays, layer.inner)
        variables = own.create_group("vars")
        variables.attrs["name"] = layer.name
        for index, array in enumerate(_variables(arrays, layer)):
            variables[str(index)] = array


def to_keras_h5(model: Model) -> bytes:
    """Write Keras's legacy format of a whole model. Raises SpecnetError for what Keras cannot express."""
    layers, arrays = forms_of(model.spec), arrays_of(model)
    config = _without(config_of(model.spec), "module", "registered_name", "build_config")
    text = json.dumps({"class_name": config["class_name"], "config": config["config"]})
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        if len(text) > 60_000:  # HDF5 has no room for more in an attribute of this format
            msg = f"Keras's legacy format takes a config of 60,000 characters, this has {len(text):,}; write .keras"
            raise SpecnetError(msg)
        file.attrs.update({"keras_version": VERSION, "backend": "jax", "model_config": text})
        weights = file.create_group("model_weights")
        weights.attrs.update({"keras_version": VERSION, "backend": "jax"})
        weights.attrs["layer_names"] = [layer.name for layer in layers]
        weights.create_group("top_level_model_weights").attrs["weight_names"] = []
        for layer in layers:
            if layer.name == "top_level_model_weights":
                msg = f"{layer.name}: Keras's legacy format has this name for itself; call the layer otherwise"
                raise SpecnetError(msg)
            named = [pair for trained in (True, False) for pair in _named(model, arrays, layer, trained=trained)]
            group = weights.create_group(layer.name)
            group.attrs["weight_names"] = [name for name, _ in named]
            for name, array in named:
                group[name] = array
    return made.getvalue()


def _named(model: Model, arrays: Arrays, layer: KerasForm, *, trained: bool) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Give a layer's variables by their paths; those of a Sequential inside flat, the trained ones first."""
    for inner in layer.inner:
        for name, array in _named(model, arrays, inner, trained=trained):
            yield f"{layer.name}/{name}", array
    for target, array in zip(layer.written.variables, _variables(arrays, layer), strict=True):
        if (f"{layer.full}.{target}" in model.parameters) == trained:
            yield f"{layer.name}/{_name_of(layer, target)}", array


def _name_of(layer: KerasForm, target: str) -> str:
    if layer.written.class_name in ("Embedding", "RMSNormalization", "Normalization") and target:
        return {"weight": "embeddings"}.get(target, target)
    return _NAMES.get(target, target)


def _without(value: Any, *keys: str) -> Any:
    """Leave out keys at every depth."""
    if isinstance(value, dict):
        return {key: _without(inner, *keys) for key, inner in value.items() if key not in keys}
    return [_without(inner, *keys) for inner in value] if isinstance(value, list) else value
