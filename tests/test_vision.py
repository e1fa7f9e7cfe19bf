"""Test what reports show of classifiers of images: filters, feature maps and saliency maps of misclassified rows."""

import base64
import io
import re

import numpy as np
import pytest

import specnet
from specnet import inspection
from specnet.inspection import charts
from specnet.inspection.vision import first_filters, image_shape
from tests.commands import run_specnet

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'specnet-nn[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'specnet-nn[report]'")

CONVOLUTION = [
    {"type": "conv2d", "name": "strokes", "filters": 10, "kernel_size": 3},
    {"type": "batch_norm"},
    {"type": "relu", "name": "rectified"},
    {"type": "flatten"},
    {"type": "affine", "units": 3},
]


def train(folder, shape, layers, rows=60, loss="softmax_cross_entropy", learning_rate=1e-6):
    """Train for one epoch, too little to learn anything, on images whose class is the column of a bright line."""
    y = np.arange(rows) % 3 if loss.startswith("softmax") else np.arange(rows) % 2
    x = np.random.default_rng(0).normal(size=(rows, *shape))
    x.reshape(rows, -1)[np.arange(rows), y] += 3
    np.savez(folder / "d.npz", x=x, y=y if loss.startswith("softmax") else y.reshape(-1, 1).astype(float))
    document = {
        "model": {"input_shape": list(shape), "layers": layers},
        "data": {"train": {"path": str(folder / "d.npz")}},
        "training": {"loss": loss, "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": learning_rate}},
    }
    specnet.train(document, out=folder / "run")
    return folder / "run"


def page_of(folder):
    code, out, err = run_specnet("report", "run", "--data", "d.npz", "--out", "r.html", cwd=folder)
    assert (code, out) == (0, "")
    assert "Warning" not in err
    return (folder / "r.html").read_text()


def pixels_of(image):
    """Return the pixels of an embedded image, (height, width, 4)."""
    from matplotlib.image import imread

    data = re.search(r'src="data:image/png;base64,([^"]+)"', image)[1]
    return np.rint(255 * imread(io.BytesIO(base64.b64decode(data)), format="png")).astype(int)


def test_a_report_shows_filters_feature_maps_and_saliency(tmp_path):
    train(tmp_path, (8, 9, 1), CONVOLUTION)
    page = page_of(tmp_path)
    wrong = page.count("predicted as")
    assert wrong == 12
    assert "The 10 filters of strokes, 3 x 3; positive numbers are orange, negative ones blue" in page
    assert page.count('alt="Saliency map of row') == page.count('aria-label="Input of row') == wrong
    assert page.count("rectified: 8 of 10 maps</figcaption>") == wrong
    assert page.count('class="pixels"') == 10 + wrong * (1 + 8)
    assert len(page) < 400_000
    assert page_of(tmp_path) == page  # the same run makes the same bytes


def test_the_saliency_of_a_linear_model_is_the_size_of_its_weight(tmp_path):
    train(tmp_path, (8, 8), [{"type": "flatten"}, {"type": "affine", "units": 3, "name": "linear"}])
    run = inspection.read_run(tmp_path / "run", str(tmp_path / "d.npz"))
    weight = np.abs(run.model.parameters["linear.weight"])
    assert run.classified.worst
    for sample in run.classified.worst:
        assert np.array_equal(sample.view.image, sample.inputs)
        assert np.allclose(sample.view.saliency.reshape(-1), weight[:, int(sample.predicted)])
        assert sample.view.maps.size == 0


@pytest.mark.parametrize("last", [[], [{"type": "softmax"}]])
def test_saliency_is_the_gradient_of_the_score_before_a_softmax(last):
    layers = [*CONVOLUTION[:3], {"type": "flatten"}, {"type": "affine", "units": 3, "name": "scores"}, *last]
    model = specnet.build(specnet.ModelSpec(input_shape=(5, 4, 2), layers=layers, dtype="float64"))
    model.buffers["batch_norm_1.running_mean"][...] = 0.3
    model.parameters["scores.weight"][...] *= 50  # probabilities near 1, whose own gradient vanishes
    x, classes, step = np.random.default_rng(0).normal(size=(2, 5, 4, 2)), [2, 0], 1e-5
    scorer = specnet.build(specnet.ModelSpec(input_shape=(5, 4, 2), layers=layers[:5], dtype="float64"))
    for source, target in ((model.parameters, scorer.parameters), (model.buffers, scorer.buffers)):
        for name, array in source.items():
            target[name][...] = array
    found = inspection.saliency(model, x, classes)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        change = (scorer.predict(x + moved) - scorer.predict(x - moved))[index[0], classes[index[0]]]
        assert found[index] == pytest.approx(abs(change) / (2 * step), rel=1e-5, abs=1e-8)


def test_saliency_changes_nothing_on_the_model():
    model = specnet.build(specnet.ModelSpec(input_shape=(8, 8, 1), layers=CONVOLUTION))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    y = model.forward(x, training=True)
    model.backward(np.ones_like(y))
    gradients, buffers = ({n: a.copy() for n, a in m.items()} for m in (model.gradients, model.buffers))
    inspection.saliency(model, x * 2, [0, 1, 2, 0])
    assert all(np.array_equal(model.gradients[n], a) for n, a in gradients.items())
    assert all(np.array_equal(model.buffers[n], a) for n, a in buffers.items())
    dx = model.backward(np.ones_like(y))  # what the forward pass cached is still there
    assert all(np.array_equal(model.gradients[n], a) for n, a in gradients.items())
    assert np.isfinite(dx).all()


def test_saliency_refuses_what_has_none():
    model = specnet.build(specnet.ModelSpec(input_shape=(4,), layers=[{"type": "affine", "units": 3}]))
    for classes in ([3], [-1], [0, 1], [0.5]):
        with pytest.raises(specnet.SpecnetError, match="one class from 0 to 2 for each of 1 rows"):
            inspection.saliency(model, np.ones((1, 4)), classes)
    layers = [
        {"type": "embedding", "vocabulary": 9, "dimension": 2},
        {"type": "flatten"},
        {"type": "affine", "units": 3},
    ]
    words = specnet.build(specnet.ModelSpec(input_shape=(4,), layers=layers))
    with pytest.raises(specnet.SpecnetError, match="takes integers, which have no gradient"):
        inspection.saliency(words, np.ones((1, 4), int), [0])
    pixels = specnet.build(specnet.ModelSpec(input_shape=(4, 4, 1), layers=CONVOLUTION[:1]))
    with pytest.raises(specnet.ShapeError, match=r"outputs \(batch, classes\)"):
        inspection.saliency(pixels, np.ones((1, 4, 4, 1)), [0])


@pytest.mark.parametrize(
    "wrap", [lambda layers: layers, lambda layers: [{"type": "sequential", "name": "stem", "layers": layers}]]
)
def test_feature_maps_are_those_of_the_activation_after_the_first_convolution(tmp_path, wrap):
    train(tmp_path, (8, 8), [{"type": "reshape", "shape": [8, 8, 1]}, *wrap(CONVOLUTION[:3]), *CONVOLUTION[3:]])
    run = inspection.read_run(tmp_path / "run", str(tmp_path / "d.npz"))
    model, x = run.model, np.stack([sample.inputs for sample in run.classified.worst])
    layers = model.layers[1:4] if len(model.layers) > 4 else model.layers[1].layers.values()
    y = x[..., np.newaxis]
    for layer in layers:
        y = layer.predict(y)
    assert run.classified.map_layer.endswith("rectified")
    assert run.classified.map_count == 10
    for sample, maps in zip(run.classified.worst, y, strict=True):
        assert np.allclose(sample.view.maps, maps[..., :8], atol=1e-5)


def test_images_in_colour_have_filters_in_colour_and_one_saliency(tmp_path):
    train(tmp_path, (8, 8, 3), CONVOLUTION)
    page = page_of(tmp_path)
    assert "grey is 0" in page
    run = inspection.read_run(tmp_path / "run", str(tmp_path / "d.npz"))
    sample = run.classified.worst[0]
    gradient = inspection.saliency(run.model, sample.inputs[np.newaxis], [int(sample.predicted)])[0]
    assert np.allclose(sample.view.saliency, gradient.max(axis=2))
    image = pixels_of(re.search(rf'<img[^>]*alt="Input of row {sample.row}"[^>]*>', page)[0])
    scaled = (sample.inputs - sample.inputs.min()) / (sample.inputs.max() - sample.inputs.min())
    assert np.allclose(image[..., :3], 255 * scaled, atol=1)


def test_filters_over_many_channels_are_their_mean():
    layers = [{"type": "conv2d", "filters": 70, "kernel_size": [3, 2], "name": "wide"}]
    model = specnet.build(specnet.ModelSpec(input_shape=(8, 8, 5), layers=layers))
    filters = first_filters(model)
    assert (filters.weight.shape, filters.count) == ((64, 3, 2), 70)
    assert np.allclose(filters.weight[7], model.parameters["wide.weight"][..., 7].mean(axis=2))


def test_heat_is_orange_for_positive_and_blue_for_negative_numbers():
    pixels = pixels_of(charts.heat(np.array([[2.0, -2.0, 0.0, 1.0, np.nan]]), 2.0))[0]
    assert pixels[0].tolist() == [*charts.HOT, 255]
    assert pixels[1].tolist() == [*charts.COLD, 255]
    assert pixels[2, 3] == pixels[4, 3] == 0
    assert 0.4 * 255 < pixels[3, 3] < 0.6 * 255
    assert pixels_of(charts.heat(np.ones((300, 200)), 1.0)).shape[0] <= charts.MOST_PIXELS


@pytest.mark.parametrize(
    ("shape", "first", "expected"),
    [
        ((8, 9), {"type": "flatten"}, (8, 9)),
        ((8, 9), {"type": "reshape", "shape": [8, 9, 1]}, (8, 9)),
        ((8, 9), {"type": "affine", "units": 2}, None),  # a sequence of 8 vectors
        ((8, 9), {"type": "conv1d", "filters": 2, "kernel_size": 3}, None),
        ((8, 9, 1), {"type": "relu"}, (8, 9)),
        ((8, 9, 3), {"type": "relu"}, (8, 9, 3)),
        ((8, 9, 2), {"type": "relu"}, None),
        ((3, 9, 1), {"type": "relu"}, None),
        ((64,), {"type": "relu"}, (8, 8)),
        ((65,), {"type": "relu"}, None),
        ((64,), {"type": "embedding", "vocabulary": 3, "dimension": 1}, None),
    ],
)
def test_inputs_are_recognized_as_images(shape, first, expected):
    assert image_shape(specnet.ModelSpec(input_shape=shape, layers=[first])) == expected


def test_a_binary_classifier_of_images_has_saliency(tmp_path):
    train(tmp_path, (8, 8), [{"type": "flatten"}, {"type": "affine", "units": 1}], loss="binary_cross_entropy")
    assert 'alt="Saliency map of row' in page_of(tmp_path)


def test_a_report_without_images_or_mistakes_is_complete(tmp_path):
    rows = (tmp_path / "rows", tmp_path / "right", tmp_path / "nan")
    for folder in rows:
        folder.mkdir()
    train(rows[0], (5,), [{"type": "affine", "units": 3}])
    page = page_of(rows[0])
    assert "predicted as" in page
    assert 'class="pixels"' not in page
    run = train(rows[1], (8, 8, 1), CONVOLUTION, rows=3)
    model = specnet.load(run / "last.h5")
    with np.load(rows[1] / "d.npz") as data:
        right = model.predict(data["x"]).argmax(axis=1)
        np.savez(rows[1] / "d.npz", x=data["x"], y=right)
    page = page_of(rows[1])
    assert "First-layer filters" in page
    assert "predicted as" not in page
    run = train(rows[2], (8, 8, 1), CONVOLUTION)
    model = specnet.load(run / "last.h5")
    model.parameters["strokes.weight"][...] = np.nan
    specnet.save(run / "last.h5", model)
    assert "no pixel changes the score" in page_of(rows[2])
