"""Seeing what a network did: numbers, differences, traces, formulas, diagrams."""

import copy
import json
import math
import re

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import inspection
from specnet.layers.embedding import Embedding
from specnet.training.losses import MeanSquaredError, SoftmaxCrossEntropy
from tests.support import LAYERS, model_of

TUTORIAL = {
    "input_shape": [2],
    "dtype": "float64",
    "layers": [
        {
            "type": "affine",
            "units": 3,
            "weight_init": {"type": "values", "values": [[1, 3, 5], [2, 4, 6]]},
            "bias_init": {"type": "values", "values": [1, 2, 3]},
        },
        {"type": "relu"},
    ],
}


def trained(folder, **training):
    """Train a small classifier; give its folder."""
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=rng.normal(size=(60, 4)), y=np.arange(60) % 3)
    document = {
        "model": {
            "input_shape": [4],
            "labels": ["ant", "bee", "cow"],
            "layers": [{"type": "affine", "units": 8}, {"type": "relu"}, {"type": "affine", "units": 3}],
        },
        "data": {"train": {"path": str(folder / "d.npz")}, "validation": {"fraction": 0.25}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 10, **training},
    }
    specnet.train(document, out=folder / "run")
    return folder / "run"


@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, math.nan, math.inf]), max_size=50))
def test_statistics_are_numpys(values):
    array = np.array(values, np.float32)
    found = inspection.array_statistics(array)
    finite = array[np.isfinite(array)].astype(float)
    assert found.not_finite == len(array) - len(finite)
    assert found.zeros == (float(np.mean(array == 0)) if len(array) else 0)
    if len(finite):
        assert np.allclose(found.norm, np.linalg.norm(finite))
        assert np.allclose((found.mean, found.std), (finite.mean(), finite.std()), rtol=1e-6, atol=1e-6)
        assert (found.low, found.high) == (finite.min(), finite.max())
    counts = inspection.histogram(array).counts
    assert sum(counts) == len(finite)


def test_statistics_of_an_array_of_many_pieces():
    array = np.random.default_rng(0).normal(1000, 1, size=3 * 2**20 + 17)
    found = inspection.array_statistics(array)
    assert found.mean == pytest.approx(array.mean(), rel=1e-12)
    assert found.std == pytest.approx(array.std(), rel=1e-9)


def test_inspect_tells_of_file_run_and_parameters(tmp_path):
    run = trained(tmp_path)
    seen = []
    found = inspection.inspect(run / "last.h5", lambda done, total: seen.append((done, total)))
    model = specnet.load(run / "last.h5")
    assert (found.name, found.identity, found.parameter_count) == ("model", model.spec.identity, 67)
    assert (found.step, found.epoch) == (10, 2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.origin.created)
    assert found.metrics["loss"] == model.run_state["history/loss"][-1]
    assert [p.name for p in found.parameters] == list(model.parameters)
    assert seen[-1] == (67, 67)
    weight = found.parameters[0]
    assert weight.values.norm == pytest.approx(np.linalg.norm(model.parameters["affine_1.weight"]))
    assert weight.gradient.norm == pytest.approx(np.linalg.norm(model.gradients["affine_1.weight"]), rel=1e-6)
    assert found.warnings == ()


def test_the_next_step_is_that_of_the_optimizer(tmp_path):
    run = trained(tmp_path, optimizer={"type": "sgd", "learning_rate": 0.01})
    before = (run / "last.h5").read_bytes()
    model = specnet.load(run / "last.h5")
    for report in inspection.inspect(run / "last.h5").parameters:
        moved = 0.01 * np.linalg.norm(model.gradients[report.name]) / np.linalg.norm(model.parameters[report.name])
        assert report.update == pytest.approx(moved, rel=1e-4)
    assert (run / "last.h5").read_bytes() == before


def test_inspect_warns_in_words(tmp_path):
    path = tmp_path / "m.h5"
    model = model_of(*[{"type": "affine", "units": 4}] * 4)
    model.forward(np.ones((2, 5)))
    model.backward(np.ones((2, 4)))
    model.parameters["affine_1.weight"][0, :2] = np.nan, np.inf
    specnet.save(path, model)
    (warning,) = inspection.inspect(path).warnings
    assert warning == "affine_1.weight: 2 of 20 values are NaN or infinite"
    model.parameters["affine_1.weight"][...] = 1
    for scale, word in ((1e-9, "vanish"), (1e9, "explode")):
        model.gradients["affine_1.weight"][...] = scale
        model.gradients["affine_4.weight"][...] = 1
        specnet.save(path, model)
        (warning,) = inspection.inspect(path).warnings
        assert f"gradients {word} towards the input: 1.0e+09 times" in warning


def test_inspect_tells_what_never_moved(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 2)), y=rng.normal(size=(20, 1)))
    document = {
        "model": {"input_shape": [2], "layers": [{"type": "affine", "units": 3}, {"type": "affine", "units": 1}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {"loss": "mean_squared_error", "epochs": 1, "freeze": ["affine_2.bias"]},
    }
    result = specnet.train(document, out=tmp_path / "run")
    warnings = inspection.inspect(result.checkpoint_path).warnings
    assert "affine_1.weight: never moved; no gradient has reached it" in warnings
    assert not any("affine_2.bias" in warning or "affine_1.bias: never" in warning for warning in warnings)


def test_comparison_of_a_model_with_itself_finds_nothing(tmp_path):
    run = trained(tmp_path)
    model = specnet.load(run / "last.h5")
    model.parameters["affine_1.bias"][0] = np.nan
    found = inspection.compare(model, copy.deepcopy(model))
    assert found.equal
    assert found.compared == 4


def test_comparison_aligns_layers_by_name():
    layers = [{"type": "affine", "name": "a", "units": 4}, {"type": "relu", "name": "b"}, {"type": "tanh", "name": "c"}]
    inner = {"type": "residual", "name": "r", "layers": [{"type": "affine", "name": "in", "units": 4}]}
    old = specnet.ModelSpec(input_shape=(4,), layers=[*layers, inner])
    wider = {**inner, "layers": [{"type": "affine", "name": "in", "units": 4, "bias": False}]}
    changed = [{**layers[0], "weight_init": "zeros"}, layers[2], wider, {"type": "elu", "name": "b"}]
    new = specnet.ModelSpec(input_shape=(4,), name="next", layers=changed)
    found = inspection.compare(old, new)
    assert found.structure == (
        'layer a: weight_init was "he_normal", is "zeros"',
        "layer r.in: bias was true, is false",
        "layer b: type was relu, is elu",
        "the layers stand in another order",
        'name was "model", is "next"',
    )
    assert inspection.compare(old, specnet.ModelSpec(input_shape=(4,), layers=layers)).structure == (
        "layer r (residual) is gone",
        "layer r.in (affine) is gone",
    )


def test_comparison_measures_arrays_and_runs(tmp_path):
    run = trained(tmp_path)
    old, new = (specnet.load(run / "last.h5") for _ in range(2))
    weight = new.parameters["affine_1.weight"]
    weight[0, 0] += np.float32(0.5)
    weight[1, 1] += np.float32(0.25)
    new.run_state["step"] = 12
    found = inspection.compare(old, new)
    (change,) = found.arrays
    assert (change.name, change.shape, change.differing) == ("affine_1.weight", (4, 8), 2)
    assert change.largest == pytest.approx(0.5, rel=1e-6)
    assert change.relative == pytest.approx(0.5 / max(np.abs(weight).max(), np.abs(old.parameters[change.name]).max()))
    assert found.training == ("step was 10, is 12",)
    assert not inspection.compare(old, new, tolerance=change.relative).arrays
    weight[0, 0] = np.nan
    assert inspection.compare(old, new, tolerance=1e9).arrays[0].relative == math.inf


@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("training", [False, True])
def test_formulas_say_what_the_layer_computes(entry, training):
    model = model_of({"type": "affine", "units": 5}, entry, dtype="float64")
    rng = np.random.default_rng(1)
    for parameter in model.parameters.values():
        parameter[...] = rng.normal(size=parameter.shape)
    x = rng.normal(size=(7, 5))
    traced = inspection.trace(model, x, dy=rng.normal(size=model.predict(x).shape), training=training)
    for layer in traced.layers:
        known = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
        for name, formula in layer.formulas.items():
            if name[1:] not in ("", "x") and name[1:] not in layer.parameters:
                continue  # of a bias that is not there
            numbers = eval(formula, {"__builtins__": {}, **{n: getattr(np, n) for n in dir(np)}, **known})
            told = {"y": layer.y, "dx": layer.dx} | {f"d{n}": g for n, g in layer.gradients.items()}
            assert np.allclose(numbers, told[name], rtol=1e-6, atol=1e-6), (name, formula)


def test_most_layers_have_formulas():
    with_formula = {
        entry["type"]
        for entry in LAYERS.values()
        if model_of(entry).layers[0].formulas or entry["type"] in ("reshape", "flatten")
    }
    assert len(with_formula) >= 18
    assert Embedding(np.ones((2, 2))).formulas == {"y": "weight[x]"}


def test_a_trace_holds_what_the_model_computes():
    model = model_of({"type": "affine", "units": 4}, {"type": "relu"}, {"type": "affine", "units": 3})
    x, y = np.random.default_rng(0).normal(size=(6, 5)), np.arange(6) % 3
    loss = SoftmaxCrossEntropy()
    value, dy = loss(model.forward(x), y)
    dx = model.backward(dy)
    kept = {name: g.copy() for name, g in model.gradients.items()}
    traced = inspection.trace(model, x, targets=y, loss=loss)
    assert traced.loss == value
    assert [layer.type for layer in traced.layers] == ["affine", "relu", "affine"]
    assert np.array_equal(traced.layers[0].dx, dx)
    for layer in traced.layers:
        for name, gradient in layer.gradients.items():
            assert np.array_equal(gradient, kept[f"{layer.name}.{name}"])
    for before, after in zip(traced.layers, traced.layers[1:], strict=False):
        assert np.array_equal(before.y, after.x)
        assert np.array_equal(before.dy, after.dx)
    assert inspection.trace(model, x).layers[0].dy is None


def test_a_trace_leaves_gradients_and_buffers_as_they_were():
    model = model_of({"type": "batch_norm"}, {"type": "affine", "units": 2})
    x = np.random.default_rng(0).normal(size=(6, 5))
    model.forward(x)
    model.backward(np.ones((6, 2)))
    gradients, buffers = ({n: a.copy() for n, a in m.items()} for m in (model.gradients, model.buffers))
    inspection.trace(model, 3 * x, dy=np.ones((6, 2)), training=True)
    assert all(np.array_equal(model.gradients[n], a) for n, a in gradients.items())
    assert all(np.array_equal(model.buffers[n], a) for n, a in buffers.items())
    with pytest.raises(specnet.ShapeError):
        inspection.trace(model, np.ones((2, 9)))
    with pytest.raises(specnet.ShapeError):
        inspection.trace(model, x, dy=np.ones((6, 7)))
    with pytest.raises(specnet.SpecnetError, match="need a loss"):
        inspection.trace(model, x, targets=[0, 1])
    assert all(np.array_equal(model.gradients[n], a) for n, a in gradients.items())


def test_a_trace_counts_dead_units():
    model = model_of({"type": "affine", "units": 3, "weight_init": "zeros"}, {"type": "relu"})
    model.parameters["affine_1.bias"][...] = [-1, 1, -2]
    traced = inspection.trace(model, np.ones((8, 5)))
    assert traced.warnings == ("relu_1: 2 of 3 units are 0 for all 8 rows; dead, or not asked",)
    assert inspection.trace(model, np.ones((7, 5))).warnings == ()  # too few rows to tell


def test_a_saved_trace_opens_in_a_viewer(tmp_path):
    model = specnet.build(specnet.ModelSpec(**TUTORIAL))
    traced = inspection.trace(model, [[1, 2]], targets=[[1.0, 2.0, 3.0]], loss=MeanSquaredError())
    inspection.save_trace(tmp_path / "t.h5", traced)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file.attrs["format"] == "specnet-trace/1"
        assert list(file["layers"]) == ["01_affine_1", "02_relu_1"]
        first = file["layers/01_affine_1"]
        assert first.attrs["type"] == "affine"
        assert first["y"][...].tolist() == [[6, 13, 20]]
        assert first["parameters/weight"][...].tolist() == [[1, 3, 5], [2, 4, 6]]
        assert np.array_equal(first["gradients/weight"], traced.layers[0].gradients["weight"])
        assert file["loss"][()] == traced.loss
    with pytest.raises(specnet.SpecnetError, match="cannot be written"):
        inspection.save_trace(tmp_path / "no/t.h5", traced)


def test_explain_fills_the_numbers_in():
    model = specnet.build(specnet.ModelSpec(**TUTORIAL))
    text = inspection.explain(inspection.trace(model, [[1, 2]], dy=[[1, 1, 1]]))
    assert "y = x @ weight + bias\n     = [[1, 2]] @ [[1, 3, 5], [2, 4, 6]] + [1, 2, 3]\n     = [[6, 13, 20]]" in text
    assert "dx = dy @ weight.T\n      = [[1, 1, 1]] @ [[1, 3, 5], [2, 4, 6]].T\n      = [[9, 12]]" in text
    large = model_of({"type": "affine", "units": 60})
    assert "y = x @ weight + bias\n" in inspection.explain(inspection.trace(large, np.ones((3, 5))))
    assert "(an array of shape (3, 60))" in inspection.explain(inspection.trace(large, np.ones((3, 5))))


def test_mermaid_shows_ways_that_part_and_meet():
    affine = {"type": "affine", "units": 4}
    spec = specnet.ModelSpec(
        input_shape=(4,),
        layers=[
            {"type": "residual", "layers": [affine, {"type": "relu"}]},
            {"type": "concat", "branches": [[affine], [affine, {"type": "tanh"}]]},
            {"type": "sequential", "layers": [affine]},
        ],
    )
    assert inspection.mermaid(spec).splitlines() == [
        "flowchart TD",
        '    n0(["input<br/>(batch, 4)"])',
        '    n1["residual_1.affine_1: affine<br/>(batch, 4), 20 parameters"]',
        "    n0 --> n1",
        '    n2["residual_1.relu_1: relu<br/>(batch, 4)"]',
        "    n1 --> n2",
        '    n3(("residual_1: +<br/>(batch, 4)"))',
        "    n2 --> n3",
        "    n0 --> n3",
        '    n4["concat_1.affine_1: affine<br/>(batch, 4), 20 parameters"]',
        "    n3 --> n4",
        '    n5["concat_1.affine_2: affine<br/>(batch, 4), 20 parameters"]',
        "    n3 --> n5",
        '    n6["concat_1.tanh_1: tanh<br/>(batch, 4)"]',
        "    n5 --> n6",
        '    n7(("concat_1: concat<br/>(batch, 8)"))',
        "    n4 --> n7",
        "    n6 --> n7",
        '    n8["sequential_1.affine_1: affine<br/>(batch, 4), 36 parameters"]',
        "    n7 --> n8",
    ]


@pytest.mark.parametrize("layers", [3, 300])
def test_a_network_is_drawn(tmp_path, layers):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    entries = [{"type": "affine", "name": f"l{i}", "units": 4} for i in range(layers)]
    spec = specnet.ModelSpec(input_shape=(4,), layers=entries)
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".mmd", b"flowchart")):
        inspection.save_diagram(spec, tmp_path / f"net{suffix}")
        assert (tmp_path / f"net{suffix}").read_bytes().startswith(begin)
    drawn = (tmp_path / "net.svg").read_text()
    assert "l0 (affine)" in drawn
    assert f"l{layers - 1} (affine)" in drawn
    assert ("260 more layers" in drawn) == (layers == 300)
    inspection.save_diagram(spec, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn
    with pytest.raises(specnet.SpecnetError, match=r"\.svg, \.png or \.mmd"):
        inspection.save_diagram(spec, tmp_path / "net.pdf")


def test_notebooks_show_a_table_and_nothing_of_it_is_markup():
    layers = [{"type": "affine", "units": 2}]
    spec = specnet.ModelSpec(input_shape=(4,), name="<script>alert(1)</script>", layers=layers)
    for shown in (spec._repr_html_(), specnet.build(spec)._repr_html_()):
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown
        assert "<td>affine_1</td><td>affine</td><td>(batch, 2)</td>" in shown
    inner = {"type": "sequential", "name": "block", "layers": layers}
    shown = specnet.ModelSpec(input_shape=(4,), layers=[inner])._repr_html_()
    assert "<td>block</td><td>sequential</td><td>(batch, 2)</td>" in shown
    assert shown.count(">10</td>") == 2  # a composite's are those of its layers
    assert repr(spec) == "<ModelSpec '<script>alert(1)</script>': (4,) -> (2,), 10 parameters, float32>"
    many = specnet.ModelSpec(input_shape=(4,), layers=[{"type": "relu"}] * 500)
    assert len(repr(many)) < 200


def test_json_of_the_data_classes_is_plain(tmp_path):
    from dataclasses import asdict

    run = trained(tmp_path)
    text = json.dumps(asdict(inspection.inspect(run / "last.h5")))
    assert json.loads(text)["parameters"][0]["values"]["shape"] == [4, 8]


@pytest.mark.parametrize(
    "values",
    [[1e200, 1e200], [1.7e308, -1.7e308], [3e17], [1, 1 + 2.2e-16], [0, 5e-324], [1e300, 1], [-5.0], [0.0], []],
)
def test_odd_numbers_are_described_without_a_fault(values):
    array = np.array(values)
    found = inspection.array_statistics(array)
    if values:
        assert (found.low, found.high) == (min(values), max(values))
        assert found.mean == pytest.approx(np.mean(array / 4) * 4, rel=1e-12, abs=1e-300)
        assert found.norm >= max(map(abs, values)) * (1 - 1e-12) - 1e-160
    assert sum(inspection.histogram(array).counts) == len(values)


def test_a_metric_that_is_not_a_number_is_the_same_as_itself(tmp_path):
    model = specnet.load(trained(tmp_path) / "last.h5")
    model.run_state["history/val_loss"] = np.array([1.0, np.nan])
    assert inspection.compare(model, copy.deepcopy(model)).equal


def test_a_run_state_that_makes_no_sense_is_no_failure(tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model = specnet.load(trained(tmp_path) / "last.h5")
    for key, value in (("optimizer/steps", "abc"), ("experiment", "{"), ("history/val_loss", np.array([1.0]))):
        odd = copy.deepcopy(model)
        odd.run_state[key] = value
        specnet.save(tmp_path / "odd.h5", odd)
        inspection.inspect(tmp_path / "odd.h5")
        inspection.compare(model, odd)
        assert "affine_1.weight" in inspection.report([inspection.read_run(tmp_path / "odd.h5")])


def test_a_next_step_that_is_not_finite_is_none(tmp_path):
    model = specnet.load(trained(tmp_path) / "last.h5")
    model.store.gradient_vector[...] = np.nan
    specnet.save(tmp_path / "odd.h5", model)
    assert {p.update for p in inspection.inspect(tmp_path / "odd.h5").parameters} == {None}


def test_no_backward_follows_a_trace():
    model = model_of({"type": "affine", "units": 2})
    model.forward(np.ones((3, 5)))
    inspection.trace(model, np.zeros((3, 5)))
    with pytest.raises(specnet.SpecnetError, match="backward before forward"):
        model.backward(np.ones((3, 2)))


def test_a_trace_is_told_as_it_was():
    model = model_of({"type": "batch_norm"}, dtype="float64")
    traced = inspection.trace(model, [[1.0, 2, 3, 4, 5]])
    told = inspection.explain(traced)
    model.forward(np.random.default_rng(0).normal(size=(6, 5)), training=True)
    assert inspection.explain(traced) == told
    assert inspection.trace(model, np.empty((0, 5))).y.shape == (0, 5)


def test_a_layer_that_moves_to_another_list_is_told():
    relu, tanh = {"type": "relu", "name": "r"}, {"type": "tanh", "name": "t"}
    one, other = (
        specnet.ModelSpec(input_shape=(4,), layers=[{"type": "residual", "layers": a, "shortcut": b}])
        for a, b in (([relu], [tanh]), ([relu, tanh], []))
    )
    assert inspection.compare(one, other).structure == ('layer residual_1.t: list was "shortcut", is "layers"',)
    one, other = (
        specnet.ModelSpec(input_shape=(4,), layers=[{"type": "concat", "branches": branches}])
        for branches in ([[relu, tanh], []], [[], [relu, tanh]])
    )
    assert len(inspection.compare(one, other).structure) == 2


def test_arrays_of_other_shapes_are_named():
    old, new = (model_of({"type": "affine", "units": units}) for units in (3, 4))
    assert "affine_1.weight: shape was (5, 3), is (5, 4)" in inspection.compare(old, new).structure


def test_formulas_of_inputs_with_more_axes_are_those_that_hold():
    entries = [{"type": "affine", "units": 3}, {"type": "prelu"}, {"type": "batch_norm"}]
    model = model_of(*entries, input_shape=(2, 5), dtype="float64")
    rng = np.random.default_rng(0)
    for training in (False, True):
        traced = inspection.trace(model, rng.normal(size=(4, 2, 5)), dy=rng.normal(size=(4, 2, 3)), training=training)
        for layer in traced.layers:
            known = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
            told = {"y": layer.y, "dx": layer.dx} | {f"d{n}": g for n, g in layer.gradients.items()}
            for name, formula in layer.formulas.items():
                numbers = eval(formula, {"__builtins__": {}, **{n: getattr(np, n) for n in dir(np)}, **known})
                assert np.allclose(numbers, told[name]), formula


def test_the_next_step_follows_the_schedule(tmp_path):
    run = trained(tmp_path, optimizer={"type": "sgd", "learning_rate": 1.0}, schedule={"type": "linear"}, epochs=4)
    model = specnet.load(run / "last.h5")
    model.run_state |= {"step": 10, "epoch": 2, "batch": 0}  # half of the way
    specnet.save(tmp_path / "half.h5", model)
    found = inspection.inspect(tmp_path / "half.h5").parameters[0]
    moved = np.linalg.norm(model.gradients[found.name]) / np.linalg.norm(model.parameters[found.name])
    assert 0.4 * moved < found.update < 0.6 * moved
    model.run_state |= {"step": 1, "epoch": 0, "batch": 1}
    specnet.save(tmp_path / "early.h5", model)
    assert inspection.inspect(tmp_path / "early.h5").parameters[0].update is None
