"""Layers over sequences and images: conformance, geometry, errors, and agreement with torch and without kernels."""

import copy
import pathlib
import pickle
import random
import re
import subprocess
import time

import numpy as np
import pytest

import specnet
from specnet import kernels, layers
from specnet.spec.registry import layer_types
from specnet.testing import check_layer
from tests.kernel_support import needs_kernels, run_with_and_without_kernels, switch_off
from tests.support import SPATIAL_LAYERS, model_of, predict_in_threads

every_layer = pytest.mark.parametrize(("entry", "shape"), SPATIAL_LAYERS.values(), ids=SPATIAL_LAYERS.keys())


@every_layer
@pytest.mark.parametrize("with_kernels", [True, False])
def test_check_layer_passes(entry, shape, with_kernels, monkeypatch):
    if not with_kernels:
        switch_off(monkeypatch)
    check_layer(entry, shape)


@every_layer
@pytest.mark.parametrize("batch", [1, 3, 70])
def test_predict_equals_forward_bit_for_bit_and_disturbs_no_backward(entry, shape, batch):
    rng = np.random.default_rng(0)
    model = model_of(entry, {"type": "relu"}, entry_of_same_shape(entry, shape), input_shape=shape, dtype="float32")
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    y = model.forward(x)
    assert model.predict(x).tobytes() == y.tobytes()
    expected = model.backward(y)
    model.forward(x)
    predict_in_threads(model, -x, times=5)
    assert np.array_equal(model.backward(y), expected)


def entry_of_same_shape(entry, shape):
    """Return another layer that takes what `entry` returns."""
    output = model_of(entry, input_shape=shape).output_shape
    return {1: {"type": "tanh"}, 2: {"type": "zero_pad1d"}, 3: {"type": "crop2d", "cropping": 0}}[len(output)]


@needs_kernels
@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_agree_with_numpy(entry, shape, dtype):
    def work():
        rng = np.random.default_rng(1)
        layer = model_of(entry, input_shape=shape, dtype=dtype).layers[0]
        x = rng.normal(size=(7, *shape)).astype(dtype)
        y = layer.forward(x, training=True)
        dx = layer.backward(rng.normal(size=y.shape).astype(dtype))
        return [y, dx, *layer.gradients.values()]

    compiled, plain, used = run_with_and_without_kernels(work)
    kind = entry["type"].rstrip("12d")
    family = {"conv": {"convolve", "convolve_back", "convolve_weight"}, "max_pool": {"max_pool", "max_pool_backward"}}
    family |= {"conv_transpose": family["conv"], "average_pool": {"average_pool", "average_pool_backward"}}
    assert used - {"sum_rows"} == family.get(kind, set())
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-5}
    for actual, expected in zip(compiled, plain, strict=True):
        assert actual.dtype == expected.dtype
        assert np.allclose(actual, expected, **close)


def channels_first(array):
    """Return images as a tensor of torch: (images, channels, height, width)."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.tensor(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def random_geometry(rng):
    """Draw a convolution: (images, height, width, channels, filters), kernel, stride, dilation, padding, groups."""
    groups = rng.choice([1, 1, 1, 2, 3])
    channels, filters = groups * rng.choice([1, 2, 5, 17]), groups * rng.choice([1, 3, 8, 16, 33])
    if rng.random() < 0.3:
        groups = channels = filters = rng.choice([2, 3, 16, 21, 40])
    kernel = rng.randint(1, 4), rng.randint(1, 5)
    stride, dilation = ((rng.randint(1, 3), rng.randint(1, 3)) for _ in range(2))
    padding = [(rng.randint(0, 3), rng.randint(0, 3)) for _ in range(2)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = (max(1, s - sum(p)) + rng.randint(0, 9) for s, p in zip(spans, padding, strict=True))
    return (rng.choice([1, 2, 19]), height, width, channels, filters), kernel, stride, dilation, padding, groups


@pytest.mark.parametrize("with_kernels", [True, False])
def test_random_convolutions_agree_with_torch(with_kernels, monkeypatch, full):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not with_kernels:
        switch_off(monkeypatch)
    rng, arrays = random.Random(5), np.random.default_rng(5)
    for _ in range(500 if full else 60):
        (images, height, width, channels, filters), kernel, stride, dilation, padding, groups = random_geometry(rng)
        x = arrays.normal(size=(images, height, width, channels))
        weight, bias = arrays.normal(size=(*kernel, channels // groups, filters)), arrays.normal(size=filters)
        layer = layers.Conv2d(weight, bias, stride, padding, dilation, groups)
        (top, bottom), (left, right) = padding
        inputs = channels_first(x).requires_grad_()
        kernels_ = torch.tensor(weight.transpose(3, 2, 0, 1), requires_grad=True)
        padded = torch.nn.functional.pad(inputs, (left, right, top, bottom))
        y = torch.nn.functional.conv2d(padded, kernels_, torch.tensor(bias), stride, 0, dilation, groups)
        compare(layer, x, y, inputs, kernels_, (2, 3, 1, 0), arrays)


@pytest.mark.parametrize("with_kernels", [True, False])
def test_random_transposed_convolutions_agree_with_torch(with_kernels, monkeypatch, full):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not with_kernels:
        switch_off(monkeypatch)
    rng, arrays = random.Random(6), np.random.default_rng(6)
    for _ in range(500 if full else 60):
        (images, height, width, channels, filters), kernel, stride, dilation, _, groups = random_geometry(rng)
        padding = [rng.randint(0, min(2, d * (k - 1) // 2)) for d, k in zip(dilation, kernel, strict=True)]
        extra = [rng.randint(0, s - 1) for s in stride]
        x = arrays.normal(size=(images, height, width, channels))
        weight, bias = arrays.normal(size=(*kernel, channels // groups, filters)), arrays.normal(size=filters)
        sizes = [
            (n - 1) * s + d * (k - 1) + 1 - 2 * p + e
            for n, s, d, k, p, e in zip((height, width), stride, dilation, kernel, padding, extra, strict=True)
        ]
        if min(sizes) < 1:
            continue
        layer = layers.ConvTranspose2d(weight, bias, stride, padding, dilation, groups, extra)
        inputs = channels_first(x).requires_grad_()
        # torch has the channels first, and the filters of one group
        grouped = weight.reshape(*kernel, channels // groups, groups, filters // groups)
        theirs = grouped.transpose(3, 2, 4, 0, 1).reshape(channels, filters // groups, *kernel)
        tensor = torch.tensor(np.ascontiguousarray(theirs), requires_grad=True)
        y = torch.nn.functional.conv_transpose2d(
            inputs, tensor, torch.tensor(bias), stride, padding, extra, groups, dilation
        )
        assert y.shape[2:] == tuple(sizes)
        dy = arrays.normal(size=(images, *sizes, filters))
        y.backward(channels_first(dy))
        assert close(layer.forward(x), y.detach().numpy().transpose(0, 2, 3, 1))
        assert close(layer.backward(dy), inputs.grad.numpy().transpose(0, 2, 3, 1))
        gradient = tensor.grad.numpy().reshape(groups, channels // groups, filters // groups, *kernel)
        expected = gradient.transpose(3, 4, 1, 0, 2).reshape(weight.shape)
        assert close(layer.weight_grad, expected)


def close(ours, theirs):
    return np.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def compare(layer, x, y, inputs, tensor, axes, arrays):
    """Compare outputs and gradients of a layer with those of torch, whose channels are first."""
    dy = arrays.normal(size=(len(x), *y.shape[2:], y.shape[1]))
    y.backward(channels_first(dy))
    assert close(layer.forward(x), y.detach().numpy().transpose(0, 2, 3, 1))
    assert close(layer.backward(dy), inputs.grad.numpy().transpose(0, 2, 3, 1))
    assert close(layer.weight_grad, tensor.grad.numpy().transpose(axes))
    assert close(layer.bias_grad, dy.sum(axis=(0, 1, 2)))


def test_pools_and_upsampling_agree_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    cases = [
        (layers.MaxPool2d([2, 3], stride=[1, 2], padding=1), nn.MaxPool2d((2, 3), (1, 2), 1)),
        (layers.MaxPool2d(3), nn.MaxPool2d(3)),
        (layers.AveragePool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        (layers.AveragePool2d(3, 2, 1, count_padding=True), nn.AvgPool2d(3, 2, 1)),
        (layers.GlobalAveragePool(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        (layers.GlobalMaxPool(), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())),
        (layers.Upsample2d([2, 3]), nn.Upsample(scale_factor=(2, 3))),
        (layers.Upsample2d([2, 3], "bilinear"), nn.Upsample(scale_factor=(2, 3), mode="bilinear")),
        (layers.ZeroPad2d([[1, 0], [2, 3]]), nn.ZeroPad2d((2, 3, 1, 0))),
        (layers.Crop2d([[1, 0], [2, 1]]), nn.ZeroPad2d((-2, -1, -1, 0))),
    ]
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, size=(3, 7, 8, 5)).astype(float)  # with ties
    for layer, module in cases:
        inputs = channels_first(x).requires_grad_()
        expected = module(inputs)
        back = expected.detach().numpy()
        y = layer.forward(x)
        channels_last = back.transpose(0, 2, 3, 1) if back.ndim == 4 else back
        assert close(y, channels_last), module
        dy = rng.normal(size=y.shape)
        expected.backward(channels_first(dy) if dy.ndim == 4 else torch.tensor(dy))
        assert close(layer.backward(dy), inputs.grad.numpy().transpose(0, 2, 3, 1)), module


@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_convolution_by_hand(with_kernels, monkeypatch):
    if not with_kernels:
        switch_off(monkeypatch)
    x = np.arange(1.0, 6.0).reshape(1, 5, 1)
    conv = layers.Conv1d([[[1.0]], [[10.0]], [[100.0]]], [0.5])
    assert conv.forward(x).ravel().tolist() == [321.5, 432.5, 543.5]
    assert conv.backward([[[1.0], [0.0], [2.0]]]).ravel().tolist() == [1, 10, 102, 20, 200]
    assert conv.weight_grad.ravel().tolist() == [1 + 2 * 3, 2 + 2 * 4, 3 + 2 * 5]
    assert conv.bias_grad.tolist() == [3]
    same = layers.Conv1d([[[1.0]], [[10.0]]], padding="same", stride=2)
    assert same.forward(x).ravel().tolist() == [21, 43, 5]  # the odd zero is behind


def test_a_tie_sends_the_gradient_to_the_first_maximum_once(monkeypatch):
    for switch in (lambda _patch: None, switch_off):
        switch(monkeypatch)
        pool = layers.MaxPool1d(3, stride=1)
        assert pool.forward([[[2.0], [2.0], [2.0], [1.0]]]).ravel().tolist() == [2, 2]
        assert pool.backward([[[5.0], [7.0]]]).ravel().tolist() == [5, 7, 0, 0]
        pool = layers.GlobalMaxPool()
        pool.forward([[[2.0], [2.0]]])
        assert pool.backward([[5.0]]).ravel().tolist() == [5, 0]


@every_layer
def test_a_nan_or_infinity_stays_where_it_belongs(entry, shape, monkeypatch):
    for switch in (lambda _patch: None, switch_off):
        switch(monkeypatch)
        layer = model_of(entry, input_shape=shape).layers[0]
        x = np.ones((3, *shape))
        clean = layer.predict(x)
        x[1] = np.nan
        y = layer.predict(x)
        assert np.array_equal(y[[0, 2]], clean[[0, 2]])
        spread = layer.predict(x[1:2])
        assert np.isnan(spread).any()


@every_layer
def test_wrong_inputs_raise_a_shape_error_with_the_layers_name(entry, shape):
    layer = model_of({**entry, "name": "seventh"}, input_shape=shape).layers[0]
    wrong = [np.ones((2, 3)), [["a"]], np.ones(()), None, np.ones((2, *shape), complex)]
    if "channel_dropout" in entry["type"]:
        wrong = wrong[1:]
    for x in wrong:
        with pytest.raises(specnet.ShapeError, match="seventh: expected"):
            layer.forward(x)
    layer.forward(np.ones((2, *shape)))
    with pytest.raises(specnet.ShapeError, match="seventh: expected a gradient of shape"):
        layer.backward(np.ones((2, 9, 9, 9)))


CONV = {"type": "conv2d", "filters": 4, "kernel_size": 5}
FAULTS = [
    ([28, 28], CONV, "expected (height, width, channels)", '"shape": [28, 28, 1]'),
    ([3, 28, 1], CONV, "the height 3 is less than the window of 5", "at most 3 positions fit", '"same"'),
    ([28, 3, 1], CONV | {"padding": [0, [1, 0]]}, "the width 3 with 1 of padding", "at most 4"),
    (
        [3, 1],
        {"type": "conv1d", "filters": 4, "kernel_size": 3, "dilation": 4},
        "the length 3",
        "9 (3 positions, dilation 4)",
    ),
    ([28, 28, 3], CONV | {"groups": 2}, "the input's channels, 3, are no multiple of 2 groups"),
    ([28, 28, 3], CONV | {"groups": 3}, "the filters, 4, are no multiple of 3 groups"),
    (
        [28, 28, 3],
        CONV | {"kernel_size": 0},
        "kernel_size: expected an integer from 1 to 2^30, or an array of 2, got the integer 0",
    ),
    ([28, 28, 3], CONV | {"kernel_size": [3, True]}, "kernel_size[1]: expected an integer from 1 to 2^30, got true"),
    ([28, 28, 3], CONV | {"kernel_size": [3]}, "kernel_size: expected 2 entries, one an axis, got 1"),
    ([28, 28, 3], CONV | {"stride": 1.5}, "stride: expected an integer from 1 to 2^30"),
    ([28, 28, 3], CONV | {"padding": "full"}, 'padding: expected "valid", "same", a number'),
    ([28, 28, 3], CONV | {"padding": -1}, 'padding: expected "valid", "same", a number'),
    ([28, 28, 3], CONV | {"padding": [1, [1, 2, 3]]}, "padding[1]: expected a number of positions or a pair"),
    ([28, 28, 3], CONV | {"stride": 2**40}, "stride: expected an integer from 1 to 2^30"),
    (
        [4, 4, 1],
        {"type": "max_pool2d", "padding": 2},
        "padding: expected less than the window on every side, at most 1",
    ),
    ([1, 4, 1], {"type": "max_pool2d"}, "the height 1 is less than the window of 2"),
    ([4], {"type": "global_max_pool"}, "expected positions to pool over"),
    ([4, 4, 1], {"type": "crop2d", "cropping": 2}, "cropping 2 + 2 leaves nothing of the height 4; crop at most 3"),
    ([4, 4, 1], {"type": "upsample2d", "interpolation": "linear"}, "interpolation"),
    ([4, 1], {"type": "conv_transpose1d", "filters": 1, "kernel_size": 3, "output_padding": 1}, "less than the stride"),
    (
        [4, 1],
        {
            "type": "conv_transpose1d",
            "filters": 1,
            "kernel_size": 3,
            "padding": "same",
            "stride": 2,
            "output_padding": 1,
        },
        "leave out output_padding",
    ),
    (
        [4, 4, 1],
        CONV | {"kernel_size": 1, "padding": 2**19, "stride": 2**19},
        "with its padding, an array has",
        "use less padding",
    ),
    ([1, 1], {"type": "conv_transpose1d", "filters": 1, "kernel_size": 3, "padding": 2}, "cuts the whole output"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2][:40])
def test_faults_in_documents_name_axis_size_and_remedy(fault):
    shape, entry, *texts = fault
    with pytest.raises(specnet.SpecError) as error:
        specnet.ModelSpec(input_shape=shape, layers=[entry])
    message = str(error.value)
    assert message.startswith("layers[0]"), message
    for text in texts:
        assert text in message, message


def test_equal_settings_have_one_normal_form():
    def identity(**keys):
        return specnet.ModelSpec(input_shape=[9, 9, 2], layers=[CONV | keys]).identity

    assert identity() == identity(kernel_size=[5, 5]) == identity(padding=0) == identity(padding=[[0, 0], 0])
    assert identity(padding=1) == identity(padding=[1, [1, 1]]) != identity(padding="same")
    pool = {"type": "max_pool2d", "pool_size": 3}
    specs = [specnet.ModelSpec(input_shape=[9, 9, 2], layers=[pool | keys]) for keys in ({}, {"stride": [3, 3]})]
    assert specs[0] == specs[1]
    assert specnet.ModelSpec.model_validate_json(specs[0].to_json()) == specs[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2d(np.ones((3, 3, 2))),
        lambda: layers.Conv2d(np.ones((3, 3, 2, 4)), np.ones(3)),
        lambda: layers.Conv2d(np.ones((3, 3, 2, 4)), groups=3),
        lambda: layers.Conv2d(np.ones((3, 3, 2, 4)), stride=0),
        lambda: layers.Conv2d(np.ones((3, 3, 2, 4)), padding="full"),
        lambda: layers.Conv2d(np.ones((3, 3, 2, 4)), padding=[1, 2, 3]),
        lambda: layers.MaxPool2d(padding=-1),
        lambda: layers.MaxPool2d(2, padding=2),
        lambda: layers.Upsample2d(interpolation="linear"),
        lambda: layers.ZeroPad2d([1]),
    ],
)
def test_wrong_arguments_of_layers_are_rejected(make):
    with pytest.raises(specnet.SpecnetError, match="expected"):
        make()


def test_weights_are_drawn_by_the_fans_of_a_kernel():
    entry = {"type": "conv2d", "filters": 400, "kernel_size": 5}
    for following, variance in ((["relu"], 2 / (25 * 16)), (["max_pool2d", "relu"], 2 / (25 * 16)), ([], None)):
        model = model_of(entry, *({"type": kind} for kind in following), input_shape=(9, 9, 16))
        expected = variance or 2 / (25 * 16 + 25 * 400)
        assert model.parameters["conv2d_1.weight"].var() == pytest.approx(expected, rel=0.02)


def test_channel_dropout_drops_whole_channels_of_a_row_wherever_it_stands():
    model = model_of({"type": "channel_dropout", "rate": 0.25}, input_shape=(6, 7, 40))
    x = np.ones((50, 6, 7, 40))
    y = model.forward(x, training=True)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert (y == y[:, :1, :1]).all()
    assert abs((y == 0).mean() - 0.25) < 0.03
    assert np.array_equal(model.backward(x), y)
    model.draws.step, model.draws.first_row = 0, 20
    assert np.array_equal(model.forward(x[20:], training=True), y[20:])


def test_a_convolution_and_its_relu_are_computed_together_and_alone_alike():
    entries = [{"type": "conv2d", "filters": 5, "kernel_size": 3}, {"type": "relu"}]
    model = model_of(*entries, {"type": "conv2d", "filters": 2, "kernel_size": 2}, input_shape=(6, 5, 3))
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, 6, 5, 3))
    y = model.forward(x)
    alone = x
    for layer in model.layers:
        alone = layer.predict(alone)
    assert np.array_equal(y, alone)
    dy = rng.normal(size=y.shape)
    dx = model.backward(dy)
    gradients = {name: array.copy() for name, array in model.gradients.items()}
    for layer in reversed(model.layers):
        dy = layer.backward(dy)
    assert np.allclose(dx, dy, rtol=1e-12)
    for name, array in gradients.items():
        assert np.array_equal(array, model.store.gradients[name])


def test_a_large_image_is_computed_in_parts(monkeypatch):
    """One image whose windows do not fit into a block, and a long sequence, in both implementations."""
    rng = np.random.default_rng(4)
    cases = [
        (layers.Conv2d(rng.normal(size=(3, 3, 8, 20)), padding="same"), (2, 90, 100, 8)),
        (layers.Conv1d(rng.normal(size=(9, 4, 3)), padding="same", stride=2), (1, 50_001, 4)),
        (layers.Conv2d(rng.normal(size=(5, 5, 1, 33)), padding=2, groups=33), (1, 120, 60, 33)),
    ]
    results = []
    for switch in (lambda _patch: None, switch_off):
        switch(monkeypatch)
        for layer, shape in cases:
            x = np.random.default_rng(5).normal(size=shape)
            y = layer.forward(x)
            results.append([y, layer.backward(np.cos(y)), layer.weight_grad.copy()])
    for compiled, plain in zip(results[:3], results[3:], strict=True):
        for actual, expected in zip(compiled, plain, strict=True):
            assert np.allclose(actual, expected, rtol=1e-9, atol=1e-9)


@needs_kernels
def test_outputs_do_not_depend_on_the_batch():
    rng = np.random.default_rng(7)
    conv = layers.Conv2d(rng.normal(size=(3, 3, 7, 19)).astype(np.float32), padding="same")
    x = rng.normal(size=(33, 9, 10, 7)).astype(np.float32)
    together = conv.predict(x)
    assert all(np.array_equal(together[i : i + 1], conv.predict(x[i : i + 1])) for i in range(33))


def test_every_spatial_layer_has_a_spec_with_an_example_that_builds():
    for kind, cls in layer_types().items():
        if cls.layer.__module__.startswith("specnet.layers.spatial."):
            assert any(entry["type"] == kind for entry, _ in SPATIAL_LAYERS.values())
            assert cls.model_config["json_schema_extra"]["examples"]
            assert re.search(r"sequences|images|axes", cls.__doc__)
    assert kernels.backend() in ("compiled", "numpy")


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_row_depends_on_the_batch_in_which_it_stands(dtype):
    rng = np.random.default_rng(8)
    for entry, shape in SPATIAL_LAYERS.values():
        layer = model_of(entry, input_shape=shape, dtype=dtype).layers[0]
        x = rng.normal(size=(16, *shape)).astype(dtype)
        together = layer.predict(x)
        assert all(np.array_equal(together[i : i + 1], layer.predict(x[i : i + 1])) for i in range(16)), entry


def test_one_number_that_is_not_finite_reaches_only_its_neighbours():
    x = np.zeros((1, 16, 16, 1))
    x[0, 3, 3] = np.inf
    assert (~np.isfinite(layers.Upsample2d(2, "bilinear").predict(x))).sum() == 16
    assert (~np.isfinite(layers.Conv2d(np.ones((3, 3, 1, 1)), padding=1).predict(x))).sum() == 9


def test_means_of_many_positions_keep_their_digits():
    x = np.full((1, 4_000_000, 2), 0.1, np.float32)
    assert np.allclose(layers.GlobalAveragePool().predict(x), 0.1, rtol=1e-6)
    if kernels.backend() == "compiled":
        assert np.allclose(layers.AveragePool1d(4_000_000).predict(x), 0.1, rtol=1e-6)


@pytest.mark.parametrize("cls", [layers.Conv1d, layers.Conv2d, layers.ConvTranspose1d])
def test_copies_of_a_layer_have_their_own_weight(cls):
    shape = (3,) * cls.axes
    layer = cls(np.ones((*shape, 2, 4)))
    x = np.ones((1, *(8,) * cls.axes, 2))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        copied.weight[...] = 0
        assert not copied.predict(x).any()
        assert layer.predict(x).any()


def test_long_kernels_and_windows_take_no_longer_than_their_arithmetic(monkeypatch):
    """Strides as long as the kernel, and windows far larger than the input: both were once quadratic."""
    began = time.process_time()
    transposed = layers.ConvTranspose1d(np.ones((30_000, 1, 1)), stride=30_000)
    assert transposed.forward(np.ones((1, 9, 1))).shape == (1, 270_000, 1)
    assert transposed.backward(np.ones((1, 270_000, 1))).tolist() == [[[30_000.0]] * 9]
    conv = layers.Conv1d(np.ones((30_000, 1, 1)), stride=30_000)
    assert conv.forward(np.ones((1, 270_000, 1))).tolist() == [[[30_000.0]] * 9]
    assert (conv.backward(np.ones((1, 9, 1))) == 1).all()
    for switch in (lambda _patch: None, switch_off):
        switch(monkeypatch)
        pool = layers.MaxPool2d(2**29, padding="same", stride=2**29)
        assert pool.forward(np.ones((1, 4, 4, 1))).tolist() == [[[[1.0]]]]
        pool.backward(np.ones((1, 1, 1, 1)))
    assert time.process_time() - began < 3


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="the limit of memory is set as Linux does")
def test_an_array_without_room_raises_a_memory_error(python):
    code = """
import resource
import numpy as np
from specnet.layers import Conv1d
conv = Conv1d(np.ones((1, 64, 1), np.float32), padding=2**20, stride=2**20)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
try:
    conv.predict(np.ones((1, 4, 64), np.float32))
except MemoryError:
    print("no memory")
"""
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "no memory\n"


def test_a_failed_forward_leaves_the_pending_backward_as_it_was():
    for layer, x in (
        (layers.Conv1d(np.ones((3, 2, 1))), np.ones((1, 5, 2))),
        (layers.MaxPool1d(3), np.ones((1, 5, 2))),
        (layers.ConvTranspose1d(np.ones((3, 2, 1)), padding=1), np.ones((1, 5, 2))),
    ):
        y = layer.forward(x)
        expected = layer.backward(y)
        with pytest.raises(specnet.ShapeError):
            layer.forward(np.ones((1, 1, 3 if "Transpose" in type(layer).__name__ else 2)))
        assert np.array_equal(layer.backward(y), expected)
