"""Test losses: values, gradients and error messages."""

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
def test_gradient_equals_the_numerical_gradient(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(6, 4)) * 2
    _, gradient = loss(outputs, targets)
    numerical = numerical_gradient(lambda: loss(outputs, targets)[0], outputs)
    assert relative_error(gradient, numerical) < 1e-7


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_modifies_no_argument_and_keeps_the_dtype(loss, targets, dtype):
    outputs = np.random.default_rng(2).normal(size=(6, 4)).astype(dtype)
    before = outputs.copy(), targets.copy()
    value, gradient = loss(outputs, targets)
    assert type(value) is float
    assert (gradient.dtype, gradient.shape) == (np.dtype(dtype), outputs.shape)
    gradient_copy = gradient.copy()
    loss(-outputs, targets)
    assert np.array_equal(gradient, gradient_copy)
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
def test_value_and_gradient_equal_those_of_torch(loss, targets):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    torch_loss = {
        SoftmaxCrossEntropy: lambda: nn.CrossEntropyLoss(label_smoothing=loss.label_smoothing),
        BinaryCrossEntropy: nn.BCEWithLogitsLoss,
        MeanSquaredError: nn.MSELoss,
        MeanAbsoluteError: nn.L1Loss,
        Huber: lambda: nn.HuberLoss(delta=loss.delta),
    }[type(loss)]()
    outputs = np.random.default_rng(3).normal(size=(6, 4))
    torch_outputs = torch.tensor(outputs, requires_grad=True)
    expected = torch_loss(torch_outputs, torch.tensor(targets))
    expected.backward()
    value, gradient = loss(outputs, targets)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert np.allclose(gradient, torch_outputs.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 31, 32, 33, 500])
def test_cross_entropy_of_few_and_many_classes(classes):
    rng = np.random.default_rng(classes)
    x, y = rng.normal(size=(9, classes)), rng.integers(0, classes, 9)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    value, gradient = SoftmaxCrossEntropy()(x, y)
    assert value == pytest.approx(-np.log(p[np.arange(9), y]).mean(), rel=1e-12)
    p[np.arange(9), y] -= 1
    assert np.allclose(gradient, p / 9, rtol=1e-10, atol=1e-16)


def test_a_logit_of_minus_infinity_has_probability_zero():
    value, gradient = SoftmaxCrossEntropy()(np.array([[-np.inf, 1.0, 2.0]]), [1])
    assert value == pytest.approx(1 + math.log1p(math.exp(-1)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("targets", "message_pattern"),
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
def test_cross_entropy_rejects_invalid_targets(targets, message_pattern):
    with pytest.raises(specnet.ShapeError, match=message_pattern):
        SoftmaxCrossEntropy()(np.zeros((3, 4)), targets)


def test_invalid_shapes_and_settings_are_rejected():
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


def test_every_loss_can_be_built_from_its_spec():
    losses = {name: spec().build() for name, spec in LOSSES.items()}
    assert {name: loss.name for name, loss in losses.items()} == {name: name for name in LOSSES}
    assert {type(loss) for loss in losses.values()} == {type(loss) for loss, _ in CASES.values()}


WEIGHTS = RNG.uniform(0.5, 2, 6)


@every_case
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["rows alike", "rows weighted"])
def test_weighted_gradients_equal_the_numerical_gradients(loss, targets, weights):
    if isinstance(loss, SoftmaxCrossEntropy):
        loss = SoftmaxCrossEntropy(loss.label_smoothing, [0.5, 1, 2, 3])
    outputs = np.random.default_rng(1).normal(size=(6, 4)) * 2
    _, gradient = loss(outputs, targets, weights)
    numerical = numerical_gradient(lambda: loss(outputs, targets, weights)[0], outputs)
    assert relative_error(gradient, numerical) < 1e-7


@every_case
def test_a_row_weight_counts_like_repeated_rows(loss, targets):
    outputs = np.random.default_rng(1).normal(size=(6, 4))
    counts = np.array([1, 3, 2, 1, 1, 4])
    value, gradient = loss(outputs, targets, counts.astype(float))
    repeated_value, repeated_gradient = loss(outputs.repeat(counts, axis=0), targets.repeat(counts, axis=0))
    assert value == pytest.approx(repeated_value, rel=1e-12)
    summed = np.add.reduceat(repeated_gradient, np.concatenate([[0], counts.cumsum()[:-1]]), axis=0)
    assert np.allclose(gradient, summed, rtol=1e-12)
    assert loss.weight_of(targets, counts.astype(float)) == 12
    equal_weights = loss(outputs, targets, np.full(6, 0.3))
    assert equal_weights[0] == pytest.approx(loss(outputs, targets)[0], rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", [CLASSES, RNG.dirichlet(np.ones(4), 6)], ids=["classes", "distributions"])
def test_class_weights_equal_those_of_torch(smoothing, targets):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    outputs, weights = np.random.default_rng(1).normal(size=(6, 4)), [0.5, 1.0, 2.0, 3.0]
    value, gradient = SoftmaxCrossEntropy(smoothing, weights)(outputs, targets)
    x = torch.tensor(outputs, requires_grad=True)
    criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float64), label_smoothing=smoothing)
    expected = criterion(x, torch.tensor(targets))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert np.allclose(gradient, x.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_invalid_weights_are_rejected():
    outputs = np.zeros((6, 4))
    with pytest.raises(specnet.ShapeError, match=r"weights of shape \(6,\)"):
        MeanSquaredError()(outputs, outputs, np.ones(5))
    with pytest.raises(specnet.ShapeError, match="3 classes, one per class weight"):
        SoftmaxCrossEntropy(class_weights=[1, 2, 3])(outputs, CLASSES)
    with pytest.raises(specnet.SpecnetError, match="positive numbers, one per class"):
        SoftmaxCrossEntropy(class_weights=[1, 0])
