"""Test inspection of models and runs: statistics, comparisons, traces, formulas and diagrams."""

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
    """Train a small classifier; return the folder of its run."""
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
def test_statistics_equal_those_of_numpy(values):
    array = np.array(values, np.float32)
    statistics = inspection.array_statistics(array)
    finite = array[np.isfinite(array)].astype(float)
    assert statistics.not_finite == len(array) - len(finite)
    assert statistics.zeros == (float(np.mean(array == 0)) if len(array) else 0)
    if len(finite):
        assert np.allclose(statistics.norm, np.linalg.norm(finite))
        assert np.allclose((statistics.mean, statistics.std), (finite.mean(), finite.std()), rtol=1e-6, atol=1e-6)
        assert (statistics.low, statistics.high) == (finite.min(), finite.max())
    counts = inspection.histogram(array).counts
    assert sum(counts) == len(finite)


def test_statistics_of_an_array_larger_than_one_block():
    array = np.random.default_rng(0).normal(1000, 1, size=3 * 2**20 + 17)
    statistics = inspection.array_statistics(array)
    assert statistics.mean == pytest.approx(array.mean(), rel=1e-12)
    assert statistics.std == pytest.approx(array.std(), rel=1e-9)


def test_inspect_reports_file_run_and_parameters(tmp_path):
    run = trained(tmp_path)
    progress = []
    report = inspection.inspect(run / "last.h5", lambda done, total: progress.append((done, total)))
    model = specnet.load(run / "last.h5")
    assert (report.name, report.identity, report.parameter_count) == ("model", model.spec.identity, 67)
    assert (report.step, report.epoch) == (10, 2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report.origin.created)
    assert report.metrics["loss"] == model.run_state["history/loss"][-1]
    assert [p.name for p in report.parameters] == list(model.parameters)
    assert progress[-1] == (67, 67)
    weight = report.parameters[0]
    assert weight.values.norm == pytest.approx(np.linalg.norm(model.parameters["affine_1.weight"]))
    assert weight.gradient.norm == pytest.approx(np.linalg.norm(model.gradients["affine_1.weight"]), rel=1e-6)
    assert report.warnings == ()


def test_the_reported_update_is_that_of_the_optimizer(tmp_path):
    run = trained(tmp_path, optimizer={"type": "sgd", "learning_rate": 0.01})
    before = (run / "last.h5").read_bytes()
    model = specnet.load(run / "last.h5")
    for report in inspection.inspect(run / "last.h5").parameters:
        expected = 0.01 * np.linalg.norm(model.gradients[report.name]) / np.linalg.norm(model.parameters[report.name])
        assert report.update == pytest.approx(expected, rel=1e-4)
    assert (run / "last.h5").read_bytes() == before


def test_inspect_warns_about_nan_and_vanishing_or_exploding_gradients(tmp_path):
    path = tmp_path / "m.h5"
    model = model_of(*[{"type": "affine", "units": 4}] * 4)
    model.forward(np.ones((2, 5)))
    model.backward(np.ones((2, 4)))
    model.parameters["affine_1.weight"][0, :2] = np.nan, np.inf
    specnet.save(path, model)
    (warning,) = inspection.inspect(path).warnings
    assert warning == "affine_1.weight: 2 of 20 values are NaN or infinite"
    model.parameters["affine_1.weight"][...] = 1
    for scale, verb in ((1e-9, "vanish"), (1e9, "explode")):
        model.gradients["affine_1.weight"][...] = scale
        model.gradients["affine_4.weight"][...] = 1
        specnet.save(path, model)
        (warning,) = inspection.inspect(path).warnings
        assert f"gradients {verb} towards the input: 1.0e+09 times" in warning


def test_inspect_reports_parameters_that_never_changed(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 2)), y=rng.normal(size=(20, 1)))
    document = {
        "model": {"input_shape": [2], "layers": [{"type": "affine", "units": 3}, {"type": "affine", "units": 1}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {"loss": "mean_squared_error", "epochs": 1, "freeze": ["affine_2.bias"]},
    }
    result = specnet.train(document, out=tmp_path / "run")
    warnings = inspection.inspect(result.checkpoint_path).warnings
    assert "affine_1.weight: unchanged since initialization; no gradient has reached it" in warnings
    assert not any("affine_2.bias" in warning or "affine_1.bias: never" in warning for warning in warnings)


def test_a_comparison_of_a_model_with_itself_is_equal(tmp_path):
    run = trained(tmp_path)
    model = specnet.load(run / "last.h5")
    model.parameters["affine_1.bias"][0] = np.nan
    comparison = inspection.compare(model, copy.deepcopy(model))
    assert comparison.equal
    assert comparison.compared == 4


def test_a_comparison_matches_layers_by_name():
    layers = [{"type": "affine", "name": "a", "units": 4}, {"type": "relu", "name": "b"}, {"type": "tanh", "name": "c"}]
    inner = {"type": "residual", "name": "r", "layers": [{"type": "affine", "name": "in", "units": 4}]}
    old = specnet.ModelSpec(input_shape=(4,), layers=[*layers, inner])
    wider = {**inner, "layers": [{"type": "affine", "name": "in", "units": 4, "bias": False}]}
    changed = [{**layers[0], "weight_init": "zeros"}, layers[2], wider, {"type": "elu", "name": "b"}]
    new = specnet.ModelSpec(input_shape=(4,), name="next", layers=changed)
    comparison = inspection.compare(old, new)
    assert comparison.structure == (
        'layer a: weight_init was "he_normal", is "zeros"',
        "layer r.in: bias was true, is false",
        "layer b: type was relu, is elu",
        "the order of the layers differs",
        'name was "model", is "next"',
    )
    assert inspection.compare(old, specnet.ModelSpec(input_shape=(4,), layers=layers)).structure == (
        "layer r (residual) is gone",
        "layer r.in (affine) is gone",
    )


def test_a_comparison_measures_arrays_and_runs(tmp_path):
    run = trained(tmp_path)
    old, new = (specnet.load(run / "last.h5") for _ in range(2))
    weight = new.parameters["affine_1.weight"]
    weight[0, 0] += np.float32(0.5)
    weight[1, 1] += np.float32(0.25)
    new.run_state["step"] = 12
    comparison = inspection.compare(old, new)
    (change,) = comparison.arrays
    assert (change.name, change.shape, change.differing) == ("affine_1.weight", (4, 8), 2)
    assert change.largest == pytest.approx(0.5, rel=1e-6)
    assert change.relative == pytest.approx(0.5 / max(np.abs(weight).max(), np.abs(old.parameters[change.name]).max()))
    assert comparison.training == ("step was 10, is 12",)
    assert not inspection.compare(old, new, tolerance=change.relative).arrays
    weight[0, 0] = np.nan
    assert inspection.compare(old, new, tolerance=1e9).arrays[0].relative == math.inf


@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("training", [False, True])
def test_formulas_compute_the_values_of_the_layer(entry, training):
    model = model_of({"type": "affine", "units": 5}, entry, dtype="float64")
    rng = np.random.default_rng(1)
    for parameter in model.parameters.values():
        parameter[...] = rng.normal(size=parameter.shape)
    x = rng.normal(size=(7, 5))
    traced = inspection.trace(model, x, dy=rng.normal(size=model.predict(x).shape), training=training)
    for layer in traced.layers:
        variables = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
        for name, formula in layer.formulas.items():
            if name[1:] not in ("", "x") and name[1:] not in layer.parameters:
                continue  # the formula of a bias that the layer does not have
            numbers = eval(formula, {"__builtins__": {}, **{n: getattr(np, n) for n in dir(np)}, **variables})
            computed = {"y": layer.y, "dx": layer.dx} | {f"d{n}": g for n, g in layer.gradients.items()}
            assert np.allclose(numbers, computed[name], rtol=1e-6, atol=1e-6), (name, formula)


def test_most_layers_have_formulas():
    with_formula = {
        entry["type"]
        for entry in LAYERS.values()
        if model_of(entry).layers[0].formulas or entry["type"] in ("reshape", "flatten")
    }
    assert len(with_formula) >= 18
    assert Embedding(np.ones((2, 2))).formulas == {"y": "weight[x]"}


def test_a_trace_contains_the_values_that_the_model_computes():
    model = model_of({"type": "affine", "units": 4}, {"type": "relu"}, {"type": "affine", "units": 3})
    x, y = np.random.default_rng(0).normal(size=(6, 5)), np.arange(6) % 3
    loss = SoftmaxCrossEntropy()
    value, dy = loss(model.forward(x), y)
    dx = model.backward(dy)
    gradients = {name: g.copy() for name, g in model.gradients.items()}
    traced = inspection.trace(model, x, targets=y, loss=loss)
    assert traced.loss == value
    assert [layer.type for layer in traced.layers] == ["affine", "relu", "affine"]
    assert np.array_equal(traced.layers[0].dx, dx)
    for layer in traced.layers:
        for name, gradient in layer.gradients.items():
            assert np.array_equal(gradient, gradients[f"{layer.name}.{name}"])
    for before, after in zip(traced.layers, traced.layers[1:], strict=False):
        assert np.array_equal(before.y, after.x)
        assert np.array_equal(before.dy, after.dx)
    assert inspection.trace(model, x).layers[0].dy is None


def test_a_trace_changes_no_gradients_and_buffers():
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
    assert traced.warnings == ("relu_1: 2 of 3 units are 0 for all 8 rows; they are dead, or inactive for these rows",)
    assert inspection.trace(model, np.ones((7, 5))).warnings == ()  # there are too few rows for the warning


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


def test_explain_inserts_the_numbers_into_the_formulas():
    model = specnet.build(specnet.ModelSpec(**TUTORIAL))
    text = inspection.explain(inspection.trace(model, [[1, 2]], dy=[[1, 1, 1]]))
    assert "y = x @ weight + bias\n     = [[1, 2]] @ [[1, 3, 5], [2, 4, 6]] + [1, 2, 3]\n     = [[6, 13, 20]]" in text
    assert "dx = dy @ weight.T\n      = [[1, 1, 1]] @ [[1, 3, 5], [2, 4, 6]].T\n      = [[9, 12]]" in text
    large = model_of({"type": "affine", "units": 60})
    assert "y = x @ weight + bias\n" in inspection.explain(inspection.trace(large, np.ones((3, 5))))
    assert "(an array of shape (3, 60))" in inspection.explain(inspection.trace(large, np.ones((3, 5))))


def test_mermaid_shows_branches_that_split_and_join():
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
def test_a_diagram_of_a_network_is_drawn(tmp_path, layers):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    entries = [{"type": "affine", "name": f"l{i}", "units": 4} for i in range(layers)]
    spec = specnet.ModelSpec(input_shape=(4,), layers=entries)
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".mmd", b"flowchart")):
        inspection.save_diagram(spec, tmp_path / f"net{suffix}")
        assert (tmp_path / f"net{suffix}").read_bytes().startswith(begin)
    svg = (tmp_path / "net.svg").read_text()
    assert "l0 (affine)" in svg
    assert f"l{layers - 1} (affine)" in svg
    assert ("260 more layers" in svg) == (layers == 300)
    inspection.save_diagram(spec, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
    with pytest.raises(specnet.SpecnetError, match=r"\.svg, \.png or \.mmd"):
        inspection.save_diagram(spec, tmp_path / "net.pdf")


def test_notebooks_show_a_table_with_escaped_names():
    layers = [{"type": "affine", "units": 2}]
    spec = specnet.ModelSpec(input_shape=(4,), name="<script>alert(1)</script>", layers=layers)
    for html in (spec._repr_html_(), specnet.build(spec)._repr_html_()):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
        assert "<td>affine_1</td><td>affine</td><td>(batch, 2)</td>" in html
    inner = {"type": "sequential", "name": "block", "layers": layers}
    html = specnet.ModelSpec(input_shape=(4,), layers=[inner])._repr_html_()
    assert "<td>block</td><td>sequential</td><td>(batch, 2)</td>" in html
    assert html.count(">10</td>") == 2  # the parameters of a composite are those of its layers
    assert repr(spec) == "<ModelSpec '<script>alert(1)</script>': (4,) -> (2,), 10 parameters, float32>"
    many = specnet.ModelSpec(input_shape=(4,), layers=[{"type": "relu"}] * 500)
    assert len(repr(many)) < 200


def test_the_result_classes_convert_to_json(tmp_path):
    from dataclasses import asdict

    run = trained(tmp_path)
    text = json.dumps(asdict(inspection.inspect(run / "last.h5")))
    assert json.loads(text)["parameters"][0]["values"]["shape"] == [4, 8]


@pytest.mark.parametrize(
    "values",
    [[1e200, 1e200], [1.7e308, -1.7e308], [3e17], [1, 1 + 2.2e-16], [0, 5e-324], [1e300, 1], [-5.0], [0.0], []],
)
def test_statistics_of_extreme_values_are_finite(values):
    array = np.array(values)
    statistics = inspection.array_statistics(array)
    if values:
        assert (statistics.low, statistics.high) == (min(values), max(values))
        assert statistics.mean == pytest.approx(np.mean(array / 4) * 4, rel=1e-12, abs=1e-300)
        assert statistics.norm >= max(map(abs, values)) * (1 - 1e-12) - 1e-160
    assert sum(inspection.histogram(array).counts) == len(values)


def test_a_nan_metric_compares_equal_to_itself(tmp_path):
    model = specnet.load(trained(tmp_path) / "last.h5")
    model.run_state["history/val_loss"] = np.array([1.0, np.nan])
    assert inspection.compare(model, copy.deepcopy(model)).equal


def test_an_invalid_run_state_does_not_stop_inspection(tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model = specnet.load(trained(tmp_path) / "last.h5")
    for key, value in (("optimizer/steps", "abc"), ("experiment", "{"), ("history/val_loss", np.array([1.0]))):
        damaged = copy.deepcopy(model)
        damaged.run_state[key] = value
        specnet.save(tmp_path / "odd.h5", damaged)
        inspection.inspect(tmp_path / "odd.h5")
        inspection.compare(model, damaged)
        assert "affine_1.weight" in inspection.report([inspection.read_run(tmp_path / "odd.h5")])


def test_an_update_that_is_not_finite_is_reported_as_none(tmp_path):
    model = specnet.load(trained(tmp_path) / "last.h5")
    model.store.gradient_vector[...] = np.nan
    specnet.save(tmp_path / "odd.h5", model)
    assert {p.update for p in inspection.inspect(tmp_path / "odd.h5").parameters} == {None}


def test_backward_after_a_trace_is_an_error():
    model = model_of({"type": "affine", "units": 2})
    model.forward(np.ones((3, 5)))
    inspection.trace(model, np.zeros((3, 5)))
    with pytest.raises(specnet.SpecnetError, match="backward before forward"):
        model.backward(np.ones((3, 2)))


def test_a_trace_does_not_change_with_the_model():
    model = model_of({"type": "batch_norm"}, dtype="float64")
    traced = inspection.trace(model, [[1.0, 2, 3, 4, 5]])
    explanation = inspection.explain(traced)
    model.forward(np.random.default_rng(0).normal(size=(6, 5)), training=True)
    assert inspection.explain(traced) == explanation
    assert inspection.trace(model, np.empty((0, 5))).y.shape == (0, 5)


def test_a_layer_that_moved_to_another_list_is_reported():
    relu, tanh = {"type": "relu", "name": "r"}, {"type": "tanh", "name": "t"}
    old, new = (
        specnet.ModelSpec(input_shape=(4,), layers=[{"type": "residual", "layers": a, "shortcut": b}])
        for a, b in (([relu], [tanh]), ([relu, tanh], []))
    )
    assert inspection.compare(old, new).structure == ('layer residual_1.t: list was "shortcut", is "layers"',)
    old, new = (
        specnet.ModelSpec(input_shape=(4,), layers=[{"type": "concat", "branches": branches}])
        for branches in ([[relu, tanh], []], [[], [relu, tanh]])
    )
    assert len(inspection.compare(old, new).structure) == 2


def test_arrays_with_different_shapes_are_reported():
    old, new = (model_of({"type": "affine", "units": units}) for units in (3, 4))
    assert "affine_1.weight: shape was (5, 3), is (5, 4)" in inspection.compare(old, new).structure


def test_formulas_hold_for_inputs_with_more_axes():
    entries = [{"type": "affine", "units": 3}, {"type": "prelu"}, {"type": "batch_norm"}]
    model = model_of(*entries, input_shape=(2, 5), dtype="float64")
    rng = np.random.default_rng(0)
    for training in (False, True):
        traced = inspection.trace(model, rng.normal(size=(4, 2, 5)), dy=rng.normal(size=(4, 2, 3)), training=training)
        for layer in traced.layers:
            variables = {"x": layer.x, "y": layer.y, "dy": layer.dy, **layer.parameters, **layer.buffers}
            computed = {"y": layer.y, "dx": layer.dx} | {f"d{n}": g for n, g in layer.gradients.items()}
            for name, formula in layer.formulas.items():
                numbers = eval(formula, {"__builtins__": {}, **{n: getattr(np, n) for n in dir(np)}, **variables})
                assert np.allclose(numbers, computed[name]), formula


def test_the_reported_update_follows_the_schedule(tmp_path):
    run = trained(tmp_path, optimizer={"type": "sgd", "learning_rate": 1.0}, schedule={"type": "linear"}, epochs=4)
    model = specnet.load(run / "last.h5")
    model.run_state |= {"step": 10, "epoch": 2, "batch": 0}  # half of all steps
    specnet.save(tmp_path / "half.h5", model)
    report = inspection.inspect(tmp_path / "half.h5").parameters[0]
    full_update = np.linalg.norm(model.gradients[report.name]) / np.linalg.norm(model.parameters[report.name])
    assert 0.4 * full_update < report.update < 0.6 * full_update
    model.run_state |= {"step": 1, "epoch": 0, "batch": 1}
    specnet.save(tmp_path / "early.h5", model)
    assert inspection.inspect(tmp_path / "early.h5").parameters[0].update is None
