"""What the tests of the compiled kernels share: valid arguments of each, and work with and without them."""

import numpy as np
import pytest

from specnet import kernels

needs_kernels = pytest.mark.skipif(
    kernels.backend() == "numpy", reason="no kernels were built when specnet was installed, or they are switched off"
)
SPECIAL_VALUES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-320, 3e38, -1.5, 1e-20]

WRITTEN = {
    "sgd": (0,),
    "momentum": (0, 2),
    "adam": (0, 2, 3),
    "rmsprop": (0, 2),
    "rmsprop_momentum": (0, 2, 3),
    "adagrad": (0, 2),
    "lion": (0, 2),
    "add_bias": (0,),
    "affine_row": (3,),
    "dense_row": (1,),
    "relu": (1,),
    "relu_backward": (2,),
    "multiply": (2,),
    "activation": (1,),
    "activation_slope": (1, 2),
    "prelu": (1,),
    "prelu_backward": (2,),
    "standardize": (1,),
    "normalize": (1,),
    "sum_rows": (1,),
    "sum_product": (2,),
    "sum_negative": (2,),
    "batch_norm": (3, 4, 5, 6, 7),
    "batch_norm_backward": (4, 5, 6),
    "batch_norm_relu_backward": (4, 5, 6),
    "layer_norm": (3, 4, 5),
    "rms_norm": (2, 3, 4),
    "row_norm_backward": (4,),
    "softmax": (1,),
    "dropout": (1, 2),
    "gather": (2,),
    "cross_entropy": (2,),
    "convolve": (3,),
    "convolve_back": (3,),
    "convolve_weight": (2,),
    "max_pool": (1,),
    "max_pool_backward": (2,),
    "average_pool": (1,),
    "average_pool_backward": (1,),
    "matmul": (2,),
    "lstm": (5, 6, 7),
    "lstm_backward": (0, 5),
    "gru": (6, 7, 8),
    "gru_backward": (0, 6, 7),
    "attention": (3, 4),
    "attention_backward": (4,),
}
"""All kernels, with the positions of the arguments that each writes."""

OPTIONAL = {
    "convolve": (2,),
    "convolve_back": (2,),
    "lstm": (3, 4),
    "lstm_backward": (1,),
    "gru": (3, 4, 5),
    "gru_backward": (1,),
    "attention": (1, 2),
    "attention_backward": (1,),
}
"""The positions of arguments that may be empty: a bias, or which steps count."""

IN_PLACE = {
    "relu": 1,
    "relu_backward": 2,
    "multiply": 2,
    "activation": 1,
    "activation_slope": 1,
    "normalize": 1,
    "batch_norm": 4,
    "batch_norm_backward": 6,
    "batch_norm_relu_backward": 6,
    "layer_norm": 5,
    "rms_norm": 4,
    "row_norm_backward": 4,
    "dropout": 2,
}
"""The kernels that may write into an array that they read, with the position of the written one."""


def valid_arguments(name, rows=4, width=3, dtype=np.float32, seed=None):
    """Return arguments that a kernel accepts: ones, or random positive numbers with a seed."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return np.ones(shape, dtype) if seed is None else rng.uniform(0.1, 2, shape).astype(dtype)

    matrices = [array(rows, width) for _ in range(4)]
    vectors = [array(width) for _ in range(5)]
    column, classes = array(rows, 1), np.arange(rows) % width
    images, filtered, pooled = array(2, rows, 3, width), array(2, rows, 2, 2), array(2, rows // 2, 1, width)
    weight, geometry, pool = array(2, 2, width, 2), np.array([1, 1, 1, 1, 1, 0, 1]), np.array([2, 2, 2, 2, 0, 0, 0])
    counts = array(2, rows)
    length = min(rows, 50)
    projected, heads, joined = array(2 * length, 6 * width), array(2, 2, length, length), array(2 * length, 2 * width)

    def steps(count, units):
        return array(count, rows, units)

    return {
        "sgd": [*matrices[:2], array(2)],
        "momentum": [*matrices[:3], array(4)],
        "adam": [*matrices, array(6)],
        "rmsprop": [*matrices[:3], array(6)],
        "rmsprop_momentum": [*matrices, array(6)],
        "adagrad": [*matrices[:3], array(3)],
        "lion": [*matrices[:3], array(5)],
        "add_bias": [matrices[0], vectors[0]],
        "affine_row": [array(1, rows), matrices[0], vectors[0], array(1, width)],
        "dense_row": [array(1, rows), array(1, 2), 1, matrices[0], vectors[0], array(width, 2), array(2)],
        "relu": matrices[:2],
        "relu_backward": matrices[:3],
        "multiply": matrices[:3],
        "activation": [*matrices[:2], 7, 1.5, 0.5],
        "activation_slope": [*matrices[:3], 7, 1.5, 0.5],
        "prelu": [*matrices[:2], vectors[0]],
        "prelu_backward": [*matrices[:3], vectors[0]],
        "standardize": [*matrices[:2], *vectors[:2]],
        "normalize": [*matrices[:2], *vectors[:3], 1],
        "sum_rows": [matrices[0], vectors[0]],
        "sum_product": [*matrices[:2], vectors[0]],
        "sum_negative": [*matrices[:2], vectors[0]],
        "batch_norm": [matrices[0], *vectors[:2], *matrices[1:3], *vectors[2:], 1e-5, 1, 0.1],
        "batch_norm_backward": [*matrices[:2], *vectors[:4], matrices[2]],
        "batch_norm_relu_backward": [*matrices[:2], *vectors[:4], *matrices[2:]],
        "layer_norm": [matrices[0], *vectors[:2], matrices[1], column, matrices[2], 1e-5],
        "rms_norm": [matrices[0], vectors[0], matrices[1], column, matrices[2], 1e-5],
        "row_norm_backward": [*matrices[:2], vectors[0], column, matrices[2], 1],
        "softmax": matrices[:2],
        "dropout": [*matrices[:3], np.arange(4), 2.0**31, 2.0],
        "gather": [matrices[0], classes, matrices[1]],
        "cross_entropy": [matrices[0], classes, matrices[1], 0.1],
        "convolve": [images, weight, array(2), filtered, geometry, 1],
        "convolve_back": [filtered, weight, vectors[0], images, geometry],
        "convolve_weight": [images, filtered, weight, geometry],
        "max_pool": [images, pooled, pool],
        "max_pool_backward": [images, pooled, array(2, rows, 3, width), pool],
        "average_pool": [images, pooled, pool],
        "average_pool_backward": [pooled, images, pool],
        "matmul": [matrices[0], array(rows, 2), array(width, 2), 1],
        "lstm": [
            *(steps(2, width), array(width, 8), array(2, 8), array(8), counts),
            *(steps(2, 8), steps(3, 2), steps(3, 2)),
        ],
        "lstm_backward": [steps(2, 2), counts, steps(2, 8), steps(3, 2), array(2, 8), steps(2, 8), 0],
        "gru": [
            *(steps(2, width), array(width, 6), array(2, 6), array(6), array(2), counts),
            *(steps(2, 6), steps(2, 2), steps(3, 2)),
        ],
        "gru_backward": [
            *(steps(2, 2), counts, steps(2, 6), steps(2, 2), steps(3, 2), array(2, 6), steps(2, 6), steps(2, 6), 0)
        ],
        "attention": [projected, array(2, length), array(*heads.shape), heads, joined, 2, 1],
        "attention_backward": [projected, array(*heads.shape), heads, joined, array(2 * length, 6 * width), 2],
    }[name]


def refusal(name):
    return None if name == "cross_entropy" else False


def run_with_and_without_kernels(work):
    """Run `work` with and without kernels; return both results and the names of the kernels that computed something."""
    with pytest.MonkeyPatch.context() as patch:
        used = set()
        for name in WRITTEN:
            patch.setattr(kernels, name, recording(getattr(kernels, name), name, used))
        compiled = work()
    with pytest.MonkeyPatch.context() as patch:
        switch_off(patch)
        plain = work()
    return compiled, plain, used


def recording(kernel, name, used):
    """Wrap a kernel so that it adds its name to `used` when it computes something."""

    def call(*arrays):
        result = kernel(*arrays)
        if result is not None and result is not False:
            used.add(name)
        return result

    return call


def random_array(rng, shape, dtype, special):
    """Draw normal values, one of them replaced by a special value if `special` is true."""
    array = rng.normal(size=shape).astype(dtype)
    if special and array.size:
        with np.errstate(over="ignore"):
            array.reshape(-1)[rng.integers(array.size)] = np.array(rng.choice(SPECIAL_VALUES)).astype(dtype)
    return array


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))  # the bits of NaNs may differ
    assert same.all()
    assert np.array_equal(np.signbit(actual[~np.isnan(actual)]), np.signbit(expected[~np.isnan(expected)]))


def switch_off(patch):
    """Let layers, losses and optimizers use numpy instead of kernels."""
    for name in WRITTEN:
        patch.setattr(kernels, name, kernels._return_none if name == "cross_entropy" else kernels._return_false)
