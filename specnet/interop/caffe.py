"""Import of weights and gradients from Caffe's HDF5 snapshots."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from specnet.interop.hdf5.sandbox import Hdf5Content
from specnet.interop.imported_model import Arrays, Imported, NameMap, fill_model, put_once, unsupported
from specnet.spec.model_spec import ModelSpec


def from_caffe(
    path: str | os.PathLike[str], content: Hdf5Content, spec: ModelSpec, names: NameMap | None = None
) -> Imported:
    """Fill the model of a document from a Caffe snapshot in HDF5, and its gradients if the file has them.

    `names` maps Caffe's layer names to the document's if they differ. Raises CheckpointError.
    """
    name, names = os.fspath(path), names or {}
    values = _read_group(name, content, "/data", spec, names)
    notes: list[str] = []
    gradients = _read_group(name, content, "/diff", spec, names) if "/diff" in content.attributes else {}
    model = fill_model(name, spec, values, notes)
    for full, target in model.store.gradients.items() if gradients else ():
        if full not in gradients or gradients[full].shape != target.shape:
            raise unsupported(name, f"/diff: the gradient of {full} is missing or has a different shape")
        target[...] = gradients[full]
    if gradients:
        model.adopt_gradients()
        notes.append("its gradients were imported as well")
    return Imported(model, tuple(notes))


def _read_group(name: str, content: Hdf5Content, group: str, spec: ModelSpec, names: NameMap) -> Arrays:
    """Read the arrays of "/data" or "/diff", by their full names."""
    types = {full: layer.type for full, layer, _ in spec.walk()}
    expected = {full.rpartition(".")[0] for full in spec.parameter_specs()}
    arrays: Arrays = {}
    for path in sorted(content.arrays):
        if not path.startswith(f"{group}/"):
            continue
        layer, _, index = path.removeprefix(f"{group}/").rpartition("/")
        layer_name = names.get(layer, layer)
        if layer_name not in expected:
            detail = f"the model has {', '.join(sorted(expected))}; map it with --map {layer}=NAME"
            message = f"{group}/{layer}: no layer with arrays is named {layer_name!r:.80}; {detail}"
            raise unsupported(name, message[:400])
        short_names = {"affine": ("weight", "bias"), "prelu": ("slope",)}.get(types[layer_name], ())
        if index not in [str(number) for number in range(len(short_names))]:
            raise unsupported(name, f"{path}: a layer of type {types[layer_name]!r} has no such array in Caffe")
        short_name = short_names[int(index)]
        put_once(name, arrays, f"{layer_name}.{short_name}", _from_caffe_array(content.arrays[path], short_name))
    return arrays


def _from_caffe_array(array: npt.NDArray[Any], short_name: str) -> npt.NDArray[Any]:
    """Drop the leading axes of size 1 that old versions wrote, and transpose a weight to (in, out)."""
    rank = 2 if short_name == "weight" else 1
    if array.ndim > rank and all(size == 1 for size in array.shape[:-rank]):
        array = array.reshape(array.shape[-rank:])
    return array.T if short_name == "weight" else array
