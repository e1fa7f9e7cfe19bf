"""Test every cell of the table in docs/interop.md.

`python -m tests.interop.test_table` regenerates the table.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from specnet.spec.registry import layer_types
from tests.interop.nets import random_model
from tests.support import SEQUENCE_LAYERS, SPATIAL_LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- the table, as tests/interop/test_table.py finds it -->\n", "<!-- end of the table -->\n"
BY_SHAPE = {
    entry["type"]: (entry, shape)
    for entry, shape in reversed([*SPATIAL_LAYERS.values(), *SEQUENCE_LAYERS.values()])
    if entry["type"] != "embedding"
} | {"upsample1d": ({"type": "upsample1d"}, (4, 3))}
"""An entry of each layer over positions or time, with the shape of an input: the first in its dictionary."""
EQUAL = {"time_average": "global_average_pool"}
"""Layers that compute the same as another one if no step is padding."""
COLUMNS = ("ONNX out", "ONNX in", "Keras out", "Keras in", "safetensors, npz", "Caffe in", "scikit-learn in")
BUILT_IN = [kind for kind, cls in layer_types().items() if cls.__module__.startswith("specnet.spec.layers.")]
ENTRIES = {
    "affine": {"type": "affine", "units": 3},
    "concat": {"type": "concat", "branches": [[], [{"type": "affine", "units": 2}]]},
    "embedding": {"type": "embedding", "vocabulary": 9, "dimension": 2},
    "residual": {"type": "residual", "layers": [{"type": "affine", "units": 6}, {"type": "tanh"}]},
    "reshape": {"type": "reshape", "shape": [2, 3]},
    "sequential": {"type": "sequential", "layers": [{"type": "affine", "units": 2}]},
    "standardize": {"type": "standardize", "mean": 0.5, "std": 2.0},
}


def model_with(kind, dtype="float32"):
    if kind in BY_SHAPE:
        entry, shape = BY_SHAPE[kind]
        return random_model([entry, *([{"type": "lstm", "units": 2}] if kind == "mask" else [])], 1, dtype, shape)
    entry = ENTRIES.get(kind, {"type": kind})
    if kind in ("embedding", "standardize"):
        return random_model([entry, {"type": "flatten"}], 1, dtype, (6,))
    if kind == "flatten":
        return random_model([entry, {"type": "affine", "units": 3}], 1, dtype, (2, 3))
    return random_model([{"type": "affine", "units": 6}, entry], 1, dtype)


def is_exported(folder, kind, suffix):
    try:
        export(folder / f"m.{suffix}", model_with(kind))
    except specnet.SpecnetError as error:
        assert any(why in str(error) for why in ("has no operator for a layer", "has no layer of type", "has no mask"))
        return False
    return True


def contains_layer(spec, kind):
    return any(layer.type == kind for _, layer, _ in spec.walk())


def found_in(spec, kind):
    """Return whether a document contains a layer of this type, or the name of one that computes the same."""
    if not contains_layer(spec, kind) and kind in EQUAL:
        return f"as `{EQUAL[kind]}`"
    return contains_layer(spec, kind)


def onnx_in(folder, kind):
    """Import our export without its document, or a graph of the ONNX operator if our export does not use it."""
    import onnx

    path, make = folder / "m.onnx", onnx.helper
    operators = {"dropout": ("Dropout", []), "rms_norm": ("RMSNormalization", ["scale"])}
    if kind in operators:
        operator, arrays = operators[kind]
        value = make.make_tensor_value_info
        scale = onnx.numpy_helper.from_array(np.ones(3, "f4"), "scale")
        graph = make.make_graph(
            [make.make_node(operator, ["x", *arrays], ["y"])],
            "g",
            [value("x", 1, ["n", 3])],
            [value("y", 1, ["n", 3])],
            [scale] if arrays else [],
        )
        onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 23)]), path)
    elif not is_exported(folder, kind, "onnx"):
        return False
    else:
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)
    try:
        spec = import_model(path).model.spec
    except specnet.SpecnetError:
        return False
    return "as its layers" if kind == "sequential" else found_in(spec, kind)


def keras_in(folder, kind):
    try:
        export(folder / "m.h5", model_with(kind), "keras")
    except specnet.SpecnetError:
        return False
    return found_in(import_model(folder / "m.h5").model.spec, kind)


def by_name(folder, kind):
    model = model_with(kind)
    for suffix in ("npz", "safetensors"):
        export(folder / f"m.{suffix}", model)
        assert import_model(folder / f"m.{suffix}").model.spec == model.spec
    return True


def caffe_in(folder, kind):
    """Import a layer with arrays from a Caffe snapshot; a layer without arrays is known only from the document."""
    model = model_with(kind)
    kinds = {"weight": 0, "bias": 1, "slope": 0}
    parameter_names = [name for name in model.parameters if name.startswith(f"{kind}_")]
    if not parameter_names:
        return "document"
    with h5py.File(folder / "m.caffemodel.h5", "w") as file:
        for full, array in model.parameters.items():
            layer, _, short = full.rpartition(".")
            file[f"data/{layer}/{kinds.get(short, 0)}" if short in kinds else f"data/{layer}/{short}"] = array.T
    try:
        return contains_layer(import_model(folder / "m.caffemodel.h5", model.spec).model.spec, kind)
    except specnet.SpecnetError:
        return False


def sklearn_in(_folder, kind):
    from sklearn.neural_network import MLPClassifier

    from specnet.interop.sklearn import from_sklearn

    activation = {"sigmoid": "logistic"}.get(kind, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"activation": activation if activation in ("relu", "tanh", "logistic") else "relu", "max_iter": 2}
        fitted = MLPClassifier((4,), **settings).fit(np.eye(6), [0, 1, 2, 0, 1, 2])
    return contains_layer(from_sklearn(fitted).model.spec, kind)


CELLS = {
    "ONNX out": lambda folder, kind: is_exported(folder, kind, "onnx"),
    "ONNX in": onnx_in,
    "Keras out": lambda folder, kind: is_exported(folder, kind, "keras"),
    "Keras in": keras_in,
    "safetensors, npz": by_name,
    "Caffe in": caffe_in,
    "scikit-learn in": sklearn_in,
}


def table():
    rows = [f"| layer | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for kind in sorted(BUILT_IN):
        cells = []
        for column in COLUMNS:
            with tempfile.TemporaryDirectory() as folder:
                value = CELLS[column](Path(folder), kind)
            cells.append(value if isinstance(value, str) else "yes" if value else "")
        rows.append(f"| `{kind}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def test_the_table_in_the_documentation_is_current():
    for package in ("onnx", "onnxruntime", "safetensors", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    page = PAGE.read_text()
    assert BEGIN + table() + END in page, "run `python -m tests.interop.test_table`"


if __name__ == "__main__":
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
    sys.stdout.write(f"{PAGE.name} is written\n")
