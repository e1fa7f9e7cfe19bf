"""Test one training step: accumulation, clipping, row weights, frozen parameters, and checks for finite values."""

import numpy as np
import pytest

import specnet
from specnet.training.finite_check import NotFiniteError
from tests.support import arrays_of, model_of, same_arrays

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 5)), RNG.integers(0, 3, 48)
LAYERS = (
    {"type": "affine", "units": 8},
    {"type": "tanh"},
    {"type": "dropout", "rate": 0.4},
    {"type": "affine", "units": 3},
)
SGD = {"type": "sgd", "learning_rate": 0.1}


def trained(*layers, x=X, y=Y, loss="softmax_cross_entropy", optimizer=SGD, epochs=2, dtype="float64", **settings):
    model = model_of(*(layers or LAYERS), dtype=dtype)
    history = specnet.fit(model, x, y, loss=loss, optimizer=optimizer, epochs=epochs, **settings)
    return model, history


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_batches_equal_one_large_batch(parts, weighted):
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
    loss = {"type": "softmax_cross_entropy", "class_weights": [1, 2, 3]} if weighted else "softmax_cross_entropy"
    settings = {"loss": loss, "weights": weights, "optimizer": "adam"}
    big, big_history = trained(batch_size=24, **settings)
    small, small_history = trained(batch_size=24 // parts, accumulate=parts, **settings)
    for name, value in big.parameters.items():
        assert np.allclose(value, small.parameters[name], rtol=1e-10, atol=1e-12), name
    assert small_history["loss"] == pytest.approx(big_history["loss"], rel=1e-10)
    assert small_history["accuracy"] == big_history["accuracy"]


def test_the_short_last_step_of_an_epoch_is_accumulated_too():
    big, _ = trained(x=X[:41], y=Y[:41], batch_size=20)
    small, _ = trained(x=X[:41], y=Y[:41], batch_size=5, accumulate=4)
    for name, value in big.parameters.items():
        assert np.allclose(value, small.parameters[name], rtol=1e-10), name


@pytest.mark.parametrize("clip_norm", [1e-3, 0.3, 1e3])
def test_gradients_are_clipped_as_in_torch(clip_norm):
    steps = []

    def record_gradients(event):
        if event.kind == "step":
            steps.append({name: g.copy() for name, g in event.run.model.gradients.items()})

    trained(batch_size=48, epochs=1, clip_norm=clip_norm, listeners=[record_gradients])
    trained(batch_size=48, epochs=1, listeners=[record_gradients])
    clipped, unclipped = steps
    norm = np.sqrt(sum(float(np.square(g).sum()) for g in unclipped.values()))
    factor = min(clip_norm / (norm + 1e-6), 1)
    for name, gradient in unclipped.items():
        assert np.allclose(clipped[name], gradient * factor, rtol=1e-12)


def test_the_clipped_norm_excludes_frozen_parameters():
    model, _ = trained(batch_size=48, epochs=1, clip_norm=1e-3, freeze=["affine_1.*"])
    norm = np.sqrt(sum(float(np.square(model.gradients[f"affine_2.{n}"]).sum()) for n in ("weight", "bias")))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_frozen_parameters_do_not_change():
    initial = model_of(*LAYERS, dtype="float64").parameters
    model, _ = trained(freeze=["affine_1.*"])
    for name, value in model.parameters.items():
        assert np.array_equal(value, initial[name]) == name.startswith("affine_1")


def test_a_row_weight_counts_like_repeated_rows():
    counts = np.random.default_rng(1).integers(1, 4, len(X))
    settings = {"epochs": 1, "shuffle": False}
    layers = (LAYERS[0], LAYERS[1], LAYERS[3])
    weighted, weighted_history = trained(*layers, weights=counts.astype(float), batch_size=48, **settings)
    repeated, repeated_history = trained(
        *layers, x=X.repeat(counts, 0), y=Y.repeat(counts), batch_size=int(counts.sum()), **settings
    )
    for name, value in weighted.parameters.items():
        assert np.allclose(value, repeated.parameters[name], rtol=1e-10)
    assert weighted_history["loss"] == pytest.approx(repeated_history["loss"])


def test_metrics_of_an_epoch_are_computed_from_its_training_outputs():
    metrics_per_step = []

    def record_metrics(event):
        if event.kind == "step":
            metrics_per_step.append(event.run.epoch_metrics.values())

    _, history = trained(
        batch_size=10, metrics=["accuracy", "f1", {"type": "top_k_accuracy", "k": 2}], listeners=[record_metrics]
    )
    _, history_without_listener = trained(batch_size=10, metrics=["accuracy", "f1", {"type": "top_k_accuracy", "k": 2}])
    assert history == history_without_listener  # reading the metrics during an epoch does not change them
    assert metrics_per_step[4] == {name: history[name][0] for name in ("loss", "accuracy", "f1", "top_k_accuracy")}


# ---------------------------------------------------------------- values that are not finite


@pytest.mark.parametrize("check_finite", [False, True])
def test_a_loss_that_is_not_finite_is_reported_with_the_layer(check_finite):
    model = model_of({"type": "affine", "name": "wild", "units": 3}, {"type": "relu"}, dtype="float32")
    model.parameters["wild.weight"][...] = 3e38
    with pytest.raises(NotFiniteError, match=r"at step 1, in epoch 1: .*outputs of layer wild \(forward\); lower"):
        specnet.fit(model, np.full((8, 5), 5.0), np.zeros((8, 3)), loss="mean_squared_error", check_finite=check_finite)


@pytest.mark.parametrize("check_finite", [False, True])
def test_a_gradient_that_is_not_finite_is_reported_and_changes_no_parameter(check_finite):
    model = model_of(
        {"type": "affine", "name": "first", "units": 4}, {"type": "affine", "name": "last", "units": 3}, dtype="float32"
    )
    model.parameters["last.weight"][...] = 1e38
    model.parameters["first.weight"][...] = 1e-38
    before = {name: value.copy() for name, value in model.parameters.items()}
    x, y = np.full((8, 5), 1e19), np.full((8, 3), 1e19)
    with pytest.raises(NotFiniteError, match=r"step 1, in epoch 1: .*gradient of .*\(backward\)") as caught:
        specnet.fit(model, x, y, loss="mean_absolute_error", check_finite=check_finite)
    assert "not finite" in str(caught.value)
    assert same_arrays(before, {name: value.copy() for name, value in model.parameters.items()})


def test_a_parameter_that_is_not_finite_is_reported_by_name():
    model = model_of(*LAYERS, dtype="float32")
    model.parameters["affine_2.bias"][0] = np.nan
    with pytest.raises(NotFiniteError, match=r"the parameter affine_2\.bias is not finite before the step"):
        specnet.fit(model, X, Y, loss="softmax_cross_entropy")


def test_very_large_finite_gradients_are_allowed():
    model = model_of({"type": "affine", "units": 1}, dtype="float32")
    x, y = np.full((4, 5), 1e20), np.zeros((4, 1))
    model.parameters["affine_1.weight"][...] = 1e-20
    specnet.fit(model, x, y, loss="mean_absolute_error", optimizer={"type": "sgd", "learning_rate": 1e-30}, epochs=1)
    assert np.isfinite(model.parameters["affine_1.weight"]).all()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_check_finite_does_not_change_the_training(accumulate):
    settings = {"batch_size": 8, "accumulate": accumulate, "optimizer": "adam"}
    layers = (*LAYERS[:1], {"type": "batch_norm"}, *LAYERS[1:])
    (unchecked, unchecked_history), (checked, checked_history) = (
        trained(*layers, check_finite=check, **settings) for check in (False, True)
    )
    assert same_arrays(arrays_of(unchecked), arrays_of(checked))
    assert unchecked_history == checked_history


def test_the_diagnosis_repeats_the_step_with_the_same_dropout():
    model = model_of(LAYERS[0], {"type": "relu"}, *LAYERS[2:], dtype="float32")
    x = X.copy()
    x[20] = 1e38
    model.parameters["affine_1.weight"][...] = 3.0
    with pytest.raises(NotFiniteError) as caught:
        specnet.fit(model, x, Y, loss="softmax_cross_entropy", batch_size=7)
    assert "did not appear again" not in str(caught.value)
