"""Initializers: their distributions, and what their values depend on."""

import math

import numpy as np
import pytest

import specnet
from specnet import initializers
from tests.support import model_of

SHAPE = (400, 300)
VARIANCE = {
    "he_normal": 2 / 400,
    "he_uniform": 2 / 400,
    "glorot_normal": 2 / 700,
    "glorot_uniform": 2 / 700,
    "lecun_normal": 1 / 400,
}


@pytest.mark.parametrize("name", VARIANCE)
def test_mean_and_variance_match_the_formula(name):
    weights = initializers.draw(name, 0, "w", SHAPE)
    assert weights.dtype == np.float64
    assert abs(weights.mean()) < 5 * math.sqrt(VARIANCE[name] / weights.size)
    assert weights.var() == pytest.approx(VARIANCE[name], rel=0.02)
    if name.endswith("uniform"):
        assert np.abs(weights).max() <= math.sqrt(3 * VARIANCE[name])


@pytest.mark.parametrize("shape", [(5, 5), (30, 7), (7, 30)])
def test_orthogonal_matrices_are_orthogonal(shape):
    weights = initializers.draw("orthogonal", 0, "w", shape)
    gram = weights.T @ weights if shape[0] >= shape[1] else weights @ weights.T
    assert np.allclose(gram, np.eye(min(shape)), atol=1e-12)


@pytest.mark.parametrize(
    ("document", "check"),
    [
        ("zeros", lambda w: not w.any()),
        ("ones", lambda w: (w == 1).all()),
        ({"type": "constant", "value": 0.25}, lambda w: (w == 0.25).all()),
        ({"type": "normal", "std": 3}, lambda w: abs(w.std() - 3) < 0.2),
        ({"type": "normal", "std": 0}, lambda w: not w.any()),
        ({"type": "uniform", "low": 2, "high": 4}, lambda w: w.min() >= 2 and w.max() < 4 and abs(w.mean() - 3) < 0.1),
    ],
)
def test_initializers_in_documents(document, check):
    model = model_of({"type": "affine", "units": 40, "weight_init": document}, input_shape=(50,))
    assert check(model.parameters["affine_1.weight"])


def test_explicit_values_are_used():
    values = [[1, 3, 5], [2, 4, 6]]
    entry = {"type": "affine", "units": 3, "weight_init": {"type": "values", "values": values}}
    assert model_of(entry, input_shape=(2,)).parameters["affine_1.weight"].tolist() == values
    entry["weight_init"]["values"] = np.array(values)
    assert model_of(entry, input_shape=(2,)).parameters["affine_1.weight"].tolist() == values


def test_a_parameter_depends_only_on_seed_and_name():
    short = model_of({"type": "affine", "name": "a", "units": 4, "weight_init": "he_normal"})
    longer = model_of(
        {"type": "affine", "name": "a", "units": 4, "weight_init": "he_normal"}, {"type": "affine", "units": 3}
    )
    other = model_of({"type": "affine", "name": "b", "units": 4, "weight_init": "he_normal"})
    weight = short.parameters["a.weight"]
    assert np.array_equal(weight, longer.parameters["a.weight"])
    assert not np.array_equal(weight, other.parameters["b.weight"])
    rebuilt = specnet.build(short.spec)
    assert np.array_equal(weight, rebuilt.parameters["a.weight"])
    reseeded = specnet.build(short.spec, seed=7)
    assert reseeded.spec.seed == 7
    assert not np.array_equal(weight, reseeded.parameters["a.weight"])


def test_float32_is_float64_rounded():
    entry = {"type": "affine", "units": 4}
    double, single = model_of(entry), model_of(entry, dtype="float32")
    assert np.array_equal(double.parameters["affine_1.weight"].astype("f4"), single.parameters["affine_1.weight"])


def test_fans_of_a_kernel_follow_from_its_shape_or_are_given():
    shape = (3, 3, 16, 32)
    assert initializers.fans_of(shape) == (144, 288)
    drawn = specnet.ParameterSpec("he_normal").draw(0, "kernel", shape)
    assert drawn.std() == pytest.approx(np.sqrt(2 / 144), rel=0.03)
    given = specnet.ParameterSpec("he_normal", fans=(16, 32)).draw(0, "kernel", shape)
    assert np.allclose(given, drawn * 3)
    assert initializers.fans_of((7, 5)) == (7, 5)
    assert initializers.fans_of((7,)) == (7, 7)
