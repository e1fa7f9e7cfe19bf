"""Test the multiply-adds of a model: in `summary`, in notebooks, and against the products that layers compute."""

import json

import numpy as np
import pytest

import specnet
from tests.commands import run_specnet

LENET_5 = {
    "name": "lenet-5",
    "input_shape": [32, 32, 1],
    "layers": [
        {"type": "conv2d", "filters": 6, "kernel_size": 5},
        {"type": "tanh"},
        {"type": "average_pool2d"},
        {"type": "conv2d", "filters": 16, "kernel_size": 5},
        {"type": "tanh"},
        {"type": "average_pool2d"},
        {"type": "flatten"},
        {"type": "affine", "units": 120},
        {"type": "tanh"},
        {"type": "affine", "units": 84},
        {"type": "tanh"},
        {"type": "affine", "units": 10},
    ],
}
COUNTS = [117_600, 0, 0, 240_000, 0, 0, 0, 48_000, 0, 10_080, 0, 840]
"""What textbooks give for LeNet-5 whose second convolution is connected to all channels: 416,520 in all."""


def summary(folder, document, *options):
    (folder / "m.json").write_text(json.dumps(document))
    code, out, err = run_specnet("summary", "m.json", *options, cwd=folder)
    assert (code, err) == (0, "")
    return out


def test_summary_counts_the_multiply_adds_of_lenet(tmp_path):
    out = summary(tmp_path, LENET_5)
    lines = [line for line in out.splitlines() if line.startswith(("conv2d", "tanh", "average", "flatten", "affine"))]
    assert [line.split()[-1] for line in lines] == [f"{count:,}" for count in COUNTS]
    assert "416,520 multiply-adds per input" in out
    result = json.loads(summary(tmp_path, LENET_5, "--json"))
    assert [layer["multiply_adds"] for layer in result["layers"]] == COUNTS
    assert result["multiply_adds"] == 416_520


def test_a_composite_counts_the_layers_inside_it_once(tmp_path):
    inner = [{"type": "affine", "units": 3}, {"type": "sequential", "layers": [{"type": "affine", "units": 4}]}]
    spec = specnet.ModelSpec(input_shape=(4,), layers=[{"type": "residual", "name": "block", "layers": inner}])
    assert spec.multiply_adds == 4 * 3 + 3 * 4
    html = spec._repr_html_()
    assert "24 multiply-adds per input" in html
    assert "<td>block</td><td>residual</td><td>(batch, 4)</td>" in html
    result = json.loads(summary(tmp_path, spec.model_dump(mode="json"), "--json"))
    assert [layer["multiply_adds"] for layer in result["layers"]] == [None, 12, None, 12]
    assert result["multiply_adds"] == 24


LAYERS = [
    ({"type": "affine", "units": 3}, (4,)),
    ({"type": "affine", "units": 3}, (2, 4)),
    ({"type": "conv1d", "filters": 3, "kernel_size": 2, "stride": 2}, (7, 2)),
    ({"type": "conv2d", "filters": 4, "kernel_size": [3, 2], "dilation": [1, 2], "groups": 2}, (5, 6, 4)),
    ({"type": "conv2d", "filters": 3, "kernel_size": 2, "groups": 3, "stride": [1, 2]}, (4, 5, 3)),
    ({"type": "conv_transpose1d", "filters": 3, "kernel_size": 3}, (4, 2)),
    ({"type": "conv_transpose2d", "filters": 4, "kernel_size": 2, "stride": 3, "groups": 2}, (2, 3, 2)),
]


@pytest.mark.parametrize(("entry", "shape"), LAYERS)
def test_the_multiply_adds_are_the_products_that_the_layer_computes(entry, shape):
    """Without padding and with positive weights, each product is one connection of an input with an output."""
    model = specnet.build(specnet.ModelSpec(input_shape=shape, layers=[{**entry, "bias": False}]))
    for parameter in model.parameters.values():
        parameter[...] = 1
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    assert model.spec.multiply_adds == np.count_nonzero(model.predict(units))


def test_products_with_padding_count():
    layers = [{"type": "conv1d", "filters": 3, "kernel_size": 5, "padding": "same"}]
    assert specnet.ModelSpec(input_shape=(8, 2), layers=layers).multiply_adds == 8 * 5 * 2 * 3
