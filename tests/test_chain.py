"""Layers in a network, which share arrays and are partly computed together, give what they give one by one."""

import itertools

import numpy as np
import pytest

import specnet
from specnet.chain import Chain
from specnet.layer import Layer
from specnet.training.optimizers import SGD, Adam
from tests.kernel_support import switch_off
from tests.support import model_of, one_by_default

KINDS = {
    "affine": {"type": "affine", "units": 5},
    "relu": {"type": "relu"},
    "sigmoid": {"type": "sigmoid"},
    "softplus": {"type": "softplus"},
    "prelu": {"type": "prelu"},
    "batch_norm": {"type": "batch_norm"},
    "layer_norm": {"type": "layer_norm"},
    "rms_norm": {"type": "rms_norm"},
    "dropout": {"type": "dropout", "rate": 0.3},
    "softmax": {"type": "softmax"},
    "flatten": {"type": "flatten"},
    "sequential": {"type": "sequential", "layers": [{"type": "batch_norm"}, {"type": "relu"}]},
    "residual": {"type": "residual", "layers": [{"type": "relu"}, {"type": "tanh"}]},
}

SPATIAL_KINDS = {
    "conv2d": {"type": "conv2d", "filters": 5, "kernel_size": 3, "padding": "same"},
    "conv_transpose2d": {"type": "conv_transpose2d", "filters": 5, "kernel_size": 3, "padding": "same"},
    "max_pool2d": {"type": "max_pool2d", "pool_size": 2, "stride": 1, "padding": "same"},
    "average_pool2d": {"type": "average_pool2d", "pool_size": 2, "stride": 1, "padding": "same"},
    "channel_dropout": {"type": "channel_dropout", "rate": 0.3},
    "zero_pad2d": {"type": "zero_pad2d", "padding": 0},
    "upsample2d": {"type": "upsample2d", "size": 1},
    **{kind: KINDS[kind] for kind in ("relu", "sigmoid", "batch_norm", "layer_norm", "dropout")},
}
"""Layers that return images of the same shape as their input."""


SEQUENCE_KINDS = {
    "lstm": {"type": "lstm", "units": 5, "return_sequences": True},
    "gru": {"type": "gru", "units": 5, "return_sequences": True, "reverse": True},
    "simple_rnn": {"type": "simple_rnn", "units": 5, "return_sequences": True},
    "attention": {"type": "attention", "heads": 1, "dropout": 0.2},
    "positional_encoding": {"type": "positional_encoding", "kind": "learned"},
    "bidirectional": {
        "type": "sequential",
        "layers": [
            {"type": "bidirectional", "layers": [{"type": "gru", "units": 3, "return_sequences": True}]},
            {"type": "affine", "units": 5},
        ],
    },
    "residual": {"type": "residual", "layers": [{"type": "attention", "heads": 5, "causal": True}]},
    **{kind: KINDS[kind] for kind in ("relu", "sigmoid", "layer_norm", "dropout", "prelu")},
}
"""Layers that return sequences of the same shape as their input."""


def one_by_one(model, x, dy, training):
    """Return y, dx and the gradients of the parameters, each layer called alone and with arrays of its own."""
    model.draws.step = 7
    for layer in model.layers:
        x = layer.forward(x.copy(), training)
    y = x
    for layer in reversed(model.layers):
        dy = layer.backward(dy.copy())
    return [y, dy, *(gradient.copy() for gradient in model.store.gradients.values())]


def as_network(model, x, dy, training):
    model.draws.step = 7
    before = x.copy(), dy.copy()
    y = model.forward(x, training)
    dx = model.backward(dy)
    again = model.backward(dy)
    assert np.array_equal(dx, again)
    assert np.array_equal(x, before[0])
    assert np.array_equal(dy, before[1])
    return [y, dx, *(gradient.copy() for gradient in model.store.gradients.values())]


def compare_with_one_by_one(model, rng, labels):
    """Check that a network computes what its layers do one by one, in training and in prediction."""
    for name in model.parameters:
        if "scale" in name or "shift" in name:
            model.parameters[name][...] = rng.normal(size=5)
    for training in (True, False, True):
        x, dy = rng.normal(size=(6, *model.input_shape)), rng.normal(size=(6, *model.output_shape))
        expected = one_by_one(model, x, dy, training)
        for actual, exact in zip(as_network(model, x, dy, training), expected, strict=True):
            assert np.allclose(actual, exact, rtol=1e-12, atol=1e-13), (*labels, training)
    by_layer = x
    for layer in model.layers:
        by_layer = layer.predict(by_layer)
    assert np.allclose(model.predict(x), by_layer, rtol=1e-12)
    assert np.array_equal(model.predict(x), model.predict(x))


@pytest.mark.parametrize("kernels_used", [True, False])
@pytest.mark.parametrize("first", KINDS)
def test_any_three_layers_compute_the_same_in_a_network_as_one_by_one(first, kernels_used, monkeypatch, full):
    if not kernels_used:
        switch_off(monkeypatch)
    rng = np.random.default_rng(0)
    for second, third in itertools.product(KINDS, KINDS if full else ("batch_norm", "softplus")):
        layers = [{"type": "affine", "units": 5}, *({**KINDS[kind]} for kind in (first, second, third))]
        model = model_of(*layers, {"type": "affine", "units": 3})
        compare_with_one_by_one(model, rng, (first, second, third))


@pytest.mark.parametrize("kernels_used", [True, False])
@pytest.mark.parametrize("first", SPATIAL_KINDS)
def test_any_three_layers_over_images_compute_the_same_in_a_network_as_one_by_one(
    first, kernels_used, monkeypatch, full
):
    if not kernels_used:
        switch_off(monkeypatch)
    rng = np.random.default_rng(0)
    for second, third in itertools.product(SPATIAL_KINDS, SPATIAL_KINDS if full else ("relu", "batch_norm")):
        layers = [SPATIAL_KINDS["conv2d"], *({**SPATIAL_KINDS[kind]} for kind in (first, second, third))]
        model = model_of(*layers, {"type": "flatten"}, {"type": "affine", "units": 3}, input_shape=(4, 3, 2))
        compare_with_one_by_one(model, rng, (first, second, third))


@pytest.mark.parametrize("kernels_used", one_by_default([True, False]))
@pytest.mark.parametrize("first", SEQUENCE_KINDS)
@pytest.mark.parametrize(
    "end", one_by_default([{"type": "lstm", "units": 5}, {"type": "last_step"}, {"type": "time_average"}])
)
def test_any_three_layers_over_sequences_compute_the_same_in_a_network_as_one_by_one(
    first, end, kernels_used, monkeypatch, full
):
    if not kernels_used:
        switch_off(monkeypatch)
    rng = np.random.default_rng(0)
    for second, third in itertools.product(SEQUENCE_KINDS, SEQUENCE_KINDS if full else ("relu", "layer_norm")):
        layers = [{"type": "affine", "units": 5}, *({**SEQUENCE_KINDS[kind]} for kind in (first, second, third))]
        model = model_of(*layers, {**end}, {"type": "affine", "units": 3}, input_shape=(4, 2))
        compare_with_one_by_one(model, rng, (first, second, third))


class Identity(Layer):
    """A layer of a program that breaks the rules: it returns the arrays that it is given, and keeps what it returns."""

    def forward(self, x, training=False):
        self.y = x
        return x

    def backward(self, dy):
        self.dx = dy
        return dy

    predict = forward


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("make", [Identity, lambda: specnet.layers.Sequential([Identity()])])
def test_a_layer_that_returns_its_input_does_not_let_the_next_one_overwrite_it(place, make):
    layers = [specnet.layers.Relu(), specnet.layers.Sigmoid()]
    layers.insert(place, make())
    chain = Chain(layers)
    for _ in range(3):
        x, dy = np.linspace(-1, 1, 6).reshape(2, 3), np.ones((2, 3))
        before = x.copy(), dy.copy()
        y, dx = chain.forward(x, training=True), chain.backward(dy)
        assert np.allclose(y, 1 / (1 + np.exp(-np.maximum(x, 0))))
        assert np.allclose(dx, y * (1 - y) * (x > 0))
        chain.predict(np.tile(x, (1000, 1)))
        assert np.array_equal(x, before[0])
        assert np.array_equal(dy, before[1])


def test_a_layer_that_returns_another_dtype_or_a_constant_array_may_precede_any_layer():
    class Sign(Identity):
        def forward(self, x, training=False):
            return np.sign(x).astype(np.int64)

        predict = forward

    class Constant(Identity):
        def forward(self, x, training=False):
            return np.broadcast_to(1.5, x.shape)

        predict = forward

    for layer, expected in ((Sign(), [[0.0, 0.0, 1.0]]), (Constant(), [[1.5, 1.5, 1.5]])):
        chain = Chain([layer, specnet.layers.Relu(), specnet.layers.Dropout(0.5)])
        for _ in range(2):
            assert chain.forward(np.array([[-2.0, 0.0, 3.0]]), training=False).tolist() == expected
            assert chain.predict(np.array([[-2.0, 0.0, 3.0]])).tolist() == expected


def test_subclasses_of_built_in_layers_are_called_themselves():
    class Doubled(specnet.layers.Affine):
        def forward(self, x, training=False, out=None):
            return 2 * super().forward(x, training)

        def predict(self, x, out=None):
            return 2 * super().predict(x)

    class Relu6(specnet.layers.Relu):
        def predict(self, x, out=None):
            return np.minimum(super().predict(x), 6)

    class OwnNorm(specnet.layers.BatchNorm):
        def forward(self, x, training=False, out=None):
            return -super().forward(x, training)

    class Plain(specnet.layers.Gelu):
        def value(self, x, y):
            np.multiply(x, 3, y)

        def slope(self, x, y, slope):
            slope.fill(3)

    weight = np.eye(3)
    chain = Chain([Doubled(weight, np.ones(3)), Relu6(), specnet.layers.Affine(weight, np.zeros(3))])
    assert chain.predict(np.array([[1.0, 9.0, -9.0]])).tolist() == [[4.0, 6.0, 0.0]]
    chain = Chain([OwnNorm(np.ones(3), np.zeros(3)), specnet.layers.Relu(), specnet.layers.Affine(weight, np.zeros(3))])
    x = np.random.default_rng(0).normal(size=(4, 3))
    norm = specnet.layers.BatchNorm(np.ones(3), np.zeros(3))
    assert np.allclose(chain.forward(x, training=True), np.maximum(-norm.forward(x, training=True), 0))
    assert np.array_equal(Plain().forward(x), 3 * x)


def test_a_subclass_of_an_optimizer_may_replace_its_rule():
    class Still(Adam):
        def update(self, block):
            np.add(block.value, 1, block.value)

    class Slower(SGD):
        """Changes nothing, and so keeps the kernel."""

    for optimizer, change in ((Still, 1.0), (Slower, -0.5)):
        model = model_of({"type": "affine", "units": 2})
        before = model.store.value_vector.copy()
        model.store.gradient_vector[...] = 1
        model.adopt_gradients()
        optimizer(model, 0.5).step()
        assert np.allclose(model.store.value_vector - before, change)


def test_weight_decay_may_be_switched_off_between_steps(monkeypatch):
    values = []
    for _ in ("with kernels", "with numpy"):
        model = model_of({"type": "affine", "units": 2})
        optimizer = Adam(model, 0.01, weight_decay=0.1)
        model.adopt_gradients()
        for step in range(6):
            model.store.gradient_vector[...] = step + 1
            if step == 3:
                optimizer.weight_decay, optimizer.learning_rate = 0.0, 0.001
            optimizer.step()
        values.append(model.store.value_vector.copy())
        switch_off(monkeypatch)
    assert np.array_equal(*values)
