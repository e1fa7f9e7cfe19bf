"""Compiled kernels agree with numpy (optimizers and ReLU to the bit), and numpy is used if there are no kernels."""

import os
import shutil
import subprocess
import sys
import types
from math import erfc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import kernels
from specnet.training.losses import SoftmaxCrossEntropy
from specnet.training.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from tests.kernel_support import (
    assert_same_bits,
    needs_kernels,
    random_array,
    run_with_and_without_kernels,
    switch_off,
)
from tests.support import LAYERS, model_of

floats = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
OPTIMIZERS = {
    "sgd": lambda model, decay: SGD(model, 0.003, weight_decay=decay),
    "momentum": lambda model, decay: SGD(model, 0.003, 0.9, weight_decay=decay),
    "nesterov": lambda model, decay: SGD(model, 0.003, 0.9, nesterov=True, weight_decay=decay),
    "adam": lambda model, decay: Adam(model, 0.003, weight_decay=decay),
    "adamw": lambda model, decay: AdamW(model, 0.003, weight_decay=decay),
    "rmsprop": lambda model, decay: RMSprop(model, 0.003, weight_decay=decay),
    "rmsprop_momentum": lambda model, decay: RMSprop(model, 0.003, momentum=0.9, weight_decay=decay),
    "adagrad": lambda model, decay: Adagrad(model, 0.003, weight_decay=decay),
    "lion": lambda model, decay: Lion(model, 0.003, weight_decay=decay),
}


@needs_kernels
@pytest.mark.parametrize("name", OPTIMIZERS)
@given(st.integers(1, 300), floats, seeds, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_optimizers_compute_the_same_bits_as_numpy(name, count, dtype, seed, special, decay):
    def work():
        rng = np.random.default_rng(seed)
        layers = [{"type": "affine", "units": count}, {"type": "affine", "units": 2, "bias": False}]
        model = specnet.build(specnet.ModelSpec(input_shape=(2,), dtype=dtype, layers=layers))
        optimizer = OPTIMIZERS[name](model, decay)
        model.adopt_gradients()
        with np.errstate(all="ignore"):
            for _ in range(3):
                model.store.gradient_vector[...] = random_array(rng, model.parameter_count, dtype, special)
                optimizer.step()
        return [model.store.value_vector, *list(optimizer.state.values())[1:]]

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {{"nesterov": "momentum", "adamw": "adam"}.get(name, name)}
    for actual, expected in zip(compiled, plain, strict=True):
        assert_same_bits(actual, expected)


KERNELS_OF = {
    "affine": {"add_bias", "sum_rows"},
    "affine without bias": set(),
    "relu": {"relu", "relu_backward"},
    "softmax": {"softmax"},
    "log_softmax": set(),
    "flatten": set(),
    "reshape": set(),
    "dropout": {"dropout", "multiply"},
    "prelu": {"prelu", "prelu_backward", "sum_negative"},
    "batch_norm": {"batch_norm", "batch_norm_backward"},
    "layer_norm": {"layer_norm", "row_norm_backward", "sum_rows", "sum_product"},
    "rms_norm": {"rms_norm", "row_norm_backward", "sum_product"},
    "standardize": {"standardize"},
}
"""The kernels of a layer; all others are activations."""


@needs_kernels
@pytest.mark.parametrize("entry", [name for name, layer in LAYERS.items() if not {"layers", "branches"} & layer.keys()])
@given(st.integers(2, 200), floats, seeds)
def test_layers_agree_with_numpy(entry, rows, dtype, seed):
    def work():
        rng = np.random.default_rng(seed)
        spec = specnet.ModelSpec(input_shape=(5,), dtype=dtype, layers=[LAYERS[entry]])
        layer = specnet.build(spec).layers[0]
        x = (4 * rng.normal(size=(rows, 5))).astype(dtype)
        y = layer.forward(x, training=True)
        dx = layer.backward(rng.normal(size=y.shape).astype(dtype))
        return [y, dx, *layer.gradients.values(), *layer.buffers.values()]

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == KERNELS_OF.get(entry, {"activation_slope", "multiply"})
    close = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-5}
    for actual, expected in zip(compiled, plain, strict=True):
        assert actual.dtype == expected.dtype
        assert np.allclose(actual, expected, **close)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
def test_activations_are_accurate_to_the_dtype(name, dtype):
    """Compare with numpy in long double, also at values that saturate, at tiny ones and where there are no numbers."""
    sizes = np.concatenate([[0.0], np.logspace(-30, 2.5, 4000)])
    x = np.concatenate([-sizes[::-1], sizes]).astype(dtype)
    y, slope, alone = (np.empty_like(x) for _ in range(3))
    kind = kernels.ACTIVATIONS.index(name)
    assert kernels.activation_slope(x, y, slope, kind, 1.25, 0.75)
    assert kernels.activation(x, alone, kind, 1.25, 0.75)
    assert np.array_equal(y, alone)
    exact_y, exact_slope = exact_activation(name, x.astype(np.longdouble))
    epsilon, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny * 8
    scale = np.abs(x) if name.startswith("gelu") else np.abs(exact_y)  # their tails are differences to 0 or x
    steepness = np.where(x < 0, 1 - x, 1)  # rounding an exponent changes its exponential by as much
    assert (np.abs(y - exact_y) <= (16 * epsilon * scale + tiny) * steepness).all()
    assert (np.abs(slope - exact_slope) <= 24 * epsilon * np.maximum(np.abs(x), 1)).all()
    special = np.array([np.nan, np.inf, -np.inf] * 9, dtype)
    y, slope = np.empty_like(special), np.empty_like(special)
    assert kernels.activation_slope(special, y, slope, kind, 1.25, 0.75)
    assert np.isnan(y[0])
    assert np.isnan(slope[0]) or name == "leaky_relu"
    assert y[1] == (1 if name in ("sigmoid", "tanh") else np.inf)


def exact_activation(name, x):
    """Return f(x) and f'(x) in long double, with p = 1.25 and q = 0.75."""
    with np.errstate(all="ignore"):
        sigmoid = np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))
        t = np.tanh(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0))
        scaled = x * np.float64(1.25)
        bend = np.tanh(np.sqrt(2 / np.longdouble(np.pi)) * (x + np.longdouble("0.044715") * x**3))
        inner = np.sqrt(2 / np.longdouble(np.pi)) * (1 + np.longdouble("0.134145") * x**2)
        cdf = np.array([0.5 * erfc(-float(value) / 2**0.5) for value in x])
        density = np.exp(-x * x / 2) / np.sqrt(2 * np.longdouble(np.pi))
        return {
            "leaky_relu": (np.where(x > 0, x, 1.25 * x), np.where(x > 0, 1, 1.25)),
            "elu": (np.where(x > 0, 1.25 * x, 0.75 * np.expm1(x)), np.where(x > 0, 1.25, 0.75 * np.exp(x))),
            "sigmoid": (sigmoid, sigmoid * (1 - sigmoid)),
            "tanh": (np.tanh(x), 1 - np.tanh(x) ** 2),
            "softplus": ((np.log1p(np.exp(-np.abs(scaled))) + np.maximum(scaled, 0)) / 1.25, 1 / (1 + np.exp(-scaled))),
            "silu": (x * sigmoid, sigmoid + x * sigmoid * (1 - sigmoid)),
            "mish": (x * t, t + x * (1 - t * t) * sigmoid),
            "gelu": (x * cdf, cdf + x * density),
            "gelu_tanh": (0.5 * x * (1 + bend), 0.5 * (1 + bend) + 0.5 * x * (1 - bend * bend) * inner),
        }[name]


@needs_kernels
def test_an_activation_of_ones_own_does_not_use_the_kernel_of_its_base_class():
    class Doubled(specnet.layers.Silu):
        def value(self, x, y):
            np.multiply(x, 2, y)

        def slope(self, x, y, slope):
            slope.fill(2)

    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(Doubled().forward(x), 2 * x)
    assert np.array_equal(Doubled().predict(x), 2 * x)


@needs_kernels
@given(st.integers(0, 40), st.integers(1, 70), floats, seeds, st.booleans())
def test_relu_computes_the_same_bits_as_numpy(rows, width, dtype, seed, special):
    def work():
        rng = np.random.default_rng(seed)
        relu = specnet.layers.Relu()
        with np.errstate(all="ignore"):
            y = relu.forward(random_array(rng, (rows, width), dtype, special))
            return y, relu.backward(random_array(rng, (rows, width), dtype, special))

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {"relu", "relu_backward"}
    for actual, expected in zip(compiled, plain, strict=True):
        # max(-0.0, 0.0) may return either zero, so -0.0 in numpy's result is converted to +0.0.
        assert_same_bits(actual, expected + 0.0 if actual is compiled[0] else expected)


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 70), floats, seeds)
def test_affine_agrees_with_numpy(rows, width, dtype, seed):
    def work():
        rng = np.random.default_rng(seed)
        weight, bias = rng.normal(size=(9, width)).astype(dtype), rng.normal(size=width).astype(dtype)
        return specnet.layers.Affine(weight, bias).predict(rng.normal(size=(rows, 9)).astype(dtype))

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == ({"add_bias"} if rows > 1 else {"affine_row"})
    assert np.array_equal(compiled, plain) or rows == 1
    assert np.allclose(compiled, plain, rtol=0, atol=1e-14 if dtype == "float64" else 1e-5)


@needs_kernels
@given(st.integers(2, 40), st.integers(1, 70), floats, seeds, st.floats(0, 1e3))
def test_batch_norm_agrees_with_numpy(rows, width, dtype, seed, offset):
    def work():
        rng = np.random.default_rng(seed)
        scale, shift, x, dy = (rng.normal(size=s).astype(dtype) for s in (width, width, (rows, width), (rows, width)))
        norm = specnet.layers.BatchNorm(scale, shift)
        y = norm.forward(x + np.dtype(dtype).type(offset), training=True)
        dx = norm.backward(dy)
        return y, dx, norm.scale_grad, norm.shift_grad, norm.buffers["running_mean"], norm.buffers["running_var"]

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {"batch_norm", "batch_norm_backward"}
    for actual, expected in zip(compiled, plain, strict=True):
        # If all rows are nearly equal, the divisor is nearly 0, which amplifies rounding.
        scale = 1 + np.abs(expected).max() + offset
        assert np.abs(actual - expected).max() <= (1e-11 if dtype == "float64" else 1e-2) * scale


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 200), floats, seeds, st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 300))
def test_cross_entropy_agrees_with_numpy(rows, classes, dtype, seed, smoothing, spread):
    def work():
        rng = np.random.default_rng(seed)
        x = rng.normal(scale=spread, size=(rows, classes)).astype(dtype)
        return SoftmaxCrossEntropy(smoothing)(x, rng.integers(0, classes, rows))

    ((compiled_loss, compiled_gradient), (numpy_loss, numpy_gradient), used) = run_with_and_without_kernels(work)
    assert used == {"cross_entropy"}
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    assert np.allclose(compiled_loss, numpy_loss, **close)
    assert np.allclose(compiled_gradient, numpy_gradient, **close)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponential_is_accurate_to_the_dtype(dtype):
    x = np.concatenate([[0.0], -np.logspace(-9, 2.9, 5000)]).astype(dtype)
    gradient = np.empty((len(x), 2), dtype)
    rows = np.stack([np.zeros_like(x), x], axis=1)
    assert kernels.cross_entropy(rows, np.zeros(len(x), np.int64), gradient, 0.0) is not None
    e = np.exp(x.astype(np.longdouble))
    exact = e / (1 + e) / len(x)
    tiny = np.finfo(dtype).tiny * 4
    assert (np.abs(gradient[:, 1] - exact) <= 4 * np.finfo(dtype).eps * exact + tiny).all()


@needs_kernels
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cross_entropy_propagates_non_finite_logits(bad):
    def work():
        x = np.array([[1.0, bad, 2.0], [0.5, 0.25, 1.0]], np.float32)
        with np.errstate(all="ignore"):
            return SoftmaxCrossEntropy()(x, np.array([0, 2]))

    (compiled_loss, compiled_gradient), (numpy_loss, numpy_gradient), _ = run_with_and_without_kernels(work)
    assert np.isnan(compiled_loss) == np.isnan(numpy_loss) == (bad != -np.inf)
    assert np.allclose(compiled_gradient[1], numpy_gradient[1], rtol=1e-6)
    assert np.array_equal(np.isnan(compiled_gradient), np.isnan(numpy_gradient))


@needs_kernels
@given(st.integers(2, 300), st.integers(1, 70), floats, seeds)
def test_a_batch_norm_with_its_relu_computes_the_same_bits_as_both_alone(rows, width, dtype, seed):
    rng = np.random.default_rng(seed)
    layers = [{"type": "batch_norm"}, {"type": "relu"}, {"type": "affine", "units": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(width,), dtype=dtype, layers=layers), seed=seed)
    twin = specnet.build(model.spec, seed=seed)
    for _ in range(2):
        x, dy = rng.normal(size=(rows, width)).astype(dtype), rng.normal(size=(rows, 2)).astype(dtype)
        y, dx = model.forward(x, training=True), model.backward(dy)
        by_layer, by_hand = x, dy
        for layer in twin.layers:
            by_layer = layer.forward(by_layer, training=True)
        for layer in reversed(twin.layers):
            by_hand = layer.backward(by_hand)
        assert_same_bits(y, by_layer)
        assert_same_bits(dx, by_hand)
        for name, gradient in model.gradients.items():
            assert_same_bits(gradient, twin.store.gradients[name])
        for name, buffer in model.buffers.items():
            assert np.array_equal(buffer, twin.buffers[name])
        by_hand = dy  # each layer goes backward by itself, after a forward of the model, too
        for layer in reversed(model.layers):
            by_hand = layer.backward(by_hand)
        assert_same_bits(dx, by_hand)


@needs_kernels
@given(st.lists(st.integers(1, 90), min_size=2, max_size=6), st.lists(st.booleans(), min_size=6), floats, seeds)
def test_one_row_in_one_call_computes_the_same_bits_as_layer_by_layer(widths, rectified, dtype, seed):
    layers = []
    for units, has_relu in zip(widths[1:], rectified, strict=False):
        layers += [{"type": "affine", "units": units}, *[{"type": "relu"}] * has_relu]
    layers.insert(seed % (len(layers) + 1), {"type": "tanh"})  # cuts the row in two
    model = specnet.build(specnet.ModelSpec(input_shape=(widths[0],), dtype=dtype, layers=layers), seed=seed)
    x = np.random.default_rng(seed).normal(size=(1, widths[0])).astype(dtype)
    expected = x
    for layer in model.layers:
        expected = layer.predict(expected)
    assert_same_bits(model.predict(x), expected)
    assert_same_bits(model.forward(x), expected)


@needs_kernels
def test_a_network_that_ends_in_a_relu_keeps_what_backward_needs():
    model = model_of({"type": "affine", "units": 4}, {"type": "batch_norm"}, {"type": "relu"})
    x = np.random.default_rng(0).normal(size=(6, 5))
    expected = (model.forward(x, training=True), model.backward(np.ones((6, 4))))[1]
    model.forward(x, training=True)[...] = -1  # the result belongs to the caller
    assert np.array_equal(model.backward(np.ones((6, 4))), expected)


TRAIN = """
import numpy as np
import specnet
from specnet import kernels
rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 40)), rng.integers(0, 5, 300)
values = []
for optimizer in ("adam", {"type": "adam", "weight_decay": 0.1}, {"type": "adamw", "weight_decay": 0.1}):
    wide, relu = {"type": "affine", "units": 700}, {"type": "relu"}
    layers = [wide, {"type": "batch_norm"}, relu, wide, relu, {"type": "affine", "units": 5}]
    model = specnet.build(specnet.ModelSpec(input_shape=(40,), dtype="float64", layers=layers))
    specnet.fit(model, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=2, freeze=["affine_1.bias"],
                schedule="cosine")
    values += model.store.value_vector[:: 97].tolist()
print(kernels.backend(), *values)
"""


@needs_kernels
def test_training_agrees_with_and_without_kernels(python):
    results = {}
    for setting in ("", "numpy"):
        environment = {**os.environ, "SPECNET_KERNELS": setting, "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run([python, "-c", TRAIN], env=environment, capture_output=True, text=True, check=True)
        backend, *numbers = process.stdout.split()
        results[backend] = np.array(numbers, float)
    assert results.keys() == {"compiled", "numpy"}
    assert np.allclose(results["compiled"], results["numpy"], rtol=1e-6, atol=1e-9)


def test_out_of_range_classes_are_rejected_with_and_without_kernels(monkeypatch):
    for switch in (lambda _patch: None, switch_off):
        switch(monkeypatch)
        for class_index in (-1, 3, 2**62):
            with pytest.raises(specnet.ShapeError, match="classes 0 to 2"):
                SoftmaxCrossEntropy()(np.zeros((2, 3), np.float32), np.array([0, class_index]))


@needs_kernels
@pytest.mark.parametrize(("rows", "offset"), [(4096, 10), (1_000_000, 5)])
def test_sums_over_many_rows_are_accurate(rows, offset):
    x = (np.random.default_rng(0).normal(size=(rows, 1)) + offset).astype(np.float32)
    exact = x.astype(np.float64)
    norm = specnet.layers.BatchNorm(np.ones(1, np.float32), np.zeros(1, np.float32))
    y = norm.forward(x, training=True)
    assert np.abs(y - (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)).max() < 2e-5
    norm.backward(x)
    assert norm.shift_grad[0] == pytest.approx(exact.sum(), rel=1e-5)


@pytest.mark.parametrize("broken", ["missing", "another machine's", "another version"])
def test_numpy_is_used_if_the_library_cannot_be_loaded(monkeypatch, broken):
    if broken == "another version":
        monkeypatch.setitem(sys.modules, "specnet.kernels._compiled", types.SimpleNamespace(VERSION=1))
    else:
        error = ModuleNotFoundError if broken == "missing" else ImportError

        def refuse(_name):
            raise error("invalid ELF header")

        monkeypatch.setattr(kernels.importlib, "import_module", refuse)
    assert kernels._load() is None


def test_an_invalid_library_file_is_ignored(tmp_path, root, python):
    package = tmp_path / "copy/specnet"
    shutil.copytree(root / "specnet", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [
        python,
        "-c",
        "import sys; sys.path[0] = '.'; import specnet.kernels as k; print(k.__file__, k.backend())",
    ]
    for content in (None, b"\x7fELF garbage" * 100, b""):
        if content is not None:
            (package / "kernels/_compiled.abi3.so").write_bytes(content)
        process = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
        module_file, backend = process.stdout.split()
        assert module_file.startswith((str(package.parent), "./specnet", "specnet"))
        assert backend == "numpy"


def test_the_environment_switches_the_kernels_off(python):
    environment = {**os.environ, "SPECNET_KERNELS": "numpy"}
    command = [python, "-m", "specnet", "--version"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert process.stdout == f"specnet {specnet.__version__} (numpy kernels)\n"
