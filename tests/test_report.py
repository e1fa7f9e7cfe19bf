"""Test the HTML report: its content, escaping and size, and its display in a real browser."""

import re
import shutil
import time

import numpy as np
import pytest

import specnet
from specnet import inspection
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
    classified = inspection.read_run(pictures / "run", str(pictures / "d.npz")).classified
    model = specnet.load(pictures / "run/last.h5")
    with np.load(pictures / "d.npz") as data:
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
    """Write the pages; return their folder."""
    (pictures / "one.html").write_text(page_of(pictures), encoding="utf-8")
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
