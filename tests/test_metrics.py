"""Test that metrics equal those of scikit-learn, however the rows are split into batches."""

import numpy as np
import pytest

from specnet.training.epoch_metrics import EpochMetrics
from specnet.training.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from specnet.training.metrics import METRICS, MONITORS, greater_is_better, short_name

RNG = np.random.default_rng(3)


def measured(kind, outputs, targets, loss, parts=(13, 14, 70), **settings):
    """Return a metric computed by `EpochMetrics` over parts of uneven size."""
    spec = METRICS[kind](**settings)
    epoch_metrics = EpochMetrics([spec], outputs.shape[1:], loss)
    start = 0
    for stop in (*parts, len(outputs)):
        epoch_metrics.begin(outputs[start:stop], targets[start:stop], 5)
        epoch_metrics.add(0.0, stop - start, stop - start)
        start = stop
    return epoch_metrics.values()[kind]


def classes(count=5, rows=200, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(rows, count))
    return (np.round(outputs) if ties else outputs), rng.integers(0, count, rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_classification_metrics_equal_those_of_scikit_learn(seed, ties):
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    outputs, targets = classes(seed=seed, ties=ties)
    loss, predicted = SoftmaxCrossEntropy(), outputs.argmax(axis=1)
    assert measured("accuracy", outputs, targets, loss) == pytest.approx(
        sk.accuracy_score(targets, predicted), abs=1e-12
    )
    f1 = sk.f1_score(targets, predicted, average="macro", zero_division=0)
    assert measured("f1", outputs, targets, loss) == pytest.approx(f1, abs=1e-12)
    for k in (1, 2, 5):
        expected = sk.top_k_accuracy_score(targets, outputs, k=k, labels=range(5)) if k < 5 else 1.0
        assert measured("top_k_accuracy", outputs, targets, loss, k=k) == pytest.approx(expected, abs=1e-12)


def test_f1_ignores_classes_that_do_not_occur():
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    outputs, targets = classes(count=9, rows=100)
    outputs[:, 7:] = -9
    targets[targets > 5] = 2
    f1 = sk.f1_score(targets, outputs.argmax(axis=1), average="macro", zero_division=0)
    assert measured("f1", outputs, targets, SoftmaxCrossEntropy()) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("width", [1, 4])
def test_binary_metrics_equal_those_of_scikit_learn(width):
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    outputs, targets = RNG.normal(size=(150, width)), RNG.integers(0, 2, (150, width)).astype(float)
    loss, predicted = BinaryCrossEntropy(), (outputs > 0).astype(int)
    expected = np.mean(predicted == targets)
    assert measured("accuracy", outputs, targets, loss) == pytest.approx(expected, abs=1e-12)
    true_classes = targets[:, 0] if width == 1 else targets
    predicted_classes = predicted[:, 0] if width == 1 else predicted
    f1 = sk.f1_score(true_classes, predicted_classes, average="macro", zero_division=0)
    assert measured("f1", outputs, targets, loss) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("mean", [0, 1e3])
def test_regression_metrics_equal_those_of_scikit_learn(width, mean):
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    targets = RNG.normal(size=(150, width)) + mean
    outputs = targets + RNG.normal(size=targets.shape) / 2
    loss = MeanSquaredError()
    for kind, sklearn_metric in (("mse", sk.mean_squared_error), ("mae", sk.mean_absolute_error), ("r2", sk.r2_score)):
        assert measured(kind, outputs, targets, loss) == pytest.approx(
            sklearn_metric(targets, outputs), rel=1e-12, abs=1e-12
        )


def test_r2_of_constant_targets():
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    targets = np.ones((120, 1))
    for outputs in (np.ones((120, 1)), np.zeros((120, 1))):
        assert measured("r2", outputs, targets, MeanSquaredError()) == sk.r2_score(targets, outputs)


@pytest.mark.parametrize("kind", METRICS)
def test_saving_and_restoring_the_state_changes_no_metric(kind):
    outputs, targets = classes(rows=100)
    loss = SoftmaxCrossEntropy()
    if not METRICS[kind].needs_classes:
        targets, loss = RNG.normal(size=outputs.shape), MeanSquaredError()
    specs = [METRICS[kind](k=3) if kind == "top_k_accuracy" else METRICS[kind]()]
    uninterrupted, interrupted = EpochMetrics(specs, (5,), loss), EpochMetrics(specs, (5,), loss)
    uninterrupted.begin(outputs, targets, 10)
    for stop in range(10, 101, 10):
        uninterrupted.add(0.5, 10, stop)
    interrupted.begin(outputs, targets, 10)
    for stop in range(10, 41, 10):
        interrupted.add(0.5, 10, stop)
    resumed = EpochMetrics(specs, (5,), loss)
    resumed.restore(interrupted.state())
    resumed.begin(outputs[40:], targets[40:], 10)
    for stop in range(10, 61, 10):
        resumed.add(0.5, 10, stop)
    assert resumed.values() == uninterrupted.values()


def test_metric_names_and_directions():
    assert [short_name(n) for n in ("validation_loss", "val_f1", "training_r2", "mae")] == [
        "val_loss", "val_f1", "r2", "mae",
    ]  # fmt: skip
    assert {"loss", "val_loss", "validation_accuracy", "training_loss"} <= set(MONITORS)
    assert [greater_is_better(n) for n in ("val_loss", "loss", "validation_accuracy", "mse", "r2")] == [
        False, False, True, False, True,
    ]  # fmt: skip
