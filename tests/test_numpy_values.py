"""Test that numpy's numbers and arrays are taken wherever Python's are, and mean the same."""

import numpy as np
import pytest

import specnet
from specnet.document.python_values import plain

X = np.random.default_rng(0).normal(size=(30, 2))
Y = np.arange(30) % 3


def test_documents_take_numpys_numbers():
    layers = [
        {"type": "standardize", "mean": np.array([0.5, 1.0]), "std": np.float32(2)},
        {"type": "affine", "units": Y.max() + 1, "weight_init": {"type": "normal", "std": np.float64(0.1)}},
        {"type": "dropout", "rate": np.float32(0.5)},
    ]
    spec = specnet.ModelSpec(input_shape=(np.int32(2),), layers=layers, seed=np.uint8(3), labels=np.array(list("abc")))
    same = [
        {"type": "standardize", "mean": [0.5, 1.0], "std": 2.0},
        {"type": "affine", "units": 3, "weight_init": {"type": "normal", "std": 0.1}},
        {"type": "dropout", "rate": 0.5},
    ]
    assert spec == specnet.ModelSpec(input_shape=(2,), layers=same, seed=3, labels=list("abc"))
    assert spec.identity == specnet.ModelSpec.from_text(spec.to_json()).identity
    assert specnet.ModelSpec.model_validate(
        {"input_shape": np.array([2]), "layers": [{"type": "relu"}]}
    ).input_shape == (2,)
    assert specnet.layers.AffineSpec(units=np.int64(4)).units == 4
    assert specnet.build(spec, seed=np.int64(5)).spec.seed == 5
    metadata = {"rows": np.int64(3), "mean": np.array([[1.0]]), "flag": np.bool_(True)}
    written = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "relu"}], metadata=metadata).to_json()
    assert specnet.ModelSpec.from_text(written).metadata == {"rows": 3, "mean": [[1.0]], "flag": True}


@pytest.mark.parametrize(
    "units", [np.float64(3.5), np.array([3, 4]), np.datetime64("2020-01-01"), np.nan, np.bool_(True)]
)
def test_numpys_values_are_rejected_like_pythons(units):
    with pytest.raises(specnet.SpecError, match=r"layers\[0\]\.units: expected a positive integer"):
        specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": units}])


def test_training_takes_numpys_numbers(tmp_path):
    model = specnet.build(specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 3}]))
    history = specnet.fit(
        model,
        X,
        Y,
        loss={"type": "softmax_cross_entropy", "class_weights": np.array([1.0, 2, 1])},
        optimizer={"type": "sgd", "learning_rate": np.float32(0.1)},
        epochs=np.int64(2),
        batch_size=np.int32(8),
        validation=np.float64(0.2),
        seed=np.uint16(7),
    )
    assert len(history["loss"]) == 2
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    document = {
        "model": {"input_shape": np.array([2]), "layers": [{"type": "affine", "units": np.int64(3)}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}, "validation": {"fraction": np.float32(0.25)}},
        "training": {"loss": "softmax_cross_entropy", "epochs": np.int64(1), "seed": np.int64(2)},
    }
    assert specnet.train(document, out=tmp_path / "run").finished
    assert type(document["training"]["epochs"]) is np.int64  # the caller's document is not changed


def test_values_that_are_shared_or_endless():
    shared = [np.int64(1)]
    assert plain([shared, shared]) == [[1], [1]]
    deep = layers = []
    for _ in range(40):  # 2^40 entries, if each were copied
        layers = [layers, layers]
    deep.append({"type": "relu"})
    with pytest.raises(specnet.SpecError):
        specnet.ModelSpec(input_shape=(2,), layers=layers)
    endless = []
    endless.append(endless)
    with pytest.raises(specnet.SpecError):
        specnet.ModelSpec(input_shape=(2,), layers=endless)
