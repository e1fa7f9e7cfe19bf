"""Test `trace --explain` of layers over windows: each formula and each line of numbers gives the value below it."""

import json
import re
import shlex

import numpy as np
import pytest

import specnet
from specnet import inspection
from tests.commands import run_specnet
from tests.support import SPATIAL_LAYERS

NAMES = {name: getattr(np, name) for name in dir(np)} | {"max": max}
EXPLAINED = {name: case for name, case in SPATIAL_LAYERS.items() if "conv" in name or re.search(r"\w_pool\dd", name)}

EDGES = {
    "name": "edges",
    "dtype": "float64",
    "input_shape": [4, 4, 1],
    "layers": [
        {
            "type": "conv2d",
            "name": "edges",
            "filters": 2,
            "kernel_size": 3,
            "weight_init": {
                "type": "values",
                "values": [
                    [[[1, 1]], [[0, 1]], [[-1, 1]]],
                    [[[1, 0]], [[0, 0]], [[-1, 0]]],
                    [[[1, -1]], [[0, -1]], [[-1, -1]]],
                ],
            },
            "bias_init": {"type": "values", "values": [0.5, -1]},
        },
    ],
}
IMAGE = "[[[[1],[2],[0],[1]], [[0],[3],[1],[1]], [[2],[1],[0],[2]], [[1],[0],[3],[1]]]]"
GRADIENT = "[[[[1,0],[0,0]], [[2,0],[0,1]]]]"

FORWARD = """
   The first and the largest output:
   y[0, 0, 0, 0] = (x[0, 0:3, 0:3, 0] * weight[:, :, 0, 0]).sum() + bias[0]
                   [1 2 0]   [1 0 -1]   [1 0  0]
                   [0 3 1] * [1 0 -1] = [0 0 -1]
                   [2 1 0]   [1 0 -1]   [2 0  0]
                 = 1 + 0 + 0 + 0 + 0 - 1 + 2 + 0 + 0 + 0.5
                 = 2.5
"""
BACKWARD = """
   The first element of dweight:
   dweight[0, 0, 0, 0] = (x[0, 0:2, 0:2, 0] * dy[0, :, :, 0]).sum()
                         [1 2] * [1 0] = [1 0]
                         [0 3]   [2 0]   [0 0]
                       = 1 + 0 + 0 + 0
                       = 1
"""
INPUT_GRADIENT = """
   dx[0, 2, 2, 0] = (dy[0, :, :, :] * weight[2:0:-1, 2:0:-1, 0, :]).sum()
                    filter 0: [1 0] * [-1 0] = [-1 0]
                              [2 0]   [-1 0]   [-2 0]
                    filter 1: [0 0] * [-1 -1] = [0 0]
                              [0 1]   [ 0  0]   [0 0]
                  = -1 + 0 - 2 + 0 + 0 + 0 + 0 + 0
                  = -3
"""


def test_trace_explains_a_convolution_with_its_numbers(tmp_path):
    (tmp_path / "edges.json").write_text(json.dumps(EDGES))
    code, out, err = run_specnet("trace", "edges.json", "-i", IMAGE, "--dy", GRADIENT, "--explain", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert FORWARD in out
    assert BACKWARD in out
    assert INPUT_GRADIENT in out
    assert "   y[0, :, :, 0]   y[0, :, :, 1]\n   [ 2.5 2.5]      [-1 -1]\n   [-0.5 0.5]      [-1  0]\n" in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def explained(entry, shape, rows=2):
    """Return the trace of one layer with small integers as numbers, and its explanation."""
    model = specnet.build(specnet.ModelSpec(input_shape=shape, layers=[entry], dtype="float64"))
    rng = np.random.default_rng(4)
    for parameter in model.parameters.values():
        parameter[...] = rng.integers(-3, 4, parameter.shape)
    dy = rng.integers(-3, 4, (rows, *model.output_shape))
    traced = inspection.trace(model, rng.integers(-3, 4, (rows, *shape)), dy=dy)
    return traced.layers[0], inspection.explain(traced)


def elements(text):
    """Yield the explained elements: the target, its formula, the numbers (None if they are the value) and the value."""
    element = r"^ +((?:dweight|y|dx)\[[\d, ]+\]) = (.+)\n((?:.+\n)*)"
    for target, formula, below in re.findall(element, text, re.MULTILINE):
        alone, _, reason = formula.partition(": no product")
        lines = [alone] if reason else re.findall(r"^ += (.+)$", below, re.MULTILINE)
        yield target, alone, lines[-2] if len(lines) > 1 else None, float(lines[-1])


@pytest.mark.parametrize(("entry", "shape"), EXPLAINED.values(), ids=EXPLAINED)
def test_the_formulas_and_numbers_of_an_explanation_give_its_values(entry, shape):
    layer, text = explained(entry, shape)
    arrays = {"x": layer.x, "y": layer.y, "dy": layer.dy, "dx": layer.dx, **layer.parameters}
    arrays |= {f"d{name}": gradient for name, gradient in layer.gradients.items()}
    found = list(elements(text))
    assert {target.partition("[")[0] for target, *_ in found} == {"y", "dx", *(["dweight"] if layer.gradients else [])}
    for target, formula, numbers, value in found:
        exact = eval(target, NAMES, arrays)
        assert eval(formula, NAMES, arrays) == pytest.approx(exact), formula
        assert value == pytest.approx(exact, rel=1e-5)
        if numbers is not None and "the sum of" not in numbers:
            assert eval(numbers, NAMES) == pytest.approx(exact, rel=1e-5), numbers


def test_the_definition_of_a_convolution_holds_for_every_output():
    layer, text = explained(SPATIAL_LAYERS["conv2d, all keys"][0], (7, 8, 4))
    formula = re.search(r"y\[n, p, q, f\] = the sum over i, j, c of (x\[.*?\]) \* (.*) \+ bias\[f\]", text)
    x = np.pad(layer.x, ((0, 0), (1, 2), (0, 0), (0, 0)))  # the first row of the padding has the index 0 here
    place = formula[1].replace(" - 1, ", ", ", 1)
    assert place != formula[1]
    for n, p, q, f in np.ndindex(layer.y.shape):
        total = layer.parameters["bias"][f]
        for i, j, c in np.ndindex(3, 2, 2):
            indices = {"n": n, "p": p, "q": q, "f": f, "i": i, "j": j, "c": c}
            arrays = {"x": x, "weight": layer.parameters["weight"]}
            total += eval(place, arrays, indices) * eval(formula[2], arrays, indices)
        assert total == pytest.approx(layer.y[n, p, q, f])


def test_an_explanation_of_large_arrays_is_short():
    entry = {"type": "conv2d", "filters": 64, "kernel_size": 7, "stride": 2}
    text = explained(entry, (40, 40, 16), rows=1)[1]
    assert len(text) < 2500
    assert "(the sum of each channel, and the bias)" in text
    assert "(the sum of 289 products)" in text
    text = explained({**entry, "kernel_size": 3}, (40, 40, 16), rows=1)[1]
    assert "channel 1: [" in text
    assert "... and 14 more channels" in text


OTHERS = {name: case for name, case in SPATIAL_LAYERS.items() if name not in EXPLAINED}


@pytest.mark.parametrize(("entry", "shape"), OTHERS.values(), ids=OTHERS)
def test_the_formulas_of_other_layers_over_positions_give_their_values(entry, shape):
    layer, text = explained(entry, shape)
    for name, formula in layer.formulas.items():
        computed = {"y": layer.y, "dx": layer.dx}[name]
        assert np.allclose(eval(formula, NAMES, {"x": layer.x, "y": layer.y, "dy": layer.dy}), computed), formula
        assert f"{name} = {formula}" in text
    if "linear" not in str(entry) and entry["type"] != "channel_dropout":
        assert "y" in layer.formulas


def test_images_are_shown_as_grids_and_vectors_on_a_line():
    _, text = explained({"type": "relu"}, (2, 2, 1), rows=1)
    assert re.search(r"y = maximum\(x, 0\)\n   y\[0, :, :, 0\]\n   \[.+\]\n   \[.+\]\n", text)
    _, text = explained({"type": "relu"}, (2,), rows=1)
    assert re.search(r"y = maximum\(x, 0\)\n     = maximum\(\[\[.+\]\], 0\)\n     = \[\[.+\]\]\n", text)


def test_a_window_of_padding_alone_is_explained():
    entry = {"type": "conv1d", "filters": 1, "kernel_size": 2, "padding": 2}
    _, text = explained(entry, (3, 1), rows=1)
    assert re.search(r"y\[0, 0, 0\] = \S+: no product contributes to it", text)


@pytest.mark.parametrize(("model", "mark"), [("edges", "convolution"), ("memory", "recurrent step")])
def test_the_documentation_shows_the_output_of_the_command(root, tmp_path, model, mark):
    page = (root / "docs/inspection.md").read_text()
    document = page.split(f"With this document, `{model}.model.json`,\n\n```json\n")[1].split("```")[0]
    (tmp_path / f"{model}.model.json").write_text(document)
    (line,) = re.findall(rf"^    specnet (trace {model}.*--explain.*)$", page, re.MULTILINE)
    shown = page.split(f"<!-- explained {mark} -->\n```text\n")[1].split("```")[0]
    assert run_specnet(*shlex.split(line), cwd=tmp_path) == (0, shown, "")
