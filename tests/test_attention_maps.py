"""Test what reports show of sequences: attention maps, and classes of time steps."""

import re

import numpy as np
import pytest

import specnet
from specnet import inspection
from specnet.inspection import charts
from specnet.inspection.attention_maps import MOST_HEADS, LayerMaps, SequenceMaps, attention_maps
from specnet.inspection.heads import heads_of
from specnet.inspection.images import attention_gallery
from specnet.layers import Attention
from tests.commands import run_specnet
from tests.support import one_by_default

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'specnet-nn[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'specnet-nn[report]'")

STEPS, TOKENS, CLASSES = 7, 9, 3


def block(name, heads):
    return [
        {"type": "residual", "name": name, "layers": [{"type": "attention", "heads": heads, "causal": True}]},
        {"type": "tanh"},
    ]


def layers_of(*heads, last=()):
    return [
        {"type": "embedding", "vocabulary": TOKENS, "dimension": 4, "mask_index": 0},
        *(layer for index, count in enumerate(heads) for layer in block(f"block_{index}", count)),
        *last,
        {"type": "affine", "units": CLASSES},
    ]


def sequences(rows=40):
    """Return padded sequences of integers, and a class for each step."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, TOKENS, (rows, STEPS))
    x[np.arange(STEPS) >= rng.integers(2, STEPS + 1, rows)[:, np.newaxis]] = 0
    return x, np.where(x > 0, x % CLASSES, CLASSES - 1)


def train(folder, layers, x, y, loss="softmax_cross_entropy", **keys):
    np.savez(folder / "d.npz", x=x, y=y)
    document = {
        "model": {"input_shape": list(x.shape[1:]), "layers": layers, **keys},
        "data": {"train": {"path": str(folder / "d.npz")}, "validation": {"fraction": 0.5}},
        "training": {"loss": loss, "epochs": 1},
    }
    specnet.train(document, out=folder / "run")


def read(folder):
    return inspection.read_run(folder / "run", str(folder / "d.npz"))


def page_of(folder):
    code, out, err = run_specnet("report", "run", "--data", "d.npz", "--out", "r.html", cwd=folder)
    assert (code, out) == (0, "")
    assert "Warning" not in err
    return (folder / "r.html").read_text()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_heads_are_those_of_the_layer(causal, bias):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in [(4, 6)] * 3 + [(6, 4)] + ([(6,)] * 3 + [(4,)]) * bias]
    layer = Attention(*weights, heads=2, causal=causal)
    x = rng.normal(size=(3, 5, 4))
    mask = np.ones((3, 5), bool)
    mask[0, 3:], mask[1] = False, False
    for given in (None, mask):
        y = layer.forward(x, mask=given)
        heads = heads_of(layer.parameters, x, 2, causal=causal, mask=given)
        assert np.allclose(heads.attention, layer._pass.attention)
        joined = heads.found.swapaxes(1, 2).reshape(3, 5, 6)
        assert np.allclose(joined @ layer.output + layer.parameters.get("output_bias", 0), y)


def test_maps_are_those_of_layers_within_composites_without_padding():
    model = specnet.build(specnet.ModelSpec(input_shape=(STEPS,), layers=layers_of(2, 4), dtype="float64"))
    x = sequences()[0][:3]
    x[0, :] = 0
    x[1, 3:] = 0
    y = model.forward(x)
    found = attention_maps(model, x, [5, 6, 9])
    assert (found.heads, found.shown, found.has_tokens) == (6, 6, False)
    assert [each.row for each in found.sequences] == [5, 6, 9]
    assert found.sequences[0].layers == ()
    mask = model.mask_of(x)
    first = model.layers[0].predict(x)
    second = model.layers[2].predict(model.layers[1].predict(first, mask=mask))
    for index, value in enumerate((first, second)):
        layer = model.layers[1 + 2 * index].layers["attention_1"]
        expected = heads_of(layer.parameters, value, layer.heads, causal=True, mask=mask).attention
        for row in (1, 2):
            maps, counts = found.sequences[row].layers[index], mask[row]
            assert maps.layer == f"block_{index}.attention_1"
            assert np.allclose(maps.attention, expected[row][:, counts][:, :, counts])
            assert np.allclose(maps.attention.sum(axis=2), 1)
            assert maps.labels == tuple(map(str, x[row][counts]))
    model.backward(np.ones_like(y))  # what the forward pass cached is still there
    assert np.array_equal(model.predict(x), y)


def test_the_first_heads_of_a_model_are_shown():
    layers = [{"type": "attention", "heads": heads, "key_size": 1} for heads in (5, 5, 5)]
    model = specnet.build(specnet.ModelSpec(input_shape=(4, 2), layers=layers))
    found = attention_maps(model, np.ones((1, 4, 2)), [1])
    assert (found.heads, found.shown) == (15, MOST_HEADS)
    assert [len(maps.attention) for maps in found.sequences[0].layers] == [5, 3]
    assert found.sequences[0].layers[0].labels == ("1", "2", "3", "4")
    assert attention_maps(model, np.ones((0, 4, 2)), []) is None


def test_steps_that_count_are_classified(tmp_path):
    x, y = sequences()
    train(tmp_path, layers_of(2), x, y)
    run = read(tmp_path)
    classified, model = run.classified, run.model
    held_out = [sample.row - 1 for sample in classified.worst]
    assert classified.unit == "time steps"
    assert classified.counts.sum() == classified.rows < 20 * STEPS
    assert classified.accuracy == pytest.approx(model.run_state["history/val_accuracy"][-1])
    predicted = model.predict(x).argmax(axis=2)
    for sample in classified.worst:
        row, step = sample.row - 1, sample.step - 1
        assert x[row, step] > 0
        assert (int(sample.label), int(sample.predicted)) == (y[row, step], predicted[row, step])
        assert np.array_equal(sample.inputs, x[row])
    assert [each.row - 1 for each in run.attention.sequences] == list(dict.fromkeys(held_out))[:3]
    page = page_of(tmp_path)
    assert f"of {classified.rows} time steps are classified correctly" in page
    assert f"of {classified.rows} time steps are correct" in page
    assert "Worst misclassified time steps" in page
    assert re.search(r"Row \d+, step \d+ is <strong>\d</strong>", page)
    assert page.count('<svg class="heat" role="img" aria-label="Attention of block_0.attention_1, head ') == 6
    assert page.count("Of which step each step takes most</summary>") == 3
    assert "\\xa0" not in page
    assert page_of(tmp_path) == page


@pytest.mark.parametrize("padding", one_by_default([True, False]))
def test_yes_or_no_at_each_step_has_two_classes(tmp_path, padding):
    x = np.random.default_rng(0).normal(size=(20, 5, 2))
    x[:, 3:] *= not padding
    layers = [{"type": "mask"}, {"type": "gru", "units": 2, "return_sequences": True}, {"type": "affine", "units": 1}]
    train(tmp_path, layers, x, (x[..., :1] > 0).astype(float), "binary_cross_entropy")
    classified = read(tmp_path).classified
    assert (classified.rows, classified.labels) == (30 if padding else 50, ("0", "1"))
    assert classified.counts.sum() == classified.rows
    assert 'id="run-1-attention"' not in page_of(tmp_path)


def text_model(tokens):
    layers = [
        {"type": "embedding", "vocabulary": TOKENS, "dimension": 4, "mask_index": 0},
        {"type": "attention", "heads": 1, "causal": True},
        {"type": "affine", "units": TOKENS},
    ]
    tokenizer = {"type": "characters", "vocabulary": tokens}
    return specnet.ModelSpec(input_shape=(STEPS,), layers=layers, tokenizer=tokenizer)


def test_tokens_are_visible_and_escaped():
    model = specnet.build(text_model(["<", " ", "&", '"', "\u0301", "$"]))
    found = attention_maps(model, np.array([[1, 3, 4, 5, 2, 8, 0]]), [1])
    assert found.has_tokens
    assert found.sequences[0].layers[0].labels == ("⏎", "<", "␣", "&", "�", "$")
    ((picture, caption),) = attention_gallery(found.sequences[0]).pictures
    assert ">&lt;</text>" in picture
    assert ">&amp;</text>" in picture
    assert "full colour is 1" in caption


def test_the_classes_of_a_language_model_are_its_tokens(tmp_path):
    (tmp_path / "t.txt").write_text("ab ba\nabab\nb a\n" * 10)
    document = {
        "model": {
            "input_shape": [STEPS],
            "tokenizer": "characters",
            "layers": [
                {"type": "embedding", "vocabulary": TOKENS, "dimension": 4, "mask_index": 0},
                {"type": "attention", "heads": 2, "causal": True},
                {"type": "affine", "units": TOKENS},
            ],
        },
        "data": {"train": {"path": str(tmp_path / "t.txt")}, "validation": {"fraction": 0.5}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    specnet.train(document, out=tmp_path / "run")
    run = inspection.read_run(tmp_path / "run", str(tmp_path / "t.txt"))
    assert run.classified.labels == ("padding", "⏎", "�", "a", "b", "␣", "6", "7", "8")
    assert run.attention.sequences[0].layers[0].labels[0] == "⏎"
    page = inspection.report([run])
    assert "␣ is a space, ⏎ the end of a line" in page


def test_long_sequences_have_maps_without_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 100, 2))
    layers = [
        {"type": "attention", "heads": 9, "key_size": 1},
        {"type": "time_average"},
        {"type": "affine", "units": 1},
    ]
    train(tmp_path, layers, x, x[:, 0, :1], "mean_squared_error")
    run = read(tmp_path)
    assert run.classified is None
    assert len(run.attention.sequences) == 3
    page = page_of(tmp_path)
    assert page.count('<img class="pixels" alt="Attention of attention_1, head ') == 24
    assert "attention_1, head 8, 100 steps, of which every 2nd is shown; full colour is " in page
    assert "The first 8 of 9 heads are shown." in page
    assert "Of which step each step takes most, the first 64 of 100 steps</summary>" in page
    assert len(page) < 400_000


def test_the_last_windows_of_a_forecast_have_maps(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(30, 2)))
    layers = [{"type": "attention", "heads": 1, "causal": True}, {"type": "last_step"}, {"type": "affine", "units": 2}]
    document = {
        "model": {"input_shape": [6, 2], "layers": layers},
        "data": {"train": {"path": str(tmp_path / "d.npz"), "window": 6}, "validation": {"fraction": 0.3}},
        "training": {"loss": "mean_squared_error", "epochs": 1},
    }
    specnet.train(document, out=tmp_path / "run")
    run = read(tmp_path)
    assert run.classified is None
    rows = [each.row for each in run.attention.sequences]
    assert rows == [rows[0], rows[0] - 1, rows[0] - 2]
    assert rows[0] >= 24
    err = run_specnet("report", "run", "--data", "d.npz", "--out", "r.html", cwd=tmp_path)[2]
    assert "d.npz: used for attention maps alone for run, because the report evaluates only classifiers" in err


def test_a_picture_is_described_in_words():
    attention = np.array([[[1, 0, 0], [0.75, 0.25, 0], [0, 0.5, 0.5]]])
    maps = LayerMaps("a", attention, ("x", "y", "3"))
    gallery = attention_gallery(SequenceMaps(4, (maps,)))
    ((picture, _),) = gallery.pictures
    words = "on average a step takes 58 % of itself and 62 % of the step before; "
    assert f"Attention of a, head 1, for row 4: {words}the strongest is step 1 (x), which takes 100 %" in picture
    assert gallery.table == [("1: x", ["1: x, 100 %"]), ("2: y", ["1: x, 75 %"]), ("3", ["2: y, 50 %"])]
    assert picture.count("<text") == 6
    cells = {}
    for opacity, path in re.findall(r'<path opacity="([\d.]+)" d="([^"]+)"', picture):
        cells |= {(int(y), int(x)): float(opacity) for x, y in re.findall(r"M(\d) (\d)h1v1h-1z", path)}
    assert cells == {
        (y, x): pytest.approx(attention[0, y, x], abs=0.5 / charts.HEAT_LEVELS + 0.005)
        for y, x in np.argwhere(attention[0] > 0)
    }


def test_a_sequence_of_padding_alone_is_said_to_be_one(tmp_path):
    x, y = sequences(8)
    x[:] = 0
    x[:2] = 1
    train(tmp_path, layers_of(1, last=[{"type": "last_step"}]), x, y[:, 0])
    page = page_of(tmp_path)
    assert "All of its steps are padding." in page
