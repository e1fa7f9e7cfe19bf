"""Layers over sequences: conformance, agreement with torch (packed sequences for masks) and without kernels, steps."""

import copy
import json
import pickle
import random
import re
import time

import numpy as np
import pytest

import specnet
from specnet.checkpoint.fast_plan import _fast_plan
from specnet.errors import path_text
from specnet.layers import Attention, Bidirectional, Gru, Lstm, PositionalEncoding, SimpleRnn
from specnet.layers.standardize import fit_standardize
from specnet.plan import identity_of
from specnet.testing import check_gradients, check_layer
from tests.kernel_support import needs_kernels, run_with_and_without_kernels, switch_off
from tests.support import SEQUENCE_LAYERS, model_of, one_by_default, predict_in_threads

every_layer = pytest.mark.parametrize(("entry", "shape"), SEQUENCE_LAYERS.values(), ids=SEQUENCE_LAYERS.keys())
RECURRENT = {"lstm": Lstm, "gru": Gru, "simple_rnn": SimpleRnn}


@every_layer
@pytest.mark.parametrize("with_kernels", one_by_default([True, False]))  # CI also runs this file with numpy alone
def test_check_layer_passes(entry, shape, with_kernels, monkeypatch):
    if not with_kernels:
        switch_off(monkeypatch)
    check_layer(entry, shape)


def inputs_for(model, batch, rng):
    if model.input_dtype.kind == "i":
        return rng.integers(0, 7, (batch, *model.input_shape))
    return rng.normal(size=(batch, *model.input_shape)).astype(model.dtype)


@every_layer
@pytest.mark.parametrize("batch", one_by_default([3, 1, 70]))
def test_predict_equals_forward_bit_for_bit_and_disturbs_no_backward(entry, shape, batch):
    rng = np.random.default_rng(0)
    model = model_of(entry, {"type": "tanh"}, input_shape=shape, dtype="float32")
    x, other = inputs_for(model, batch, rng), inputs_for(model, batch, rng)
    y = model.forward(x)
    assert model.predict(x).tobytes() == y.tobytes()
    expected = model.backward(y)
    model.forward(x)
    predict_in_threads(model, other, times=5)
    again = model.backward(y)
    assert expected is again is None or np.array_equal(again, expected)


@needs_kernels
@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_layers_agree_with_numpy(entry, shape, dtype, masked):
    def work():
        rng = np.random.default_rng(1)
        model = model_of(entry, input_shape=shape, dtype=dtype)
        layer, x = model.layers[0], inputs_for(model, 11, rng)
        mask = {"mask": rng.random(x.shape[:2]) < 0.7} if masked and layer.mask_use == "taken" else {}
        y = layer.forward(x, **mask)
        dx = layer.backward(rng.normal(size=y.shape).astype(dtype))
        return [y, *([] if dx is None else [dx]), *layer.gradients.values(), layer.predict(x, **mask)]

    compiled, plain, _ = run_with_and_without_kernels(work)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-5}
    for actual, expected in zip(compiled, plain, strict=True):
        assert actual.dtype == expected.dtype
        assert np.allclose(actual, expected, **close)


def torch_recurrent(torch, kind, arrays, *, reverse, activation):
    """Return torch's layer with our parameters, and the suffix of its names for the direction."""
    features, units = len(arrays["weight"]), len(arrays["recurrent_weight"])
    options = {"nonlinearity": activation} if kind == "simple_rnn" else {}
    cls = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "simple_rnn": torch.nn.RNN}[kind]
    theirs = cls(features, units, batch_first=True, bidirectional=reverse, dtype=torch.float64, **options)
    suffix = "_l0_reverse" if reverse else "_l0"
    bias = np.zeros_like(arrays["bias"])
    if "recurrent_bias" in arrays:
        bias[2 * units :] = arrays["recurrent_bias"]
    with torch.no_grad():
        for name, value in (
            ("weight_ih", arrays["weight"].T),
            ("weight_hh", arrays["recurrent_weight"].T),
            ("bias_ih", arrays["bias"]),
            ("bias_hh", bias),
        ):
            getattr(theirs, name + suffix).copy_(torch.tensor(value))
    return theirs, suffix


def torch_outputs(torch, theirs, x, lengths, units, *, reverse):
    """Return the outputs of our direction, of padded sequences as packed ones; 0 for padding."""
    if lengths is None:
        outputs, _ = theirs(x)
    else:
        utils = torch.nn.utils.rnn
        packed = utils.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = utils.pad_packed_sequence(theirs(packed)[0], batch_first=True, total_length=x.shape[1])
    return outputs[..., units:] if reverse else outputs


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("with_kernels", [True, False])
def test_recurrent_layers_agree_with_torch(kind, with_kernels, monkeypatch, full):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not with_kernels:
        switch_off(monkeypatch)
    rng, choices = np.random.default_rng(3), random.Random(3)
    gates = RECURRENT[kind].gates
    for _ in range(200 if full else 20):
        batch, steps, features, units = (
            choices.choice(sizes) for sizes in ((1, 3, 9, 17), (1, 2, 7), (1, 5), (1, 3, 8, 33))
        )
        shapes = {
            "weight": (features, gates * units),
            "recurrent_weight": (units, gates * units),
            "bias": (gates * units,),
        }
        if kind == "gru":
            shapes["recurrent_bias"] = (units,)
        arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        reverse, activation = choices.random() < 0.5, choices.choice(["tanh", "relu"])
        options = {"activation": activation} if kind == "simple_rnn" else {}
        ours = RECURRENT[kind](**arrays, return_sequences=True, reverse=reverse, **options)
        theirs, suffix = torch_recurrent(torch, kind, arrays, reverse=reverse, activation=activation)
        x, dy = rng.normal(size=(batch, steps, features)), rng.normal(size=(batch, steps, units))
        lengths = rng.integers(1, steps + 1, batch) if choices.random() < 0.5 else None
        mask = None if lengths is None else np.arange(steps) < lengths[:, np.newaxis]
        counts = 1.0 if mask is None else mask[..., np.newaxis]
        y = ours.forward(x, mask=mask)
        dx = ours.backward(dy * counts)
        inputs = torch.tensor(x, requires_grad=True)
        outputs = torch_outputs(torch, theirs, inputs, lengths, units, reverse=reverse)
        (outputs * torch.tensor(dy)).sum().backward()
        assert np.allclose(y * counts, outputs.detach().numpy(), rtol=1e-9, atol=1e-10)
        assert np.allclose(dx, inputs.grad.numpy(), rtol=1e-9, atol=1e-10)
        for name, gradient in (("weight_ih", ours.weight_grad.T), ("weight_hh", ours.recurrent_weight_grad.T)):
            assert np.allclose(gradient, getattr(theirs, name + suffix).grad.numpy(), rtol=1e-9, atol=1e-10)
        assert np.allclose(ours.bias_grad, getattr(theirs, f"bias_ih{suffix}").grad.numpy(), rtol=1e-9, atol=1e-10)
        if kind == "gru":
            part = getattr(theirs, f"bias_hh{suffix}").grad.numpy()[2 * units :]
            assert np.allclose(ours.recurrent_bias_grad, part, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("with_kernels", [True, False])
def test_attention_agrees_with_torch(with_kernels, monkeypatch, full):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not with_kernels:
        switch_off(monkeypatch)
    rng, choices = np.random.default_rng(4), random.Random(4)
    for _ in range(200 if full else 30):
        batch, steps, heads, size = (
            choices.choice(sizes) for sizes in ((1, 3, 8), (1, 2, 9, 33), (1, 2, 3), (1, 4, 9, 16))
        )
        width = heads * size
        parts = {name: rng.normal(size=(width, width)) / 3 for name in ("query", "key", "value", "output")}
        biases = {f"{name}_bias": rng.normal(size=width) for name in parts}
        causal = choices.random() < 0.5
        ours = Attention(**parts, **biases, heads=heads, causal=causal)
        x, dy = rng.normal(size=(2, batch, steps, width))
        mask = rng.random((batch, steps)) < 0.7 if choices.random() < 0.5 else None
        if mask is not None:
            mask[:, 0] = True  # torch has no answer for a step that sees none
        y = ours.forward(x, mask=mask)
        dx = ours.backward(dy)
        theirs = torch.nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.tensor(np.hstack([parts[n] for n in ("query", "key", "value")]).T))
            theirs.in_proj_bias.copy_(torch.tensor(np.hstack([biases[f"{n}_bias"] for n in ("query", "key", "value")])))
            theirs.out_proj.weight.copy_(torch.tensor(parts["output"].T))
            theirs.out_proj.bias.copy_(torch.tensor(biases["output_bias"]))
        inputs = torch.tensor(x, requires_grad=True)
        hidden = None if mask is None else torch.tensor(~mask)
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1) if causal else None
        outputs, _ = theirs(inputs, inputs, inputs, key_padding_mask=hidden, attn_mask=later)
        (outputs * torch.tensor(dy)).sum().backward()
        assert np.allclose(y, outputs.detach().numpy(), rtol=1e-9, atol=1e-10)
        assert np.allclose(dx, inputs.grad.numpy(), rtol=1e-9, atol=1e-9)
        gradient = np.hstack([ours.query_grad, ours.key_grad, ours.value_grad]).T
        assert np.allclose(gradient, theirs.in_proj_weight.grad.numpy(), rtol=1e-9, atol=1e-9)
        bias = np.hstack([ours.gradient(f"{name}_bias") for name in ("query", "key", "value")])
        assert np.allclose(bias, theirs.in_proj_bias.grad.numpy(), rtol=1e-9, atol=1e-9)
        assert np.allclose(ours.output_grad.T, theirs.out_proj.weight.grad.numpy(), rtol=1e-9, atol=1e-9)
        assert np.allclose(ours.gradient("output_bias"), theirs.out_proj.bias.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("with_kernels", [True, False])
def test_truncate_is_a_gradient_that_stops_between_the_parts(kind, with_kernels, monkeypatch):
    """The whole gradient is the sum of those of parts, which begin with the state that the part before has left."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not with_kernels:
        switch_off(monkeypatch)
    rng = np.random.default_rng(6)
    gates, units = RECURRENT[kind].gates, 5
    arrays = {
        "weight": rng.normal(size=(2, gates * units)),
        "recurrent_weight": rng.normal(size=(units, gates * units)),
    }
    arrays["bias"] = rng.normal(size=gates * units)
    ours = RECURRENT[kind](**arrays, return_sequences=True, truncate=3)
    theirs, suffix = torch_recurrent(torch, kind, arrays, reverse=False, activation="tanh")
    x, dy = rng.normal(size=(4, 8, 2)), rng.normal(size=(4, 8, units))
    ours.forward(x)
    dx = ours.backward(dy)
    inputs, state, total = torch.tensor(x, requires_grad=True), None, 0
    for start in (0, 3, 6):
        outputs, state = theirs(inputs[:, start : start + 3], state)
        total = total + (outputs * torch.tensor(dy[:, start : start + 3])).sum()
        state = tuple(s.detach() for s in state) if kind == "lstm" else state.detach()
    total.backward()
    assert np.allclose(dx, inputs.grad.numpy(), rtol=1e-9, atol=1e-11)
    assert np.allclose(ours.recurrent_weight_grad.T, getattr(theirs, f"weight_hh{suffix}").grad.numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    "entry", [{"type": kind, "units": 3} for kind in RECURRENT] + [{"type": "gru", "units": 3, "reset_after": False}]
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_kernels", [True, False])
def test_truncation_counts_the_steps_that_are_no_padding(entry, reverse, with_kernels, monkeypatch):
    if not with_kernels:
        switch_off(monkeypatch)
    rng = np.random.default_rng(4)
    layers = [
        {"type": "mask"},
        {**entry, "truncate": 3, "reverse": reverse, "return_sequences": True},
        {"type": "time_average"},
    ]
    counts = np.array([[1, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 1, 1], [1] * 8, [0] * 7 + [1]], bool)
    model = model_of(*layers, input_shape=(8, 2))
    x = rng.normal(size=(4, 8, 2)) * counts[..., np.newaxis]
    y = model.forward(x)
    dy = rng.normal(size=y.shape)
    dx = model.backward(dy)
    total = {name: np.zeros_like(gradient) for name, gradient in model.gradients.items()}
    for row in range(4):
        alone = model_of(*layers[1:], input_shape=(counts[row].sum(), 2))
        for name, value in model.parameters.items():
            alone.parameters[name][...] = value
        assert np.allclose(alone.forward(x[row : row + 1, counts[row]]), y[row : row + 1])
        assert np.allclose(alone.backward(dy[row : row + 1]), dx[row, counts[row]], rtol=1e-10, atol=1e-13)
        for name, gradient in alone.gradients.items():
            total[name] += gradient
    for name, gradient in model.gradients.items():
        assert np.allclose(gradient, total[name], rtol=1e-10, atol=1e-13)
        assert gradient.any()


@pytest.mark.parametrize("units", [1, 3, 5, 8, 17])
@pytest.mark.parametrize("kind", ["lstm", "gru", "simple_rnn", "attention"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_value_that_is_not_finite_stays_in_its_row(kind, units, dtype):
    entry = (
        {"type": "attention", "heads": 1, "key_size": units} if kind == "attention" else {"type": kind, "units": units}
    )
    model = model_of(entry, input_shape=(4, 3), dtype=dtype)
    x = np.random.default_rng(0).normal(size=(9, 4, 3)).astype(dtype)
    clean = model.forward(x)
    clean_dx = model.backward(np.ones_like(clean))
    x[4, 1, 0] = np.nan
    dirty = model.forward(x)
    dy = np.ones_like(clean)
    dy[4] = np.nan
    dirty_dx = model.backward(dy)
    others = np.arange(9) != 4
    assert np.isnan(dirty[4]).any()
    assert np.array_equal(dirty[others], clean[others])
    assert np.array_equal(dirty_dx[others], clean_dx[others])
    assert np.isnan(model.predict(x)[others]).sum() == 0


def test_huge_padding_stays_out_of_attention_and_averages():
    for value in (-9, 1e30):
        layers = [
            {"type": "mask", "value": value},
            {"type": "gru", "units": 3, "return_sequences": True},
            {"type": "time_average"},
        ]
        model = model_of(*layers, input_shape=(5, 2), dtype="float32")
        x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
        x[0, 3:] = value
        y = model.forward(x)
        assert np.isfinite(y).all()
        assert np.isfinite(model.backward(np.ones_like(y))).all()


def test_attention_predicts_a_few_sequences_at_a_time(monkeypatch):
    monkeypatch.setattr("specnet.layers.sequence.attention.MOST_SCORES", 100)
    for with_kernels in (True, False):
        if not with_kernels:
            switch_off(monkeypatch)
        model = model_of({"type": "attention", "heads": 2, "causal": True}, input_shape=(4, 6), dtype="float32")
        x = np.random.default_rng(0).normal(size=(11, 4, 6)).astype(np.float32)
        assert model.predict(x).tobytes() == model.forward(x).tobytes()
        mask = np.random.default_rng(1).random((11, 4)) < 0.6
        layer = model.layers[0]
        assert layer.predict(x, mask=mask).tobytes() == layer.forward(x, mask=mask).tobytes()


def test_a_bidirectional_layer_is_one_layer_in_both_directions():
    rng = np.random.default_rng(2)
    model = model_of(
        {"type": "bidirectional", "layers": [{"type": "lstm", "name": "both", "units": 3}]}, input_shape=(6, 2)
    )
    assert [*model.parameters] == [
        f"bidirectional_1.{name}.{array}"
        for name in ("both", "both_reverse")
        for array in ("weight", "recurrent_weight", "bias")
    ]
    x = rng.normal(size=(4, 6, 2))
    parts = []
    for name, order in (("both", 1), ("both_reverse", -1)):
        arrays = [
            model.parameters[f"bidirectional_1.{name}.{array}"] for array in ("weight", "recurrent_weight", "bias")
        ]
        parts.append(Lstm(*arrays).predict(x[:, ::order]))
    assert np.allclose(model.predict(x), np.hstack(parts))
    alone = Bidirectional(
        *(Lstm(rng.normal(size=(2, 8)), rng.normal(size=(2, 8)), reverse=reverse) for reverse in (False, True))
    )
    assert alone.forward(x).shape == (4, 4)
    assert alone.backward(np.ones((4, 4))).shape == x.shape


PADDED = {
    "recurrent": [
        {"type": "mask"},
        {"type": "gru", "units": 4, "return_sequences": True},
        {"type": "lstm", "units": 3},
    ],
    "reverse": [
        {"type": "mask"},
        {"type": "simple_rnn", "units": 4, "reverse": True, "return_sequences": True},
        {"type": "last_step"},
    ],
    "bidirectional": [
        {"type": "mask"},
        {
            "type": "sequential",
            "layers": [{"type": "bidirectional", "layers": [{"type": "gru", "units": 2, "return_sequences": True}]}],
        },
        {"type": "time_average"},
    ],
    "attention": [
        {"type": "mask"},
        {"type": "affine", "units": 4},
        {"type": "positional_encoding"},
        {"type": "residual", "layers": [{"type": "layer_norm"}, {"type": "attention", "heads": 2}]},
        {"type": "time_average"},
        {"type": "affine", "units": 2},
    ],
    "causal": [{"type": "mask"}, {"type": "attention", "heads": 1, "causal": True}, {"type": "last_step"}],
}


@pytest.mark.parametrize("layers", PADDED.values(), ids=PADDED.keys())
@pytest.mark.parametrize("with_kernels", [True, False])
def test_padding_changes_no_result_and_no_gradient(layers, with_kernels, monkeypatch):
    """A padded batch gives what its sequences give one by one, each with its own number of steps."""
    if not with_kernels:
        switch_off(monkeypatch)
    rng = np.random.default_rng(1)
    lengths = [7, 3, 1, 5]
    model = model_of(*layers, input_shape=(7, 3))
    x = np.zeros((4, 7, 3))
    for row, length in enumerate(lengths):
        x[row, :length] = rng.normal(size=(length, 3))
    y = model.forward(x)
    dy = rng.normal(size=y.shape)
    dx = model.backward(dy)
    total = {name: np.zeros_like(gradient) for name, gradient in model.gradients.items()}
    for row, length in enumerate(lengths):
        alone = model_of(*layers, input_shape=(length, 3))
        for name, value in model.parameters.items():
            alone.parameters[name][...] = value
        assert np.allclose(alone.forward(x[row : row + 1, :length]), y[row : row + 1], rtol=1e-11, atol=1e-13)
        assert np.allclose(alone.backward(dy[row : row + 1]), dx[row, :length], rtol=1e-10, atol=1e-12)
        assert not dx[row, length:].any()
        for name, gradient in alone.gradients.items():
            total[name] += gradient
    for name, gradient in model.gradients.items():
        assert np.allclose(gradient, total[name], rtol=1e-10, atol=1e-12)
    assert np.allclose(model.predict(x), y, rtol=1e-12)


def test_a_sequence_of_padding_alone_is_zero_and_finite():
    for layers in PADDED.values():
        model = model_of(*layers, input_shape=(4, 3))
        x = np.random.default_rng(0).normal(size=(2, 4, 3))
        x[1] = 0
        y = model.forward(x)
        dx = model.backward(np.ones_like(y))
        assert np.isfinite(y).all()
        assert np.isfinite(dx).all()
        assert not dx[1].any()


@pytest.mark.parametrize("layers", PADDED.values(), ids=PADDED.keys())
def test_gradients_with_padding_are_the_numerical_ones(layers):
    rng = np.random.default_rng(5)
    model = model_of(*layers, input_shape=(5, 3))
    x = rng.normal(size=(3, 5, 3))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)
    x[~mask] = 0
    dy = rng.normal(size=(3, *model.output_shape))
    for result in check_gradients(model, x, dy):
        # an input that is changed is no padding any more; dx of padding is checked above
        assert result.name == "input" or result.error < 1e-6, result


def test_masks_of_a_model():
    model = model_of({"type": "mask", "value": -1}, {"type": "tanh"}, {"type": "last_step"}, input_shape=(3, 2))
    x = np.array([[[0, 0], [-1, 2], [-1, -1]]])
    assert model.mask_of(x).tolist() == [[True, True, False]]
    assert model.output_mask(x) is None
    assert not model.masks_outputs
    tokens = model_of({"type": "embedding", "vocabulary": 4, "dimension": 2, "mask_index": 3}, input_shape=(3,))
    assert tokens.mask_of([[0, 3, 1]]).tolist() == [[True, False, True]]
    assert tokens.output_mask([[0, 3, 1]]).tolist() == [[True, False, True]]
    assert model_of({"type": "tanh"}).mask_of(np.ones((2, 5))) is None


SEQUENCES_IN_STEPS = {
    "lstm": [{"type": "lstm", "units": 4}],
    "lstm, sequences": [
        {"type": "standardize", "mean": 0.5, "std": 2},
        {"type": "lstm", "units": 4, "return_sequences": True},
        {"type": "affine", "units": 2},
    ],
    "gru": [
        {"type": "gru", "units": 3, "return_sequences": True},
        {"type": "gru", "units": 2},
        {"type": "affine", "units": 2},
    ],
    "gru, reset before": [{"type": "gru", "units": 3, "reset_after": False}],
    "simple_rnn": [
        {"type": "simple_rnn", "units": 3, "return_sequences": True},
        {"type": "batch_norm"},
        {"type": "time_average"},
    ],
    "causal attention": [
        {"type": "positional_encoding"},
        {"type": "residual", "layers": [{"type": "layer_norm"}, {"type": "attention", "heads": 1, "causal": True}]},
        {"type": "last_step"},
    ],
    "learned": [
        {"type": "positional_encoding", "kind": "learned", "length": 9},
        {"type": "attention", "heads": 1, "causal": True},
    ],
}


@pytest.mark.parametrize("layers", SEQUENCES_IN_STEPS.values(), ids=SEQUENCES_IN_STEPS.keys())
@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_stepper_gives_what_the_whole_sequence_gives(layers, with_kernels, batch, monkeypatch):
    if not with_kernels:
        switch_off(monkeypatch)
    rng = np.random.default_rng(3)
    model = model_of(*layers, input_shape=(6, 3))
    x = rng.normal(size=(batch, 6, 3))
    stepper = model.stepper(batch)
    for _ in range(2):
        outputs = [stepper.step(x[:, t]) for t in range(6)]
        for t in range(6):
            shorter = model_of(*layers, input_shape=(t + 1, 3))
            for name, value in model.parameters.items():
                shorter.parameters[name][...] = value
            expected = shorter.predict(x[:, : t + 1])
            expected = expected[:, -1] if len(model.output_shape) == 2 else expected
            assert np.allclose(outputs[t], expected, rtol=1e-12, atol=1e-14)
        stepper.reset()


def test_a_stepper_is_fast_for_long_streams_and_cannot_be_copied():
    layers = [
        {"type": "positional_encoding"},
        {"type": "attention", "heads": 1, "causal": True},
        {"type": "gru", "units": 3},
    ]
    stepper = model_of(*layers, input_shape=(6, 4)).stepper(2)
    x = np.random.default_rng(0).normal(size=(2, 3000, 4))
    start = time.process_time()
    for t in range(3000):
        stepper.step(x[:, t])
    assert time.process_time() - start < 10
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(specnet.SpecnetError, match="make another one"):
            copying(stepper)


def test_a_stepper_of_tokens_and_its_errors():
    rng = np.random.default_rng(3)
    tokens = {"type": "embedding", "vocabulary": 5, "dimension": 2}
    model = model_of(tokens, {"type": "gru", "units": 3}, input_shape=(4,), dtype="float32")
    x = rng.integers(0, 5, 4)
    stepper = model.stepper()
    for token in x:
        y = stepper.step([token])
    assert np.allclose(y, model.predict(x[np.newaxis]), rtol=1e-5)
    with pytest.raises(specnet.ShapeError, match=r"one step, got \(2,\)"):
        stepper.step([1, 2])
    for layers, message in (
        ([{"type": "gru", "units": 2, "reverse": True}], "gru_1: begins with the last step"),
        ([{"type": "bidirectional", "layers": [{"type": "gru", "units": 2}]}], "gru_1_reverse: begins with the last"),
        ([{"type": "attention", "heads": 1}], "attention_1: sees later steps"),
        ([{"type": "conv1d", "filters": 2, "kernel_size": 2}], "conv1d_1: needs all time steps at once"),
        ([{"type": "flatten"}], "flatten_1: needs all time steps at once"),
    ):
        with pytest.raises(specnet.SpecnetError, match=message):
            model_of(*layers, input_shape=(4, 3)).stepper()
    with pytest.raises(specnet.ShapeError, match="expected a model of sequences"):
        model_of({"type": "tanh"}).stepper()


@pytest.mark.parametrize(
    ("layers", "place", "message"),
    [
        ([{"type": "affine", "units": 2}, {"type": "mask"}], (1,), "mask must be the model's first layer"),
        ([{"type": "mask"}, {"type": "flatten"}], (1,), "flatten mixes the steps of sequences"),
        (
            [{"type": "mask"}, {"type": "residual", "layers": [{"type": "batch_norm"}]}],
            (1, "layers", 0),
            "batch_norm mixes",
        ),
        (
            [{"type": "gru", "units": 2}, {"type": "gru", "units": 2}],
            (1,),
            "expected a sequence of shape (time, features)",
        ),
        ([{"type": "attention", "heads": 2}], (0,), "the 3 features cannot be divided among 2 heads"),
        ([{"type": "bidirectional", "layers": []}], (0, "layers"), "expected at least one layer"),
        ([{"type": "bidirectional", "layers": [{"type": "relu"}]}], (0, "layers"), "expected a recurrent layer"),
        (
            [{"type": "bidirectional", "layers": [{"type": "gru", "units": 2, "return_sequences": True}] * 2}],
            (0, "layers"),
            "one recurrent layer",
        ),
        (
            [{"type": "bidirectional", "layers": [{"type": "gru", "units": 2, "reverse": True}]}],
            (0, "layers"),
            "reverse",
        ),
        ([{"type": "positional_encoding", "kind": "learned", "length": 2}], (0,), "length 2 is less than the 4 steps"),
        ([{"type": "lstm", "units": 2, "gates": 3}], (0, "gates"), "unknown key"),
        (
            [{"type": "last_step"}, {"type": "bidirectional", "layers": [{"type": "gru", "units": 2}]}],
            (1, "layers", 0),
            "expected a sequence of shape (time, features)",
        ),
        (
            [{"type": "bidirectional", "layers": [{"type": "lstm", "units": 2, "bias_init": "orthogonal"}]}],
            (0, "layers", 0, "bias_init"),
            '"orthogonal" needs a matrix',
        ),
        ([{"type": "bidirectional", "layers": [{"type": "lstm", "units": 2**30}]}], (0, "layers", 0, "units"), "2^31"),
        ([{"type": "positional_encoding", "length": 4}], (0, "length"), 'only "learned" encodings'),
    ],
)
def test_documents_with_mistakes_are_refused_once_with_their_place(layers, place, message):
    with pytest.raises(specnet.SpecError) as error:
        specnet.ModelSpec(input_shape=(4, 3), layers=layers)
    problems = [problem for problem in error.value.problems if message in problem.message]
    assert len(error.value.problems) == len(problems) == 1, error.value
    assert problems[0].path == path_text(("layers", *place))


def test_padding_may_be_mixed_after_the_time_axis_has_ended():
    model = model_of(
        {"type": "mask"},
        {"type": "gru", "units": 6},
        {"type": "batch_norm"},
        {"type": "reshape", "shape": [3, 2]},
        {"type": "gru", "units": 2},
        input_shape=(4, 3),
    )
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    x[0, 2:] = 0
    assert model.forward(x).shape == (2, 2)
    assert np.allclose(model.predict(x), model.forward(x))


def test_standardize_behind_a_mask_is_fitted_to_what_is_no_padding():
    layers = [{"type": "mask"}, {"type": "standardize"}, {"type": "gru", "units": 2}]
    model = model_of(*layers, input_shape=(4, 2))
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(20, 4, 2))
    mask = np.arange(4) < rng.integers(1, 5, (20, 1))
    x[~mask] = 0
    fit_standardize(model.layers, [x[:7], x[7:]])
    assert np.allclose(model.buffers["standardize_1.mean"], x[mask].mean(axis=0))
    assert np.allclose(model.buffers["standardize_1.std"], x[mask].std(axis=0))
    with pytest.raises(specnet.SpecError, match="standardize must be the model's first layer"):
        model_of({"type": "mask"}, {"type": "tanh"}, {"type": "standardize"}, input_shape=(4, 2))


def test_wrong_arrays_are_told_with_their_shapes():
    layer = Lstm(np.ones((3, 8)), np.ones((2, 8)))
    for call, message in (
        (lambda: layer.forward(np.ones((4, 3))), "shape (batch, time, 3), got (4, 3); a single sequence needs a batch"),
        (lambda: layer.forward(np.ones((1, 4, 2))), "shape (batch, time, 3), got (1, 4, 2)"),
        (lambda: layer.forward(np.ones((1, 4, 3)), mask=np.ones((1, 3), bool)), "a mask of booleans, shape (1, 4)"),
        (lambda: layer.predict(np.ones((1, 4, 3)), mask=np.ones((1, 4))), "a mask of booleans"),
        (lambda: Lstm(np.ones((3, 8)), np.ones((2, 6))), "a recurrent_weight of shape (2, 8), got (2, 6)"),
        (lambda: Lstm(np.ones((3, 9)), np.ones((2, 8))), "a weight of shape (3, 8), got (3, 9)"),
        (lambda: Gru(np.ones((3, 6)), np.ones((2, 6)), np.ones(5)), "a bias of shape (6,), got (5,)"),
        (lambda: Gru(np.ones((3, 6)), np.ones((2, 6)), None, np.ones(6)), "a recurrent_bias of shape (2,), got (6,)"),
        (lambda: Bidirectional(layer, Gru(np.ones((3, 6)), np.ones((2, 6)), reverse=True)), "of one kind"),
        (lambda: Attention(*[np.ones((3, 4))] * 3, np.ones((4, 3)), heads=3), "heads * key_size"),
        (
            lambda: Attention(*[np.ones((3, 4))] * 2, np.ones((3, 2)), np.ones((4, 3))),
            "value of shape (3, 4), got (3, 2)",
        ),
        (lambda: PositionalEncoding(np.ones((2, 3))).predict(np.ones((1, 3, 3))), "up to (2, 3), got (3, 3)"),
    ):
        with pytest.raises(specnet.ShapeError, match=re.escape(message)):
            call()
    with pytest.raises(specnet.SpecnetError, match="truncate"):
        Lstm(np.ones((3, 8)), np.ones((2, 8)), truncate=0)
    with pytest.raises(specnet.SpecnetError, match="recurrent_bias only with reset_after"):
        Gru(np.ones((3, 6)), np.ones((2, 6)), None, np.ones(2), reset_after=False)
    with pytest.raises(specnet.SpecnetError, match='"tanh" or "relu"'):
        SimpleRnn(np.ones((3, 2)), np.ones((2, 2)), activation="gelu")


def test_initial_values():
    model = model_of({"type": "lstm", "units": 4}, input_shape=(3, 5), dtype="float64")
    assert model.parameters["lstm_1.bias"].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    recurrent = model.parameters["lstm_1.recurrent_weight"]
    assert np.allclose(recurrent @ recurrent.T, np.eye(4))
    plain = model_of({"type": "lstm", "units": 4, "unit_forget_bias": False, "bias_init": "ones"}, input_shape=(3, 5))
    assert plain.parameters["lstm_1.bias"].tolist() == [1] * 16


def test_models_of_sequences_can_be_copied_pickled_and_saved(tmp_path):
    layers = [{"type": "mask"}, {"type": "bidirectional", "layers": [{"type": "lstm", "units": 3}]}]
    model = model_of(*layers, input_shape=(4, 2))
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    x[1, 2:] = 0
    y = model.forward(x)
    model.backward(y)
    specnet.save(tmp_path / "model.h5", model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), specnet.load(tmp_path / "model.h5")):
        assert np.array_equal(copied.predict(x), y)
        assert copied.gradients.keys() == model.gradients.keys()


@pytest.mark.parametrize(
    ("layers", "change"),
    [
        ([{"type": "mask"}, {"type": "tanh"}], {"type": "flatten"}),
        ([{"type": "mask"}, {"type": "tanh"}], {"type": "residual", "layers": [{"type": "batch_norm"}]}),
        ([{"type": "embedding", "vocabulary": 5, "dimension": 2, "mask_index": 1}], {"mask_index": 5}),
        ([{"type": "bidirectional", "layers": [{"type": "gru", "name": "both", "units": 2}]}], {"reverse": True}),
        ([{"type": "bidirectional", "layers": [{"type": "gru", "name": "both", "units": 2}]}], {"name": "n" * 250}),
    ],
)
def test_loading_without_pydantic_accepts_no_document_that_validation_refuses(layers, change):
    def last(entry):
        return last(entry["layers"][-1]) if entry["type"] == "bidirectional" else entry

    shape = (4,) if layers[0]["type"] == "embedding" else (4, 3)
    document = specnet.ModelSpec(input_shape=shape, layers=layers).model_dump(mode="json")
    assert _fast_plan(json.dumps(document).encode(), identity_of(document)) is not None
    if "type" in change:
        other = specnet.ModelSpec(input_shape=shape, layers=[change]).model_dump(mode="json")["layers"]
        document["layers"][-1:] = other
    else:
        last(document["layers"][-1]).update(change)
    with pytest.raises(specnet.SpecError):
        specnet.ModelSpec.from_text(json.dumps(document))
    assert _fast_plan(json.dumps(document).encode(), identity_of(document)) is None
