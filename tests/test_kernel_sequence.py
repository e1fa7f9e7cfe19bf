"""The kernels of recurrent layers and attention: numpy's results for random sizes, the same bits for a row alone."""

import random

import numpy as np
import pytest

from specnet import kernels
from specnet.layers import Attention, Gru, Lstm
from tests.kernel_support import needs_kernels, run_with_and_without_kernels

pytestmark = needs_kernels
SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65)


def random_layer(kind, choices, rng, dtype):
    """Return a layer, the features and whether it is recurrent."""
    if kind == "attention":
        features, heads, size = choices.choice(SIZES[:6]), choices.choice((1, 2, 5)), choices.choice(SIZES[:-2])
        width = heads * size
        shapes = [(features, width)] * 3 + [(width, features)] + [(width,)] * 3 + [(features,)]
        arrays = [(rng.normal(size=shape) / shape[0] ** 0.5).astype(dtype) for shape in shapes]
        dropout = choices.choice((0.0, 0.3))
        return Attention(*arrays, heads=heads, causal=choices.random() < 0.5, dropout=dropout), features
    cls = {"lstm": Lstm, "gru": Gru}[kind]
    features, units = choices.choice(SIZES[:8]), choices.choice(SIZES)
    shapes = [(features, cls.gates * units), (units, cls.gates * units)]
    if choices.random() < 0.8:
        shapes += [(cls.gates * units,), *([(units,)] if kind == "gru" else [])]
    arrays = [(rng.normal(size=shape) / shape[0] ** 0.5).astype(dtype) for shape in shapes]
    options = {name: choices.random() < 0.5 for name in ("return_sequences", "reverse")}
    return cls(*arrays, truncate=choices.choice((None, None, 2, 5)), **options), features


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "attention"])
def test_random_sizes_give_what_numpy_gives(kind, dtype, full):
    choices, rng = random.Random(7), np.random.default_rng(7)
    for number in range(200 if full else 25):
        layer, features = random_layer(kind, choices, rng, dtype)
        batch, steps = choices.choice(SIZES[:-2]), choices.choice(SIZES[:9])
        x = rng.normal(size=(batch, steps, features)).astype(dtype)
        mask = rng.random((batch, steps)) < 0.6 if choices.random() < 0.5 else None
        dy = rng.normal(size=layer.forward(x).shape).astype(dtype)

        def work(layer=layer, x=x, mask=mask, dy=dy):
            layer.forward(x, training=True, mask=mask)
            results = [layer.backward(dy), *(gradient.copy() for gradient in layer.gradients.values())]
            return [layer.forward(x, mask=mask), *results, layer.predict(x, mask=mask)]

        compiled, plain, used = run_with_and_without_kernels(work)
        assert used >= {kind, f"{kind}_backward"}
        tolerance = 2e-5 if dtype == "float32" else 1e-13
        largest = max(np.abs(expected).max() for expected in plain)  # the gradient of key_bias is rounding alone
        for actual, expected in zip(compiled, plain, strict=True):
            assert np.abs(actual - expected).max() <= tolerance * max(largest, 1), (number, actual.shape)
        assert compiled[-1].tobytes() == compiled[0].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_random_sizes(dtype, full):
    choices, rng = random.Random(9), np.random.default_rng(9)
    for _ in range(300 if full else 60):
        rows, depth, columns = (choices.choice((*SIZES, 300)) for _ in range(3))
        depth = choices.choice((depth, 5000)) if rows * columns < 2000 else depth
        a, b = rng.normal(size=(rows, depth)).astype(dtype), rng.normal(size=(depth, columns)).astype(dtype)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        for kind, (left, right) in enumerate(((a, b), (np.ascontiguousarray(a.T), b), (a, np.ascontiguousarray(b.T)))):
            out = np.full((rows, columns), np.nan, dtype)
            assert kernels.matmul(left, right, out, kind)
            largest = max(np.abs(expected).max(), 1)
            assert np.abs(out - expected).max() < (2e-6 if dtype == "float32" else 1e-14) * largest * depth**0.5, kind


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_row_has_the_same_bits_in_every_batch(kind):
    choices, rng = random.Random(8), np.random.default_rng(8)
    for _ in range(10):
        layer, features = random_layer(kind, choices, rng, "float32")
        x = rng.normal(size=(40, 9, features)).astype(np.float32)
        y = layer.predict(x)
        for rows in (slice(0, 1), slice(7, 20), slice(39, 40)):
            assert layer.predict(x[rows]).tobytes() == y[rows].tobytes()
