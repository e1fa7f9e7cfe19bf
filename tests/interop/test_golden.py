"""Test the import of files that golden/foreign/make.py wrote with Keras 2, Keras 3, torch and its ONNX exporters."""

import json
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet.interop.importing import import_model
from tests.test_cli import run

FOLDER = Path(__file__).parents[1] / "golden" / "foreign"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
INPUTS = np.linspace(-2, 2, 4 * 6, dtype="f4").reshape(4, 6)
IMAGES = np.linspace(-2, 2, 4 * 7 * 6 * 2, dtype="f4").reshape(4, 7, 6, 2)
SERIES = np.linspace(-2, 2, 4 * 5 * 3, dtype="f4").reshape(4, 5, 3)
SERIES[1, 3:], SERIES[2, 1:] = 0, 0  # padding, for a network with a mask
KERAS = {
    "name": "golden",
    "input_shape": [6],
    "layers": [
        {"type": "standardize", "name": "normalization"},
        {"type": "affine", "name": "hidden", "units": 5, "weight_init": "he_normal"},
        {"type": "relu", "name": "hidden_relu"},
        {"type": "batch_norm", "name": "norm", "momentum": 0.01, "epsilon": 0.001},
        {"type": "leaky_relu", "name": "leaky_re_lu", "negative_slope": 0.3},
        {"type": "layer_norm", "name": "layer_normalization", "epsilon": 0.001},
        {"type": "dropout", "name": "dropout", "rate": 0.25},
        {
            "type": "sequential",
            "name": "block",
            "layers": [
                {"type": "affine", "name": "dense", "units": 4, "weight_init": "glorot_uniform"},
                {"type": "elu", "name": "dense_elu"},
                {"type": "batch_norm", "name": "batch_normalization", "momentum": 0.01, "epsilon": 0.001},
            ],
        },
        {"type": "reshape", "name": "reshape", "shape": [2, 2]},
        {"type": "prelu", "name": "p_re_lu"},
        {"type": "flatten", "name": "flatten"},
        {"type": "softplus", "name": "activation"},
        {"type": "affine", "name": "dense_1", "units": 3, "bias": False},
        {"type": "softmax", "name": "dense_1_softmax"},
    ],
}
TORCH = {
    "input_shape": [6],
    "layers": [
        {"type": "affine", "units": 8},
        {"type": "gelu"},
        {
            "type": "residual",
            "layers": [{"type": "affine", "units": 4}, {"type": "silu"}, {"type": "affine", "units": 8}],
        },
        {"type": "layer_norm"},
        {"type": "batch_norm"},
        {"type": "mish"},
        {"type": "affine", "units": 3},
    ],
}


def skip_without_reader(file):
    if file.endswith(".onnx"):
        pytest.importorskip("onnx", reason="onnx is not installed")
    if file.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason="safetensors is not installed")


@pytest.mark.parametrize("file", EXPECTED)
def test_the_imported_model_predicts_as_the_original(file):
    skip_without_reader(file)
    documents = {"keras2-weights.h5": KERAS, "keras2.weights.h5": KERAS, "keras3.weights.h5": KERAS}
    document = {**documents, "torch.safetensors": TORCH}.get(file)
    imported = import_model(FOLDER / file, document and specnet.ModelSpec(**document))
    inputs = IMAGES if "images" in file else SERIES if "series" in file else INPUTS
    assert np.abs(imported.model.predict(inputs) - EXPECTED[file]["outputs"]).max() < 5e-7


@pytest.mark.parametrize("file", ["keras2.h5", "keras2.keras", "keras3.h5", "keras3.keras"])
def test_keras_models_are_imported_with_names_settings_and_optimizer(file):
    imported = import_model(FOLDER / file)
    expected = json.loads(specnet.ModelSpec(**KERAS).to_json())
    actual = json.loads(imported.model.spec.to_json())
    for document in (expected, actual):  # Keras numbers layers across the whole process
        for layer in document["layers"]:
            layer["name"] = layer["name"].replace("dense_2", "dense").replace("dense_3", "dense_1")
    assert [layer["type"] for layer in actual["layers"]] == [layer["type"] for layer in expected["layers"]]
    assert actual["layers"][1:8] == expected["layers"][1:8]
    assert imported.notes == ("norm: has no scale in Keras; here it starts at 1 and is trained",)
    optimizer = imported.optimizer
    assert (type(optimizer).__name__, optimizer.steps, round(optimizer.learning_rate, 9)) == ("Adam", 12, 0.01)
    assert optimizer.epsilon == 1e-7
    state = optimizer.state
    assert np.abs(state["first_moment/hidden.weight"]).max() > 0
    assert (state["second_moment/hidden.weight"] >= 0).all()
    assert (state["first_moment/norm.scale"] == 0).all()  # Keras does not train it
    optimizer.model.forward(INPUTS, training=True)
    optimizer.model.backward(np.ones((4, 3)))
    optimizer.step()


def test_the_import_command(tmp_path):
    _, err = run("import", FOLDER / "keras3.keras", "--out", "k.h5", cwd=tmp_path)
    assert "k.h5: 101 parameters in 14 layers" in err
    assert "norm: has no scale in Keras" in err
    assert "the optimizer's state is not saved" in err
    np.save(tmp_path / "x.npy", INPUTS)
    run("predict", "k.h5", "--data", "x.npy", "--out", "y.npy", cwd=tmp_path)
    assert np.abs(np.load(tmp_path / "y.npy") - EXPECTED["keras3.keras"]["outputs"]).max() < 5e-7
    _, err = run("import", FOLDER / "keras3.weights.h5", "--out", "w.h5", cwd=tmp_path, code=1)
    assert "contains weights but no architecture; pass a document of the same layers: --model FILE" in err
    (tmp_path / "m.json").write_text(json.dumps(KERAS))
    run("import", FOLDER / "keras3.weights.h5", "--model", "m.json", "--out", "w.h5", cwd=tmp_path)
    assert specnet.load(tmp_path / "w.h5").parameter_count == 101


def test_layer_names_are_mapped(tmp_path):
    document = json.loads(json.dumps(KERAS).replace('"hidden"', '"first"').replace('"norm"', '"second"'))
    spec = specnet.ModelSpec(**document)
    by_order = import_model(FOLDER / "keras3.weights.h5", spec)
    names = {"hidden": "first", "norm": "second"}
    by_name = import_model(FOLDER / "keras3.weights.h5", spec, names)
    for name, array in by_order.model.parameters.items():
        assert (by_name.model.parameters[name] == array).all()
    with pytest.raises(specnet.CheckpointError, match="has no layer 'nobody'"):
        import_model(FOLDER / "keras3.weights.h5", spec, {"nobody": "first"})
