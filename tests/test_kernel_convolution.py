"""The kernels of convolution compute the sums of their definition for random geometries."""

import random

import numpy as np
import pytest

from specnet import kernels
from tests.kernel_support import needs_kernels

pytestmark = needs_kernels


def random_case(rng, arrays):
    """Draw x, weight, bias, dy and the geometry, of which some sizes do not fill vectors, tiles or blocks."""
    groups = rng.choice([1, 1, 1, 2, 3, 4])
    channels, filters = groups * rng.choice([1, 2, 3, 5, 16, 33]), groups * rng.choice([1, 2, 5, 8, 9, 16, 17, 40])
    if rng.random() < 0.3:
        groups = channels = filters = rng.choice([3, 5, 16, 20, 40])
    kernel, stride, dilation = ((rng.randint(1, 4), rng.randint(1, most)) for most in (5, 3, 3))
    stride = (rng.randint(1, 3), stride[1])
    padding = rng.randint(0, 4), rng.randint(0, 4)
    images = rng.choice([1, 2, 3, 20])
    dtype = rng.choice([np.float32, np.float64])
    shapes = [
        (images, rng.randint(1, 9), rng.randint(1, 20), channels),
        (*kernel, channels // groups, filters),
        (filters,),
        (images, rng.randint(1, 8), rng.randint(1, 12), filters),
    ]
    geometry = np.array([*stride, *dilation, *padding, groups])
    return [arrays.normal(size=shape).astype(dtype) for shape in shapes], geometry


def by_definition(x, weight, dy, geometry):
    """Return y, dx and dweight in float64, one position of the kernel after the other."""
    down, right, apart_down, apart_right, top, left, groups = geometry.tolist()
    images, height, width, channels = x.shape
    _, rows, columns, filters = dy.shape
    padded = np.zeros(
        (images, top + height + rows * down + 16, left + width + columns * right + 16, channels), np.float64
    )
    inside = np.s_[:, top : top + height, left : left + width]
    padded[inside] = x
    y, dpadded, dweight = np.zeros(dy.shape), np.zeros_like(padded), np.zeros(weight.shape)
    for i, j in np.ndindex(*weight.shape[:2]):
        at = np.s_[
            :,
            i * apart_down : i * apart_down + rows * down : down,
            j * apart_right : j * apart_right + columns * right : right,
        ]
        for group in range(groups):
            taken = slice(group * channels // groups, (group + 1) * channels // groups)
            made = slice(group * filters // groups, (group + 1) * filters // groups)
            part = weight[i, j, :, made].astype(np.float64)
            y[..., made] += padded[at][..., taken] @ part
            dpadded[(*at, taken)] += dy[..., made] @ part.T
            dweight[i, j, :, made] = np.tensordot(padded[at][..., taken], dy[..., made], ([0, 1, 2], [0, 1, 2]))
    return y, dpadded[inside], dweight


def test_random_convolutions_are_the_sums_of_their_definition(full):
    rng, arrays = random.Random(1), np.random.default_rng(1)
    for _ in range(3000 if full else 300):
        (x, weight, bias, dy), geometry = random_case(rng, arrays)
        y, dx, dweight = by_definition(x, weight, dy, geometry)
        rtol = 1e-4 if x.dtype == np.float32 else 1e-11
        none = np.empty(0, x.dtype)
        out, back, gradient = np.empty_like(dy), np.empty_like(x), np.empty_like(weight)
        assert kernels.convolve(x, weight, bias, out, geometry, 0)
        assert np.allclose(out, y + bias, rtol=rtol, atol=30 * rtol), (x.shape, weight.shape, geometry)
        assert kernels.convolve(x, weight, none, out, geometry, 1)
        assert np.allclose(out, np.maximum(y, 0), rtol=rtol, atol=30 * rtol)
        assert kernels.convolve_back(dy, weight, none, back, geometry)
        assert np.allclose(back, dx, rtol=rtol, atol=30 * rtol), (x.shape, weight.shape, geometry)
        assert kernels.convolve_weight(x, dy, gradient, geometry)
        assert np.allclose(gradient, dweight, rtol=10 * rtol, atol=100 * rtol), (x.shape, weight.shape, geometry)


@pytest.mark.parametrize("rectified", [0, 1])
def test_special_values_pass_as_in_numpy(rectified):
    x = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 2.0]).reshape(1, 1, 6, 1)
    y = np.empty_like(x)
    geometry = np.array([1, 1, 1, 1, 0, 0, 1])
    assert kernels.convolve(x, np.ones((1, 1, 1, 1)), np.zeros(1), y, geometry, rectified)
    assert np.array_equal(y, np.maximum(x, 0) if rectified else x, equal_nan=True)


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 1, 1, 1, 0, 0, 1],
        [1, 1, 0, 1, 0, 0, 1],
        [1, 1, 1, 1, -1, 0, 1],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 2],
        [1, 2**62, 1, 1, 0, 0, 1],
        [1, 1, 1, 2**31, 0, 0, 1],
        [1, 1, 1, 1, 0, 2**40, 1],
    ],
)
def test_impossible_geometries_are_refused(numbers):
    x, weight, y = np.ones((2, 4, 5, 3)), np.ones((2, 2, 3, 4)), np.ones((2, 3, 4, 4))
    geometry = np.array(numbers)
    assert not kernels.convolve(x, weight, np.ones(4), y, geometry, 0)
    assert not kernels.convolve_back(y, weight, np.ones(3), x, geometry)
    assert not kernels.convolve_weight(x, y, weight, geometry)
    assert (x == 1).all()
    assert (y == 1).all()


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 1, 1, 1, 0, 0, 0],
        [2, 2, 1, 1, 2, 0, 0],
        [2, 2, 5, 1, 0, 0, 0],
        [2, 2, 1, 1, -1, 0, 0],
        [2**40, 2, 1, 1, 0, 0, 0],
    ],
)
def test_windows_of_pools_without_a_position_are_refused(numbers):
    x, y, settings = np.ones((2, 4, 5, 3)), np.ones((2, 3, 4, 3)), np.array(numbers)
    assert not kernels.max_pool(x, y, settings)
    assert not kernels.max_pool_backward(x, y, x.copy(), settings)
    assert not kernels.average_pool(x, y, settings)
    assert not kernels.average_pool_backward(y, x, settings)
