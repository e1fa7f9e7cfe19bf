"""Weights of Caffe's HDF5 snapshots."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from specnet.interop.hdf5.sandbox import Hdf5Content
from specnet.interop.imported_model import Arrays, Imported, fill_model, unsupported
from specnet.interop.keras.weights import Names
from specnet.spec.model_spec import ModelSpec


def from_caffe(
    path: str | os.PathLike[str], content: Hdf5Content, spec: ModelSpec, names: Names | None = None
) -> Imported:
    """Fill a document's model, and its gradients where the file has them, from a Caffe snapshot in HDF5.

    `names` maps Caffe's layers to ours, where they are called otherwise. Raises CheckpointError.
    """
    name, names = os.fspath(path), names or {}
    values = _caffe(name, content, "/data", spec, names)
    notes: list[str] = []
    gradients = _caffe(name, content, "/diff", spec, names) if "/diff" in content.attributes else {}
    model = fill_model(name, spec, values, notes)
    for full, target in model.store.gradients.items() if gradients else ():
        if full not in gradients or gradients[full].shape != target.shape:
            raise unsupported(name, f"/diff: the gradient of {full} is missing, or has another shape")
        target[...] = gradients[full]
    if gradients:
        model.adopt_gradients()
        notes.append("its gradients were taken, too")
    return Imported(model, tuple(notes))


def _caffe(name: str, content: Hdf5Content, group: str, spec: ModelSpec, names: Names) -> Arrays:
    types = {full: layer.type for full, layer, _ in spec.walk()}
    expected = {full.rpartition(".")[0] for full in spec.parameter_specs()}
    arrays: Arrays = {}
    for path in sorted(content.arrays):
        if not path.startswith(f"{group}/"):
            continue
        layer, _, index = path.removeprefix(f"{group}/").rpartition("/")
        ours = names.get(layer, layer)
        if ours not in expected:
            there = f"the model has {', '.join(sorted(expected))}; --map {layer}=NAME says which it is"
            raise unsupported(name, f"{group}/{layer}: no layer with arrays is called {ours!r:.80}; {there}"[:400])
        kinds = {"affine": ("weight", "bias"), "prelu": ("slope",)}.get(types[ours], ())
        if index not in [str(number) for number in range(len(kinds))]:
            raise unsupported(name, f"{path}: a layer of type {types[ours]!r} has no such array in Caffe")
        arrays[f"{ours}.{kinds[int(index)]}"] = _plain(content.arrays[path], kinds[int(index)])
    return arrays


def _plain(array: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Drop the leading axes of one that old versions wrote, and turn a weight."""
    rank = 2 if kind == "weight" else 1
    if array.ndim > rank and all(size == 1 for size in array.shape[:-rank]):
        array = array.reshape(array.shape[-rank:])
    return array.T if kind == "weight" else array
