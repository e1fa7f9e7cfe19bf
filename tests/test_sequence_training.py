"""Training on sequences: losses and metrics over time steps, with padding and without, accumulated and resumed."""

import numpy as np
import pytest

import specnet
from specnet.testing import numerical_gradient, relative_error
from specnet.training.epoch_metrics import EpochMetrics
from specnet.training.losses import (
    BinaryCrossEntropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from specnet.training.metrics import METRICS
from tests.support import arrays_of, model_of, same_arrays

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 4, (3, 5))
NUMBERS = RNG.normal(size=(3, 5, 4))
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]], bool)
CASES = {
    "cross-entropy": (SoftmaxCrossEntropy(), CLASSES),
    "cross-entropy, smoothed": (SoftmaxCrossEntropy(0.2), CLASSES),
    "cross-entropy, class weights": (SoftmaxCrossEntropy(0.1, [1, 2, 3, 0.5]), CLASSES),
    "cross-entropy of distributions": (SoftmaxCrossEntropy(0.1), RNG.dirichlet(np.ones(4), (3, 5))),
    "binary cross-entropy": (BinaryCrossEntropy(), RNG.uniform(size=(3, 5, 4))),
    "squared": (MeanSquaredError(), NUMBERS),
    "absolute": (MeanAbsoluteError(), NUMBERS),
    "huber": (Huber(0.5), NUMBERS),
}
every_case = pytest.mark.parametrize(("loss", "targets"), CASES.values(), ids=CASES.keys())


@every_case
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2, 1])])
def test_a_loss_over_steps_is_the_loss_of_the_steps_that_count(loss, targets, mask, weights):
    outputs = np.random.default_rng(1).normal(size=(3, 5, 4))
    counts = np.ones((3, 5), bool) if mask is None else mask
    row_of_step = np.nonzero(counts)[0]
    per_step = None if weights is None else weights[row_of_step]
    expected, expected_gradient = loss(outputs[counts], targets[counts], per_step)
    value, gradient = loss(outputs, targets, weights, mask)
    assert value == pytest.approx(expected, rel=1e-12)
    assert np.allclose(gradient[counts], expected_gradient, rtol=1e-10, atol=1e-15)
    assert not gradient[~counts].any()
    weight = loss.weight_of(targets, weights, counts)
    assert weight == pytest.approx(loss.weight_of(targets[counts], per_step), rel=1e-12)


@every_case
def test_gradients_over_masked_steps_are_the_numerical_ones(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(3, 5, 4))
    _, gradient = loss(outputs, targets, None, MASK)
    numerical = numerical_gradient(lambda: loss(outputs, targets, None, MASK)[0], outputs)
    assert relative_error(gradient, numerical) < 1e-7


@every_case
def test_steps_that_do_not_count_may_have_any_targets_and_outputs(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(3, 5, 4))
    expected = loss(outputs, targets, None, MASK)
    others = targets.copy()
    others[~MASK] = -7
    outputs[~MASK] = np.inf
    value, gradient = loss(outputs, others, None, MASK)
    assert value == expected[0]
    assert np.array_equal(gradient, expected[1])


@every_case
def test_padding_alone_has_no_loss(loss, targets):
    value, gradient = loss(np.ones((3, 5, 4)), targets, None, np.zeros((3, 5), bool))
    assert value == 0
    assert not gradient.any()
    assert loss.weight_of(targets, None, np.zeros((3, 5), bool)) == 0


def test_shapes_that_do_not_fit_are_told():
    loss = SoftmaxCrossEntropy()
    for arguments, message in (
        ((np.ones((3, 5, 4)), CLASSES[:, :4]), r"expected targets of shape \(3, 5\), a class for each step"),
        ((np.ones((3, 5, 4)), CLASSES, None, MASK[:, :4]), "whose first two axes are those of the mask"),
        ((np.ones((3, 5, 4)), CLASSES, [1, 2], MASK), r"expected weights of shape \(3,\)"),
        ((np.ones((3, 5, 4)), CLASSES, None, MASK.astype(int)), "a mask of booleans"),
        ((np.ones((3, 5, 2, 4)), CLASSES), r"\(batch, classes\) or \(batch, time, classes\)"),
    ):
        with pytest.raises(specnet.ShapeError, match=message):
            loss(*arguments)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_count_the_steps_that_are_no_padding(name):
    rng = np.random.default_rng(3)
    one_class = name in ("accuracy", "top_k_accuracy", "f1")
    loss = SoftmaxCrossEntropy() if one_class else MeanSquaredError()
    spec = METRICS[name](**({"k": 2} if name == "top_k_accuracy" else {}))
    outputs, targets = rng.normal(size=(6, 5, 4)), rng.normal(size=(6, 5, 4))
    targets = rng.integers(0, 4, (6, 5)) if one_class else targets
    mask = rng.random((6, 5)) < 0.6
    over_steps = EpochMetrics([spec], (5, 4), loss, masked=True)
    for rows in (slice(0, 4), slice(4, 6)):
        over_steps.begin(outputs[rows], targets[rows], 2, mask[rows])
        over_steps.add(1.0, 1.0, len(outputs[rows]))
    over_rows = EpochMetrics([spec], (4,), loss)
    over_rows.begin(outputs[mask], targets[mask], mask.sum())
    over_rows.add(1.0, 1.0, mask.sum())
    assert over_steps.values()[name] == pytest.approx(over_rows.values()[name], rel=1e-12)


@pytest.mark.parametrize("metrics", [["r2", "mae"], None])
def test_a_batch_of_padding_alone_is_no_part_of_metrics(metrics):
    x = np.random.default_rng(0).normal(size=(12, 3, 2))
    x[4:8] = 0
    outputs = [{"type": "mask"}, {"type": "gru", "units": 2, "return_sequences": True}]
    y = (x[..., 0] > 0).astype(int) if metrics is None else x
    loss = "softmax_cross_entropy" if metrics is None else "mean_squared_error"
    model = model_of(*outputs, input_shape=(3, 2))
    history = specnet.fit(model, x, y, loss=loss, metrics=metrics, epochs=2, batch_size=4, shuffle=False)
    assert all(np.isfinite(values).all() for name, values in history.items() if not name.startswith("gradient"))


def test_augmentations_that_would_move_steps_without_their_targets_are_refused():
    for layers in ([{"type": "mask"}, {"type": "last_step"}], [{"type": "affine", "units": 2}]):
        with pytest.raises(specnet.SpecnetError, match="would move the steps of sequences"):
            specnet.fit(
                model_of(*layers, input_shape=(6, 2)),
                np.ones((8, 6, 2)),
                np.ones((8, *([] if len(layers) == 2 else [6]), 2)),
                loss="mean_squared_error",
                augment=[{"type": "shift", "pixels": 1}],
            )


LAYERS = [
    {"type": "mask"},
    {"type": "affine", "units": 4},
    {"type": "residual", "layers": [{"type": "attention", "heads": 2, "dropout": 0.3}]},
    {"type": "gru", "units": 5, "return_sequences": True, "truncate": 3},
    {"type": "affine", "units": 3},
]


def padded_sequences():
    """Return sequences, whose targets are sums of what came before, and weights of the rows."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 6, 2))
    x[np.arange(6) >= rng.integers(1, 7, (50, 1))] = 0
    return x, np.cumsum(x[..., [0, 1, 0]], axis=1), rng.uniform(0.5, 2, 50)


@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_batches_of_padded_sequences_equal_one_large_batch(weighted):
    x, y, weights = padded_sequences()
    trained = []
    for keys in ({"batch_size": 20}, {"batch_size": 4, "accumulate": 5}, {"batch_size": 20, "check_finite": True}):
        model = model_of(*LAYERS, input_shape=(6, 2))
        settings = {"loss": "mean_squared_error", "epochs": 2, "clip_norm": 0.3, "metrics": ["r2"], **keys}
        history = specnet.fit(model, x, y, weights=weights if weighted else None, **settings)
        trained.append((arrays_of(model), history))
    (large, history), (small, small_history), (checked, _) = trained
    for name, value in large.items():
        assert np.allclose(small[name], value, rtol=1e-9, atol=1e-12), name
        assert np.array_equal(checked[name], value)
    assert small_history["loss"] == pytest.approx(history["loss"], rel=1e-9)
    assert small_history["r2"] == pytest.approx(history["r2"], rel=1e-9)


def test_a_run_on_padded_sequences_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y, weights = padded_sequences()
    np.savez("rows.npz", x=x, y=y, w=weights)
    document = {
        "model": {"input_shape": [6, 2], "layers": LAYERS},
        "data": {"train": {"path": "rows.npz", "weights": "w"}, "validation": {"fraction": 0.2}},
        "training": {"loss": "mean_squared_error", "epochs": 4, "batch_size": 8, "metrics": ["r2", "mae"]},
    }
    whole = specnet.train(document, out="whole")

    def stop_within_the_second_epoch(event):
        if event.kind == "step" and event.run.step == 7:
            event.run.stop()

    specnet.train(document, out="parts", listeners=[stop_within_the_second_epoch])
    resumed = specnet.train(document, out="parts", resume=True)
    assert same_arrays(arrays_of(resumed.model), arrays_of(whole.model))
    assert resumed.history == whole.history


def test_training_learns_from_the_steps_that_count():
    """The class of a step is that of the last number that was not 0; padding has other targets, which nobody sees."""
    rng = np.random.default_rng(4)
    x = rng.integers(-1, 2, (300, 8, 1)).astype(float)
    x[:, 0] = rng.choice([-1, 1], (300, 1))
    y = np.zeros((300, 8), int)
    for t in range(8):
        y[:, t] = np.where(x[:, t, 0] == 0, y[:, t - 1], x[:, t, 0] > 0)
    padding = np.arange(8) >= rng.integers(3, 9, (300, 1))
    x[padding], y[padding] = 9, 1 - y[padding]
    layers = [
        {"type": "mask", "value": 9},
        {"type": "lstm", "units": 8, "return_sequences": True},
        {"type": "affine", "units": 2},
    ]
    model = model_of(*layers, input_shape=(8, 1), dtype="float32")
    optimizer = {"type": "adam", "learning_rate": 0.02}
    history = specnet.fit(model, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=20, batch_size=20)
    assert history["accuracy"][-1] > 0.99
