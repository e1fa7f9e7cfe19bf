"""Test the HTML report: its content, escaping and size, and its display in a real browser."""

import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

import specnet
from specnet import inspection
from specnet.checkpoint.read import origin
from specnet.inspection import charts
from specnet.inspection.attention_maps import attention_maps
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from tests.support import model_of, npm_install
from tests.test_inspection import trained

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'specnet-nn[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'specnet-nn[report]'")

HOSTILE = "<script>alert('$x$')</script><b>\"&_"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Train on 8x8 pictures with names that contain markup; return the folder of the run and the data."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 8, 8))
    x[np.arange(90), y] += 1.5
    np.savez(folder / "d.npz", x=x, y=y)
    document = {
        "name": "pictures",
        "model": {
            "name": HOSTILE,
            "description": HOSTILE,
            "input_shape": [8, 8],
            "metadata": {HOSTILE: HOSTILE},
            "labels": [HOSTILE, "_b", "$c$"],
            "layers": [
                {"type": "flatten"},
                {"type": "affine", "units": 16},
                {"type": "relu"},
                {"type": "affine", "units": 3},
            ],
        },
        "data": {"train": {"path": str(folder / "d.npz")}, "validation": {"fraction": 0.25}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 4, "batch_size": 10},
    }
    specnet.train(document, out=folder / "run")
    return folder


def rows_of(pictures, rows, change=0.0):
    """Return some rows of the data, with a change of all inputs."""
    with np.load(pictures / "d.npz") as data:
        return {"x": data["x"][rows] + change, "y": data["y"][rows]}


def page_of(pictures, runs=1):
    run = inspection.read_run(pictures / "run", str(pictures / "d.npz"))
    return inspection.report([run] * runs)


def test_the_page_contains_all_sections(pictures):
    page = page_of(pictures)
    for title in ("Network", "Curves", "Parameters", "Classes", "Document", "Provenance"):
        assert re.search(rf"<h2[^>]*>{title}</h2>", page)
    assert "Loss by epoch: training ends at" in page
    assert page.count("Histogram of gradients of") == 4
    assert page.count('class="sample"') == page.count("predicted as")
    assert specnet.load(pictures / "run/last.h5").spec.identity in page
    assert origin(pictures / "run/best.h5").content_sha256 in page
    assert "22 of 90; the others were trained on" in page


def test_the_rows_held_out_count_if_the_data_are_those_of_the_run(pictures):
    spec, folder = load_experiment(pictures / "run/experiment.json")
    _, _, validation = load_data(spec, folder)
    model = specnet.load(pictures / "run/best.h5")
    classified = inspection.read_run(pictures / "run", str(pictures / "d.npz")).classified
    assert classified.rows == len(validation) == 22
    assert classified.accuracy == np.mean(model.predict(validation.inputs).argmax(axis=1) == validation.targets)
    assert classified.accuracy == pytest.approx(model.run_state["history/val_accuracy"][-1])
    for sample in classified.worst:
        original = rows_of(pictures, sample.row - 1)["x"].astype(np.float32)
        assert any(np.array_equal(original, row) for row in validation.inputs)


def test_rows_that_were_trained_on_are_counted(pictures, tmp_path):
    _, train, _ = load_data(*load_experiment(pictures / "run/experiment.json"))
    mixed = np.concatenate([train.inputs[:7], train.inputs[:5] + 1])
    np.savez(tmp_path / "mixed.npz", x=mixed, y=np.zeros(12, int))
    classified = inspection.read_run(pictures / "run", str(tmp_path / "mixed.npz")).classified
    assert (classified.rows, classified.note) == (12, "7 of these rows were trained on")
    shutil.copy(pictures / "run/last.h5", tmp_path / "alone.h5")
    classified = inspection.read_run(tmp_path / "alone.h5", str(tmp_path / "mixed.npz")).classified
    assert classified.note == "Whether rows were trained on is not known: the data of the run are not there"
    classified = inspection.read_run(tmp_path / "alone.h5", str(pictures / "d.npz")).classified
    assert classified.rows == 22


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_the_data_of_a_weighted_run_are_recognized(tmp_path, loss):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 2)), np.arange(80) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y, w=rng.uniform(0.5, 2, 80))
    document = {
        "model": {"input_shape": [2], "layers": [{"type": "affine", "units": 2 if "soft" in loss else 1}]},
        "data": {"train": {"path": str(tmp_path / "d.npz"), "weights": "w"}, "validation": {"fraction": 0.25}},
        "training": {"loss": loss, "epochs": 1},
    }
    specnet.train(document, out=tmp_path / "run")
    classified = inspection.read_run(tmp_path / "run", str(tmp_path / "d.npz")).classified
    assert (classified.rows, classified.counts.sum(axis=1).tolist()) == (20, [10, 10])
    assert "20 of 80; the others were trained on" in classified.note
    np.savez(tmp_path / "new.npz", x=x[:5] + 9, y=y[:5])
    classified = inspection.read_run(tmp_path / "run", str(tmp_path / "new.npz")).classified
    assert classified.note == "None of them was trained on"


@pytest.mark.parametrize("separate", [True, False])
def test_files_of_a_run_without_a_fraction_are_recognized(pictures, tmp_path, separate):
    np.savez(tmp_path / "train.npz", **rows_of(pictures, slice(60)))
    np.savez(tmp_path / "other.npz", **rows_of(pictures, slice(60, 90)))
    data = {"train": {"path": str(tmp_path / "train.npz")}}
    if separate:
        data["validation"] = {"path": str(tmp_path / "other.npz")}
    document = {
        "model": {"input_shape": [8, 8], "layers": [{"type": "flatten"}, {"type": "affine", "units": 3}]},
        "data": data,
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    specnet.train(document, out=tmp_path / "run")
    notes = {}
    for name in ("train", "other"):
        notes[name] = inspection.read_run(tmp_path / "run", str(tmp_path / f"{name}.npz")).classified.note
    assert notes["train"] == "All of these rows were trained on: the figures say nothing about new rows"
    expected = "These are the validation rows of the run; none of them was trained on"
    assert notes["other"] == (expected if separate else "None of them was trained on")


def test_a_report_shows_the_curves_of_the_whole_run(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 2)
    document = {
        "model": {"input_shape": [2], "layers": [{"type": "affine", "units": 2}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}, "validation": {"fraction": 0.5}},
        "training": {
            "loss": "softmax_cross_entropy",
            "optimizer": {"type": "sgd", "learning_rate": 50},
            "epochs": 9,
        },
    }
    specnet.train(document, out=tmp_path / "run")
    best = specnet.load(tmp_path / "run/best.h5").run_state["epoch"]
    run = inspection.read_run(tmp_path / "run")
    assert run.checkpoint.epoch == best < 9
    assert run.history["epoch"] == list(range(1, 10))


def test_controls_of_the_direction_of_text_are_escaped(tmp_path):
    hostile = "a\u202eb\u2066c\u200f"
    layers = [{"type": "affine", "units": 2, "name": "out"}]
    spec = specnet.ModelSpec(input_shape=(2,), layers=layers, name=hostile, labels=[hostile, "b"], description=hostile)
    specnet.save(tmp_path / "m.h5", specnet.build(spec))
    page = inspection.report([inspection.read_run(tmp_path / "m.h5")])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", page)
    assert "a\\u202eb" in page


def test_user_text_is_escaped(pictures):
    page = page_of(pictures, runs=2)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", re.sub(r'xmlns[^=]*="[^"]*"', "", page))


def test_element_identifiers_are_unique(pictures):
    identifiers = re.findall(r' id="([^"]+)"', page_of(pictures, runs=2))
    assert len(identifiers) == len(set(identifiers)) > 50


def test_the_confusion_matrix_counts_rows(pictures):
    np.savez(pictures / "new.npz", **rows_of(pictures, slice(None), 0.001))
    classified = inspection.read_run(pictures / "run", str(pictures / "new.npz")).classified
    model = specnet.load(pictures / "run/best.h5")
    assert classified.rows == 90
    assert classified.note == "None of them was trained on"
    with np.load(pictures / "new.npz") as data:
        predicted = model.predict(data["x"]).argmax(axis=1)
        for truth in range(3):
            for other in range(3):
                assert classified.counts[truth, other] == np.sum((data["y"] == truth) & (predicted == other))
        assert classified.accuracy == np.mean(predicted == data["y"])
        worst = [sample.probability for sample in classified.worst]
        assert worst == sorted(worst)
        for sample in classified.worst:
            assert np.allclose(sample.inputs, data["x"][sample.row - 1], rtol=1e-6)


def test_binary_classification_has_two_classes(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(40, 2)) + y[:, None], y=y.reshape(-1, 1).astype(float))
    document = {
        "model": {"input_shape": [2], "layers": [{"type": "affine", "units": 1}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {"loss": "binary_cross_entropy", "epochs": 1},
    }
    specnet.train(document, out=tmp_path / "run")
    classified = inspection.read_run(tmp_path / "run", str(tmp_path / "d.npz")).classified
    assert classified.counts.sum() == 40
    assert classified.labels == ("0", "1")


def test_a_model_without_a_run_has_a_report(tmp_path):
    specnet.save(tmp_path / "m.h5", model_of({"type": "affine", "units": 2}))
    page = inspection.report([inspection.read_run(tmp_path / "m.h5")])
    assert "Curves" not in page
    assert "affine_1.weight" in page


EXTREMES = ([1e308, -1e308, 0], [1e308, 1e307], [1e308, 1e308], [1e300, 1e-300], [1e-320, 5e-324], [np.inf, np.nan])


@pytest.mark.parametrize("values", EXTREMES)
def test_values_near_the_limits_of_float64_are_drawn_without_an_error(values):
    line = charts.Line(range(len(values)), values, 0, 0)
    assert charts.curves("loss", {"training": line}).startswith("<svg")
    assert charts.flow(["a", "b", "c"][: len(values)], {"values": values}).startswith("<svg")


@pytest.mark.full
def test_a_report_of_a_thousand_layers_is_small_and_fast(tmp_path):
    layers = [{"type": "affine", "units": 20}, {"type": "relu"}] * 500
    model = specnet.build(specnet.ModelSpec(input_shape=(20,), layers=layers))
    model.forward(np.ones((2, 20)))
    model.backward(np.ones((2, 20)))
    specnet.save(tmp_path / "m.h5", model)
    began = time.process_time()
    page = inspection.report([inspection.read_run(tmp_path / "m.h5")])
    assert len(page.encode()) < 5e6
    assert time.process_time() - began < 30  # about 10 s on an idle machine; the limit allows for a busy one
    assert "960 more layers" in page


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    """Yield a headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(pictures):
    """Write the pages, one of them with attention maps; return their folder."""
    layers = [{"type": "attention", "heads": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(40, 2), layers=layers))
    x = np.random.default_rng(0).normal(size=(2, 40, 2))
    maps = [attention_maps(model, x[:, :steps], [3, 8]) for steps in (9, 40)]  # with labels, and too long for them
    run = inspection.read_run(pictures / "run", str(pictures / "d.npz"))
    together = replace(maps[0], sequences=maps[0].sequences + maps[1].sequences)
    (pictures / "one.html").write_text(inspection.report([replace(run, attention=together)]), encoding="utf-8")
    (pictures / "two.html").write_text(page_of(pictures, runs=2), encoding="utf-8")
    return pictures


def open_page(browser, path, **options):
    """Open and return a page; check that it logs no message and requests no other file."""
    page = browser.new_context(**options).new_page()
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(path.as_uri())
    assert messages == [path.as_uri()]
    return page


@pytest.mark.parametrize("name", ["one.html", "two.html"])
@pytest.mark.parametrize("width", [375, 720, 1440])  # 720 is the width of a 1440 pixel window at 200 % zoom
def test_the_page_fits_the_window(browser, site, name, width):
    page = open_page(browser, site / name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures_are_wide = (
        "[...document.querySelectorAll('figure svg, svg.bars')].every(e => e.getBoundingClientRect().width > 50)"
    )
    assert page.evaluate(figures_are_wide)
    assert page.evaluate("document.querySelectorAll('figure svg').length") >= 4


def test_the_curves_are_visible(browser, site):
    page = open_page(browser, site / "one.html")
    is_visible = "e => e.getBBox().width > 100 && getComputedStyle(e).stroke != 'none'"
    visible_paths = f"[...document.querySelectorAll('.charts svg path')].filter({is_visible}).length"
    assert page.evaluate(visible_paths) >= 4


def test_dark_and_light_color_schemes_differ(browser, site):
    colors = {}
    for scheme in ("light", "dark"):
        page = open_page(browser, site / "one.html", color_scheme=scheme)
        colors[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.evaluate("getComputedStyle(document.querySelector('figure.network text')).fill")
        assert text == page.evaluate("getComputedStyle(document.body).color")
    assert colors["light"] != colors["dark"]


def test_links_and_details_are_reachable_by_keyboard(browser, site):
    page = open_page(browser, site / "one.html")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        active = "document.activeElement"
        reached.add(page.evaluate(f"{active}.tagName + ' ' + ({active}.textContent || '').trim().slice(0, 20)"))
    assert any("SUMMARY" in name for name in reached)
    assert {"A Network", "A Document"} <= reached


@pytest.mark.parametrize("name", ["one.html", "two.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_reports_no_serious_problem(browser, site, tmp_path_factory, name, scheme):
    axe = axe_core(tmp_path_factory)
    page = open_page(browser, site / name, color_scheme=scheme, bypass_csp=True)
    page.add_script_tag(path=axe)
    results = page.evaluate("axe.run()")
    serious = [
        (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in results["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(results["passes"]) > 10


def axe_core(tmp_path_factory):
    """Return the path of axe-core, which is installed from the npm registry once."""
    folder = tmp_path_factory.getbasetemp() / "axe"
    script = folder / "node_modules/axe-core/axe.min.js"
    if not script.exists():
        folder.mkdir(exist_ok=True)
        npm_install(folder, "axe-core@4")
    return script


def test_a_report_shows_several_runs_side_by_side(tmp_path):
    (tmp_path / "other").mkdir()
    page = inspection.report([inspection.read_run(trained(folder)) for folder in (tmp_path, tmp_path / "other")])
    assert "2 runs side by side" in page
    assert page.count("<article") == 2
    assert "1. experiment, training ends at" in page
