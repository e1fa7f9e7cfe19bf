"""Test `trace --explain` of layers over sequences: each equation holds for its arrays and for its numbers."""

import re

import numpy as np
import pytest

import specnet
from specnet import inspection
from tests.commands import run_specnet
from tests.support import SEQUENCE_LAYERS

FUNCTIONS = {name: getattr(np, name) for name in ("tanh", "exp", "sqrt", "maximum", "array", "inf")}
FUNCTIONS["sigmoid"] = lambda x: 1 / (1 + np.exp(-x))
STEPS = {k: case for k, case in SEQUENCE_LAYERS.items() if re.match("simple_rnn|lstm|gru|attention", k)}
NUMBERS = re.compile(r"(?<![\w\]])\[[-\d][-\d., einf]*\]")
FIRST = {"simple_rnn": "s", "lstm": "i", "gru": "r", "attention": "scores"}


def explained(entry, shape, x=None, dtype="float64", before=(), training=False):
    """Return the trace of the last layer with simple numbers as weights, and its explanation."""
    model = specnet.build(specnet.ModelSpec(input_shape=shape, layers=[*before, entry], dtype=dtype))
    rng = np.random.default_rng(4)
    for parameter in model.parameters.values():
        parameter[...] = rng.normal(size=parameter.shape).round(1) / 2
    x = rng.integers(-2, 3, (2, *shape)) if x is None else x
    dy = rng.integers(1, 4, (len(x), *model.output_shape))
    traced = inspection.trace(model, x, dy=dy, training=training)
    return traced.layers[-1], inspection.explain(traced)


def equations(text):
    """Return target and right sides of the equations of the explained steps, forward and backward."""
    found = []
    for block in re.findall(r"^ +Sequence .+\n((?:.+\n)+)", text, re.MULTILINE):
        for line in block.splitlines():
            if match := re.match(r" +(\w+(?:\[[\d, ]+\])?(?: before)?|its share of \S+ 0\]) = (.+)$", line):
                found.append((match[1], [match[2]]))
            elif match := re.match(r" {4,}= (.+)$", line):
                found[-1][1].append(match[1])
    return found


def evaluated(side, names):
    side = re.sub(r"(\]), [a-z].*$", r"\1", side)  # a remark
    return eval(NUMBERS.sub(lambda match: f"array({match[0]})", side), FUNCTIONS, names)


def check(layer, text):
    """Compare all sides of all equations, and the arrays of the trace with the equations for their elements."""
    arrays = {"x": layer.x, "y": layer.y, "dy": layer.dy, "dx": layer.dx, **layer.parameters}
    names, compared = dict(arrays), []
    if layer.type == "attention":
        size = layer.parameters["query"].shape[1] // layer.fields["heads"]
        n = int(re.search(r"Sequence (\d), head 0", text)[1])
        for name, weight in (("K", "key"), ("V", "value")):
            bias = layer.parameters.get(f"{weight}_bias", 0)
            names[name] = (layer.x[n] @ layer.parameters[weight] + bias)[:, :size]
    for target, sides in equations(text):
        name = target.partition("[")[0]
        value = np.asarray(evaluated(sides[-1], names))
        for side in sides[:-1]:
            if "array of shape" not in side and "and those of padding" not in side:
                seen = np.isfinite(value)
                assert np.allclose(np.asarray(evaluated(side, names))[seen], value[seen], rtol=2e-4, atol=2e-5), side
        if name in arrays and target != name:
            assert np.allclose(eval(target, FUNCTIONS, arrays), value, rtol=2e-5, atol=1e-7), target
        names[target] = value
        compared.append(target)
    return compared


@pytest.mark.parametrize(("entry", "shape"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_equations_of_a_step_give_the_numbers_of_the_trace(entry, shape, dtype):
    layer, text = explained(entry, shape, dtype=dtype)
    compared = check(layer, text)
    assert FIRST[layer.type] in compared
    assert any(target.startswith("y[") for target in compared)
    assert ("dq" if layer.type == "attention" else "d_sums") in compared
    assert any(target.startswith("dx[") for target in compared) == (layer.type != "attention")
    assert ("dh[0] before" in compared) == (shape[0] > 1 and layer.type != "attention")


def padded(steps, features):
    """Return three sequences of different length, with 0 as padding: none, all but one step, two steps."""
    x = np.random.default_rng(1).integers(1, 4, (3, steps, features))
    x[0], x[1, 1:], x[2, -2:] = 0, 0, 0
    return x


@pytest.mark.parametrize(("entry", "shape"), STEPS.values(), ids=STEPS)
def test_a_masked_step_is_the_last_that_counts(entry, shape):
    x = padded(6, shape[1])[[0, 2]]
    layer, text = explained(entry, (6, shape[1]), x=x, before=[{"type": "mask"}])
    assert layer.mask.sum(axis=1).tolist() == [0, 4]
    check(layer, text)
    reverse = layer.fields.get("reverse")
    assert f"Sequence 1, {'head 0, the query of ' * (layer.type == 'attention')}step {0 if reverse else 3}" in text
    if layer.type == "attention":
        assert "The score is -inf at steps that it does not see: 4, 5" in text
    elif layer.fields["return_sequences"] and not reverse:
        assert "and those of padding" in text
        dh = float(re.search(r"dh = .+\n +=.* (\S+)\n", text)[1])
        assert dh == layer.dy[1, 3:, 0].sum()


def test_a_batch_of_padding_alone_is_explained():
    for entry in ({"type": "lstm", "units": 2}, {"type": "attention", "heads": 1}):
        layer, text = explained(entry, (3, 2), x=np.zeros((1, 3, 2)), before=[{"type": "mask"}])
        assert "Sequence" not in text
        assert layer.name in text


@pytest.mark.parametrize(("truncate", "is_cut"), [(3, True), (2, False)])
def test_a_cut_gradient_is_said_to_be_cut(truncate, is_cut):
    _, text = explained({"type": "gru", "units": 2, "truncate": truncate}, (4, 2))
    assert (f"No gradient goes to the step before, as truncate is {truncate}." in text) == is_cut
    assert ("dh[0] before" in text) != is_cut


def test_the_attention_of_a_pass_with_dropout_is_said_to_be_another():
    entry = {"type": "attention", "heads": 1, "dropout": 0.5}
    assert "Dropout has changed the attention" not in explained(entry, (4, 2))[1]
    layer, text = explained(entry, (4, 2), training=True)
    assert "Dropout has changed the attention" in text
    check(layer, text)


def test_an_explanation_of_long_sequences_is_short():
    _, text = explained({"type": "lstm", "units": 64}, (64, 16))
    assert len(text) < 6000
    assert "sigmoid(x[0, 63] @ weight[:, 0] + h @ recurrent_weight[:, 0] + bias[0])\n     = sigmoid(" in text
    layer, text = explained({"type": "attention", "heads": 4}, (64, 16))
    assert len(text) < 4000
    x = layer.x.astype(float)[0]
    q, k = (x @ layer.parameters[name] + layer.parameters[f"{name}_bias"] for name in ("query", "key"))
    scores = k[:, :4] @ q[-1, :4]
    assert f"Most goes to step {scores.argmax()} (" in text


def test_other_layers_over_sequences_are_explained_in_words():
    x = padded(4, 3)
    text = explained({"type": "last_step"}, (4, 3), x=x, before=[{"type": "mask"}])[1]
    assert "Of 4 steps, so many of each sequence count: 0, 1, 2" in text
    assert "y[n] = x[n, the last step that counts]: none, 0, 1; 0 if none does" in text
    text = explained({"type": "time_average"}, (4, 3), x=x, before=[{"type": "mask"}])[1]
    assert "the mean of x[n] over the steps that count, so many: 0, 1, 2; 0 if none does" in text
    assert "y = x[:, -1]" in explained({"type": "last_step"}, (4, 3))[1]
    assert "dx[n, t] = dy[n] / 4" in explained({"type": "time_average"}, (4, 3))[1]
    text = explained({"type": "bidirectional", "layers": [{"type": "gru", "name": "g", "units": 2}]}, (4, 3))[1]
    assert "y[..., :2] is g, which takes the steps from the first to the last;" in text
    assert "y[..., 2:] is g_reverse" in text
    text = explained({"type": "positional_encoding"}, (2, 3))[1]
    assert "y[0] - x[0] = [[0, 1, 0], [0.841471, 0.540302, 0.00215443]]" in text
    assert "sin(t / 10000 ** (i / 3)) for even i" in text
    assert "weight[t]" in explained({"type": "positional_encoding", "kind": "learned"}, (2, 3))[1]


def test_a_trace_has_the_mask_of_the_layers_that_take_it(tmp_path):
    (tmp_path / "m.json").write_text(
        '{"input_shape": [3, 1], "layers": [{"type": "mask"}, {"type": "gru", "units": 1}, {"type": "tanh"}]}'
    )
    command = ("trace", "m.json", "-i", "[[[1], [2], [0]]]", "--save", "t.h5")
    code, out, _ = run_specnet(*command, cwd=tmp_path)
    assert code == 0
    assert out.count("  mask = [[ True  True False]]") == 1
    import h5py

    with h5py.File(tmp_path / "t.h5") as file:
        assert file["layers/02_gru_1/mask"][...].tolist() == [[True, True, False]]
        assert "mask" not in file["layers/01_mask_1"]
        assert "mask" not in file["layers/03_tanh_1"]


def both(units):
    layers = [{"type": "bidirectional", "layers": [{"type": "lstm", "units": units}]}]
    return specnet.ModelSpec(input_shape=(3, 2), layers=layers)


def test_a_diagram_shows_both_directions():
    chart = inspection.mermaid(both(2))
    assert 'n1["bidirectional_1.lstm_1: lstm<br/>(batch, 2), 40 parameters"]\n    n0 --> n1' in chart
    assert 'n2["bidirectional_1.lstm_1_reverse: lstm<br/>(batch, 2), 40 parameters"]\n    n0 --> n2' in chart
    assert 'n3(("bidirectional_1: bidirectional<br/>(batch, 4)"))\n    n1 --> n3\n    n2 --> n3' in chart


def test_a_difference_in_the_layer_of_both_directions_is_one():
    old, new = both(2), both(3)
    assert inspection.compare(old, new).structure == ("layer bidirectional_1.lstm_1: units was 2, is 3",)
    other = specnet.ModelSpec(input_shape=(3, 2), layers=[{"type": "tanh"}])
    gone = [line for line in inspection.compare(old, other).structure if line.endswith("is gone")]
    assert gone == [
        "layer bidirectional_1 (bidirectional) is gone",
        "layer bidirectional_1.lstm_1 (lstm) is gone",
    ]
    models = [specnet.build(spec) for spec in (old, old)]
    models[1].parameters["bidirectional_1.lstm_1_reverse.bias"][0] = 7
    (change,) = inspection.compare(*models).arrays
    assert change.name == "bidirectional_1.lstm_1_reverse.bias"
