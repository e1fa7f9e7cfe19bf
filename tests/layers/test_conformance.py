"""Properties that every layer must have, standalone and in a model, and tests of single layers."""

import copy
import math
import pickle
import re
import warnings

import numpy as np
import pytest

import specnet
from specnet.spec.layers import affine as specs
from specnet.spec.registry import layer_types
from specnet.testing import check_layer
from tests.support import LAYERS, SEQUENCE_LAYERS, SPATIAL_LAYERS, model_of, predict_in_threads

every_layer = pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())


def standalone(entry, input_shape=(5,), dtype="float64"):
    """Build one layer outside a model, with random parameters."""
    cls = layer_types()[entry["type"]]
    spec = cls.model_validate(entry)
    rng = np.random.default_rng(0)
    plan = spec.plan(input_shape)
    return plan.make({n: rng.normal(size=shape).astype(dtype) for n, shape in plan.parameters.items()})


def test_every_built_in_layer_type_is_covered():
    tested = {entry["type"] for entry in LAYERS.values()} | {"embedding"}
    tested |= {entry["type"] for entry, _ in [*SPATIAL_LAYERS.values(), *SEQUENCE_LAYERS.values()]}
    assert tested == set(layer_types()) - {"test_double"}


@every_layer
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5)])
def test_check_layer_passes(entry, shape):
    if entry["type"] == "reshape":
        entry = {"type": "reshape", "shape": [5, *shape[:-1]]}
    check_layer(entry, shape)


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_check_layer_passes_for_layers_that_must_come_first(shape):
    check_layer({"type": "embedding", "vocabulary": 6, "dimension": 3}, shape)
    check_layer({"type": "standardize"}, shape)
    branch = {"type": "embedding", "vocabulary": 4, "dimension": 2}
    check_layer({"type": "concat", "branches": [[branch, {"type": "tanh"}], [branch]]}, shape)
    check_layer({"type": "sequential", "layers": [branch, {"type": "flatten"}]}, shape)


@every_layer
@pytest.mark.parametrize("batch", [1, 2, 33, 1500])
def test_predict_equals_forward_bit_for_bit(entry, batch):
    x = np.random.default_rng(3).normal(size=(batch, 5)).astype(np.float32)
    model = model_of({"type": "affine", "units": 5}, entry, {"type": "affine", "units": 3}, dtype="float32")
    assert model.predict(x).tobytes() == model.forward(x).tobytes()
    layer = standalone(entry, dtype="float32")
    assert layer.predict(x).tobytes() == layer.forward(x).tobytes()


@every_layer
def test_predict_does_not_affect_a_pending_backward(entry):
    rng = np.random.default_rng(5)
    model = model_of({"type": "affine", "units": 5}, entry)
    x = rng.normal(size=(6, 5))
    dy = rng.normal(size=model.forward(x).shape)
    expected = model.backward(dy)
    model.forward(x)
    predict_in_threads(model, -x)
    assert np.array_equal(model.backward(dy), expected)


@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_inputs_neither_overflow_nor_warn(entry, dtype):
    x = np.array([[1e4, -1e4, 0.0, 88.0, -88.0], [-1e4, 1e4, 0.0, -88.0, 88.0]], dtype)
    layer = standalone(entry, dtype=dtype)
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        y = layer.forward(x, training=True)
        dx = layer.backward(np.ones_like(y))
        layer.predict(x)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@every_layer
def test_a_nan_propagates(entry):
    x = np.full((2, 5), np.nan)
    assert np.isnan(standalone(entry).forward(x)).all()


@every_layer
@pytest.mark.parametrize("inputs", [np.ones((2, 5), complex), [["a"] * 5], [[1, 2], [3]], None, [[object()] * 5], 3.0])
def test_inputs_that_are_not_real_numbers_raise_a_shape_error_with_the_layers_name(entry, inputs):
    layer = standalone(entry)
    layer.name = "seventh"
    with pytest.raises(specnet.ShapeError, match=r"seventh: expected .*\(batch, \.\.\.\), got"):
        layer.forward(inputs)
    with pytest.raises(specnet.ShapeError, match=r"seventh: expected .*\(batch, \.\.\.\), got"):
        layer.predict(inputs)


@every_layer
def test_a_gradient_of_the_wrong_shape_is_rejected_with_both_shapes(entry):
    layer = standalone(entry)
    y = layer.forward(np.ones((3, 5)))
    with pytest.raises(specnet.ShapeError, match=re.escape(str(y.shape)) + r".*\(7, 7\)"):
        layer.backward(np.ones((7, 7)))


@every_layer
def test_lists_integers_and_other_memory_layouts_are_accepted(entry):
    integers = np.arange(-7, 8).reshape(3, 5)
    expected = standalone(entry).forward(integers.astype(float))
    for inputs in (
        integers,
        integers.tolist(),
        np.asfortranarray(integers),
        integers.astype(">f8"),
        integers.astype(np.int8),
    ):
        assert np.array_equal(standalone(entry).forward(inputs), expected)
    strided = np.zeros((3, 10))
    strided[:, ::2] = integers
    assert np.allclose(standalone(entry).forward(strided[:, ::2]), expected, rtol=1e-14)


def test_relu_passes_no_gradient_at_zero():
    relu = specnet.layers.Relu()
    relu.forward([[-1.0, 0.0, 2.0]])
    assert relu.backward([[5.0, 5.0, 5.0]]).tolist() == [[0.0, 0.0, 5.0]]


def test_affine_keeps_float_arrays_by_reference_and_converts_integers_to_float64():
    weight = np.ones((2, 3), np.float32)
    affine = specnet.layers.Affine(weight)
    assert affine.weight is weight
    assert affine.bias is None
    assert affine.bias_grad is None
    weight[0, 0] = 5
    assert affine.forward(np.ones((1, 2), np.float32)).tolist() == [[6.0, 2.0, 2.0]]
    assert specnet.layers.Affine([[1, 2]], [3, 4]).weight.dtype == np.float64
    with pytest.raises(AttributeError, match="in place"):
        affine.weight = np.zeros((2, 3))
    affine.weight -= 1.0
    assert weight[0, 0] == 4


def test_affine_accepts_any_memory_order_and_can_be_copied():
    weight = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    affine = specnet.layers.Affine(weight, np.ones(4, np.float32))
    x, dy = np.ones((2, 3)), np.ones((2, 4))
    for layer in (affine, copy.deepcopy(affine), pickle.loads(pickle.dumps(affine))):
        layer.weight[...] = np.arange(12).reshape(3, 4)
        assert np.array_equal(layer.forward(x), x @ layer.weight + 1)
        assert np.array_equal(layer.backward(dy), dy @ layer.weight.T)
        assert np.array_equal(layer.weight_grad, x.T @ dy)
        assert layer.bias_grad.tolist() == [2, 2, 2, 2]
        layer.weight[...] = 0
        layer.forward(x)
        assert not layer.backward(dy).any()


@pytest.mark.parametrize("arrays", [([1, 2],), ([[1, 2]], [1]), ([[1, 2]], [[1, 2]]), ([],), (np.ones((2, 0)),)])
def test_affine_rejects_arrays_of_mismatched_shapes(arrays):
    with pytest.raises(specnet.ShapeError):
        specnet.layers.Affine(*arrays)


def test_affine_works_on_the_last_axis():
    rng = np.random.default_rng(6)
    weight, bias, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(2, 5, 4))
    affine = specnet.layers.Affine(weight, bias)
    assert np.allclose(affine.forward(x), x @ weight + bias, rtol=1e-13)
    dy = rng.normal(size=(2, 5, 3))
    assert np.allclose(affine.backward(dy), dy @ weight.T, rtol=1e-13)
    assert np.allclose(affine.weight_grad, np.einsum("abi,abj->ij", x, dy), rtol=1e-12)
    assert np.allclose(affine.bias_grad, dy.sum(axis=(0, 1)), rtol=1e-12)


def test_batch_norm_normalizes_in_training_and_updates_its_running_statistics():
    model = model_of({"type": "batch_norm"})
    x = np.random.default_rng(8).normal(3, 2, size=(50, 5))
    y = model.forward(x, training=True)
    assert np.allclose(y.mean(axis=0), 0, atol=1e-12)
    assert np.allclose(y.std(axis=0), 1, atol=1e-5)
    assert list(model.buffers) == ["batch_norm_1.running_mean", "batch_norm_1.running_var", "batch_norm_1.count"]
    assert np.allclose(model.buffers["batch_norm_1.running_mean"], 0.1 * x.mean(axis=0))
    assert np.allclose(model.buffers["batch_norm_1.running_var"], 0.9 + 0.1 * x.var(axis=0, ddof=1))
    assert model.buffers["batch_norm_1.count"] == 1
    saved_buffers = {name: array.copy() for name, array in model.buffers.items()}
    model.forward(x)
    model.predict(x)
    model.forward(x[:1], training=True)  # a single row has no variance
    assert all(np.array_equal(model.buffers[name], array) for name, array in saved_buffers.items())


def test_dropout_keeps_the_mean_and_differs_from_step_to_step():
    dropout = specnet.layers.Dropout(0.25, seed=1)
    x = np.ones((200, 500))
    y = dropout.forward(x, training=True)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert abs(np.mean(y == 0) - 0.25) < 0.01
    assert np.array_equal(dropout.backward(x), y)
    assert not np.array_equal(dropout.forward(x, training=True), y)
    assert np.array_equal(dropout.forward(x), x)


def test_dropout_of_a_row_does_not_depend_on_the_batch():
    model = model_of({"type": "dropout", "rate": 0.5}, input_shape=(13,))
    x = np.ones((10, 13))
    model.draws.step = 4
    full_output = model.forward(x, training=True)
    model.draws.step, model.draws.first_row = 4, 6
    assert np.array_equal(model.forward(x[6:], training=True), full_output[6:])


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_dropout_rejects_rates_outside_0_to_1(rate):
    with pytest.raises(specnet.SpecnetError, match="rate"):
        specnet.layers.Dropout(rate)


def test_normal_distribution_function_is_exact():
    from specnet.layers.gelu import normal_cdf

    x = np.linspace(-9, 9, 2001)
    exact = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x])
    assert np.abs(normal_cdf(x) - exact).max() < 4e-16
    assert np.abs(normal_cdf(x) / exact - 1).max() < 2e-14  # at the ends, dividing by sqrt(2) alone costs 1e-14


def test_layers_agree_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    torch_layers = {
        "relu": nn.ReLU(),
        "leaky_relu": nn.LeakyReLU(),
        "elu": nn.ELU(),
        "elu, alpha 0.5": nn.ELU(0.5),
        "selu": nn.SELU(),
        "gelu": nn.GELU(),
        "gelu, tanh": nn.GELU(approximate="tanh"),
        "silu": nn.SiLU(),
        "mish": nn.Mish(),
        "softplus": nn.Softplus(),
        "softplus, beta 3": nn.Softplus(3.0),
        "sigmoid": nn.Sigmoid(),
        "tanh": nn.Tanh(),
        "softmax": nn.Softmax(-1),
        "log_softmax": nn.LogSoftmax(-1),
        "prelu": nn.PReLU(5).double(),
        "layer_norm": nn.LayerNorm(5).double(),
        "rms_norm": nn.RMSNorm(5, eps=1e-5).double(),
        "batch_norm": nn.BatchNorm1d(5).double(),
    }
    rng = np.random.default_rng(7)
    x, dy = rng.normal(size=(6, 5)) * 3, rng.normal(size=(6, 5))
    for name, torch_layer in torch_layers.items():
        layer = standalone(LAYERS[name])
        parameter_pairs = list(zip(layer.parameters.items(), torch_layer.parameters(), strict=True))
        for (_, array), tensor in parameter_pairs:
            tensor.data[...] = torch.tensor(array)
        for training in (True, True, False):
            torch_layer.train(training)
            torch_layer.zero_grad()
            inputs = torch.tensor(x, requires_grad=True)
            expected = torch_layer(inputs)
            expected.backward(torch.tensor(dy))
            y = layer.forward(x, training=training)
            assert np.allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-9), name
            assert np.allclose(layer.backward(dy), inputs.grad.numpy(), rtol=1e-9, atol=1e-9), name
            for (parameter, _), tensor in parameter_pairs:
                assert np.allclose(layer.gradients[parameter], tensor.grad.numpy(), rtol=1e-9, atol=1e-9), name
            for array, tensor in zip(layer.buffers.values(), torch_layer.buffers(), strict=True):
                assert np.allclose(array, tensor.numpy(), rtol=1e-12), name


def test_layer_specs_are_public():
    assert specnet.layers.AffineSpec is specs.AffineSpec
    assert specnet.layers.AffineSpec(units=3).type == "affine"
    with pytest.raises(specnet.SpecError, match="units"):
        specnet.layers.AffineSpec(units=0)
