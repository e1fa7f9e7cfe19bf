"""Losses: values, gradients, refusals."""

import math
import warnings

import numpy as np
import pytest

import specnet
from specnet.testing import numerical_gradient, relative_error
from specnet.training.losses import (
    LOSSES,
    BinaryCrossEntropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 4, 6)
NUMBERS = RNG.normal(size=(6, 4))
CASES = {
    "cross-entropy": (SoftmaxCrossEntropy(), CLASSES),
    "cross-entropy, smoothed": (SoftmaxCrossEntropy(0.2), CLASSES),
    "cross-entropy of distributions": (SoftmaxCrossEntropy(0.1), RNG.dirichlet(np.ones(4), 6)),
    "binary cross-entropy": (BinaryCrossEntropy(), RNG.uniform(size=(6, 4))),
    "squared": (MeanSquaredError(), NUMBERS),
    "absolute": (MeanAbsoluteError(), NUMBERS),
    "huber": (Huber(), NUMBERS),
    "huber, delta 0.3": (Huber(0.3), NUMBERS),
}
every_case = pytest.mark.parametrize(("loss", "targets"), CASES.values(), ids=CASES.keys())


@every_case
def test_gradient_equals_the_numerical_one(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(6, 4)) * 2
    _, gradient = loss(outputs, targets)
    numerical = numerical_gradient(lambda: loss(outputs, targets)[0], outputs)
    assert relative_error(gradient, numerical) < 1e-7


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ownership_and_dtype(loss, targets, dtype):
    outputs = np.random.default_rng(2).normal(size=(6, 4)).astype(dtype)
    before = outputs.copy(), targets.copy()
    value, gradient = loss(outputs, targets)
    assert type(value) is float
    assert (gradient.dtype, gradient.shape) == (np.dtype(dtype), outputs.shape)
    kept = gradient.copy()
    loss(-outputs, targets)
    assert np.array_equal(gradient, kept)
    gradient.fill(0)
    assert loss(outputs, targets)[0] == value
    assert np.array_equal(outputs, before[0])
    assert np.array_equal(targets, before[1])


@every_case
def test_huge_outputs_neither_overflow_nor_warn(loss, targets):
    outputs = np.array([[1e4, -1e4, 0, 50]] * 6)
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        value, gradient = loss(outputs, targets)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


@every_case
def test_agrees_with_torch(loss, targets):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    theirs = {
        SoftmaxCrossEntropy: lambda: nn.CrossEntropyLoss(label_smoothing=loss.label_smoothing),
        BinaryCrossEntropy: nn.BCEWithLogitsLoss,
        MeanSquaredError: nn.MSELoss,
        MeanAbsoluteError: nn.L1Loss,
        Huber: lambda: nn.HuberLoss(delta=loss.delta),
    }[type(loss)]()
    outputs = np.random.default_rng(3).normal(size=(6, 4))
    given = torch.tensor(outputs, requires_grad=True)
    expected = theirs(given, torch.tensor(targets))
    expected.backward()
    value, gradient = loss(outputs, targets)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert np.allclose(gradient, given.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 31, 32, 33, 500])
def test_cross_entropy_of_few_and_many_classes(classes):
    rng = np.random.default_rng(classes)
    x, y = rng.normal(size=(9, classes)), rng.integers(0, classes, 9)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    value, gradient = SoftmaxCrossEntropy()(x, y)
    assert value == pytest.approx(-np.log(p[np.arange(9), y]).mean(), rel=1e-12)
    p[np.arange(9), y] -= 1
    assert np.allclose(gradient, p / 9, rtol=1e-10, atol=1e-16)


def test_a_class_ruled_out_counts_nothing():
    value, gradient = SoftmaxCrossEntropy()(np.array([[-np.inf, 1.0, 2.0]]), [1])
    assert value == pytest.approx(1 + math.log1p(math.exp(-1)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([[0], [1, 2]], "ragged"),
        ([0, 1, 4], "0 to 3, got 4 in row 2"),
        ([0, -1, 1], "0 to 3, got -1 in row 1"),
        ([0, 1], "shape"),
        ([0.0, 1.0, 2.0], "integer"),
        ([[0], [1], [2]], "integer"),
        (["a", "b", "c"], "integer"),
    ],
)
def test_cross_entropy_refuses_other_targets(targets, words):
    with pytest.raises(specnet.ShapeError, match=words):
        SoftmaxCrossEntropy()(np.zeros((3, 4)), targets)


def test_refusals():
    with pytest.raises(specnet.ShapeError, match=r"\(3, 1\).*\(3,\)"):
        MeanSquaredError()(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(specnet.ShapeError, match="at least one row"):
        MeanSquaredError()(np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(specnet.ShapeError, match="batch, classes"):
        SoftmaxCrossEntropy()(np.zeros((0, 3)), [])
    with pytest.raises(specnet.ShapeError, match="batch, classes"):
        SoftmaxCrossEntropy()(np.zeros(3), 1)
    with pytest.raises(specnet.SpecnetError, match="label_smoothing"):
        SoftmaxCrossEntropy(1.5)
    with pytest.raises(specnet.SpecnetError, match="delta"):
        Huber(0)


def test_every_loss_has_a_document():
    made = {name: spec().build() for name, spec in LOSSES.items()}
    assert {name: loss.name for name, loss in made.items()} == {name: name for name in LOSSES}
    assert {type(loss) for loss in made.values()} == {type(loss) for loss, _ in CASES.values()}


WEIGHTS = RNG.uniform(0.5, 2, 6)


@every_case
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["rows alike", "rows weighted"])
def test_weighted_gradients_equal_the_numerical_ones(loss, targets, weights):
    if isinstance(loss, SoftmaxCrossEntropy):
        loss = SoftmaxCrossEntropy(loss.label_smoothing, [0.5, 1, 2, 3])
    outputs = np.random.default_rng(1).normal(size=(6, 4)) * 2
    _, gradient = loss(outputs, targets, weights)
    numerical = numerical_gradient(lambda: loss(outputs, targets, weights)[0], outputs)
    assert relative_error(gradient, numerical) < 1e-7


@every_case
def test_weights_are_how_often_a_row_counts(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(6, 4))
    times = np.array([1, 3, 2, 1, 1, 4])
    value, gradient = loss(outputs, targets, times.astype(float))
    repeated, each = loss(outputs.repeat(times, axis=0), targets.repeat(times, axis=0))
    assert value == pytest.approx(repeated, rel=1e-12)
    summed = np.add.reduceat(each, np.concatenate([[0], times.cumsum()[:-1]]), axis=0)
    assert np.allclose(gradient, summed, rtol=1e-12)
    assert loss.weight_of(targets, times.astype(float)) == 12
    even = loss(outputs, targets, np.full(6, 0.3))
    assert even[0] == pytest.approx(loss(outputs, targets)[0], rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", [CLASSES, RNG.dirichlet(np.ones(4), 6)], ids=["classes", "distributions"])
def test_class_weights_are_torchs(smoothing, targets):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    outputs, weights = np.random.default_rng(1).normal(size=(6, 4)), [0.5, 1.0, 2.0, 3.0]
    value, gradient = SoftmaxCrossEntropy(smoothing, weights)(outputs, targets)
    x = torch.tensor(outputs, requires_grad=True)
    made = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float64), label_smoothing=smoothing)
    theirs = made(x, torch.tensor(targets))
    theirs.backward()
    assert value == pytest.approx(theirs.item(), rel=1e-12)
    assert np.allclose(gradient, x.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_weights_that_do_not_fit():
    outputs = np.zeros((6, 4))
    with pytest.raises(specnet.ShapeError, match=r"weights of shape \(6,\)"):
        MeanSquaredError()(outputs, outputs, np.ones(5))
    with pytest.raises(specnet.ShapeError, match="3 classes, as class_weights"):
        SoftmaxCrossEntropy(class_weights=[1, 2, 3])(outputs, CLASSES)
    with pytest.raises(specnet.SpecnetError, match="positive numbers, one a class"):
        SoftmaxCrossEntropy(class_weights=[1, 0])
