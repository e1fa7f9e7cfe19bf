"""Test specnet.fit, which trains a model on arrays and returns its history."""

import numpy as np
import pytest

import specnet
from specnet import DataError, SpecError
from tests.support import arrays_of, model_of, same_arrays

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
Y = (X[:, 0] > X[:, 1]).astype(int)
LAYERS = ({"type": "affine", "units": 16}, {"type": "relu"}, {"type": "affine", "units": 2})


def build_model(*layers, **settings):
    return model_of(*(layers or LAYERS), input_shape=(4,), dtype="float32", **settings)


def test_a_classifier_learns():
    net = build_model()
    adam = {"type": "adam", "learning_rate": 0.01}
    history = specnet.fit(
        net, X, Y, validation=(X[:50], Y[:50]), loss="softmax_cross_entropy", epochs=30, optimizer=adam
    )
    assert history["val_accuracy"][-1] > 0.95
    assert history["epoch"] == list(range(1, 31))
    assert np.mean(net.predict(X).argmax(axis=1) == Y) > 0.95


def test_a_regression_with_standardized_inputs_learns():
    net = build_model({"type": "standardize"}, *LAYERS[:2], {"type": "affine", "units": 1})
    target = 3 * X[:, 0] - X[:, 2]
    history = specnet.fit(net, 100 + 5 * X, target, loss="mean_squared_error", epochs=60, metrics=["r2", "mae"],
                          validation=0.25, optimizer={"type": "adam", "learning_rate": 0.01})  # fmt: skip
    assert history["val_r2"][-1] > 0.9
    assert np.allclose(net.buffers["standardize_1.mean"], 100, atol=1)
    mean = net.buffers["standardize_1.mean"].copy()
    specnet.fit(net, X, target, loss="mean_squared_error", epochs=1)
    assert np.array_equal(net.buffers["standardize_1.mean"], mean), "fit changed the fitted mean"


def test_fit_and_train_compute_the_same_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=X, y=Y)
    spec = specnet.ModelSpec(input_shape=(4,), layers=[*LAYERS[:2], {"type": "dropout", "rate": 0.3}, LAYERS[2]])
    training = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "seed": 7, "optimizer": "rmsprop"}
    result = specnet.train(
        {
            "model": spec.model_dump(mode="json"),
            "data": {"train": {"path": "d.npz"}, "validation": {"fraction": 0.2}},
            "training": training,
        },
        out="r",
    )
    net = specnet.build(spec)
    history = specnet.fit(net, X, Y, validation=0.2, **training)
    assert history == result.history
    assert same_arrays(arrays_of(net), arrays_of(result.model))


def test_early_stopping_restores_the_best_arrays():
    def new_model():
        return build_model(LAYERS[0], {"type": "batch_norm"}, *LAYERS[1:])

    random_targets = RNG.integers(0, 2, 200)
    settings = {
        "loss": "softmax_cross_entropy",
        "optimizer": {"type": "adam", "learning_rate": 0.05},
        "validation": 0.3,
    }
    stopped = new_model()
    history = specnet.fit(stopped, X, random_targets, epochs=200, early_stopping={"patience": 5}, **settings)
    best = int(np.argmin(history["val_loss"])) + 1
    assert len(history["loss"]) == best + 5
    without_stopping = new_model()
    specnet.fit(without_stopping, X, random_targets, epochs=best, **settings)
    for name, value in {**without_stopping.parameters, **without_stopping.buffers}.items():
        assert np.array_equal(value, {**stopped.parameters, **stopped.buffers}[name]), name


def test_a_listener_can_stop_the_training():
    history = specnet.fit(build_model(), X, Y, loss="softmax_cross_entropy", epochs=9,
                          listeners=[lambda event: event.run.stop() if event.run.epoch == 2 else None])  # fmt: skip
    assert history["epoch"] == [1, 2]


def test_text_targets_need_labels():
    names = np.array(["no", "yes"])[Y]
    spec = specnet.ModelSpec(input_shape=(4,), layers=list(LAYERS), labels=["no", "yes"])
    history = specnet.fit(specnet.build(spec), X, names, loss="softmax_cross_entropy", epochs=2)
    assert history == specnet.fit(specnet.build(spec), X, Y, loss="softmax_cross_entropy", epochs=2)
    with pytest.raises(DataError, match="list the class names in the model document under labels"):
        specnet.fit(build_model(), X, names, loss="softmax_cross_entropy")


def test_invalid_arguments_are_rejected_and_leave_the_model_unchanged():
    net = build_model()
    before = arrays_of(net)
    with pytest.raises(DataError, match=r"fit: inputs: the model expects shape \(batch, 4\)"):
        specnet.fit(net, X[:, :3], Y, loss="softmax_cross_entropy")
    with pytest.raises(DataError, match="row 3: expected a class from 0 to 1, got 7"):
        specnet.fit(net, X, np.r_[Y[:2], 7, Y[3:]], loss="softmax_cross_entropy")
    with pytest.raises(DataError, match="validation: targets: expected 50 rows"):
        specnet.fit(net, X, Y, loss="softmax_cross_entropy", validation=(X[:50], Y[:40]))
    with pytest.raises(SpecError, match=r"^epoch: unknown key; did you mean"):
        specnet.fit(net, X, Y, loss="softmax_cross_entropy", epoch=3)
    with pytest.raises(SpecError, match=r"^fraction: expected a number"):
        specnet.fit(net, X, Y, loss="softmax_cross_entropy", validation=2.0)
    assert same_arrays(before, arrays_of(net))
