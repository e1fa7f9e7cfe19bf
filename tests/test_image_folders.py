"""Test folders of images by class: training and predicting from real files, and refusing what is no such image."""

import io
import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import DataError
from specnet.data.image_folder import read_images
from tests.commands import run_specnet

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SHAPE = (8, 6, 3)


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def picture(brightness, seed):
    noise = np.random.default_rng(seed).integers(0, 60, SHAPE)
    return np.clip(noise + brightness, 0, 255).astype(np.uint8)


def write_photos(folder="photos", rows=20):
    """Write dark cats and light dogs as PNG, and return them in order."""
    for name, brightness in (("dogs", 160), ("cats", 20)):
        Path(folder, name).mkdir(parents=True)
        for row in range(rows):
            Image.fromarray(picture(brightness, row)).save(f"{folder}/{name}/{row:02}.png")
    return np.stack([picture(brightness, row) for brightness in (20, 160) for row in range(rows)])


def document(input_shape=SHAPE, path="photos", **data):
    layers = [{"type": "flatten"}, {"type": "affine", "units": 2}]
    return {
        "name": "photos",
        "model": {"input_shape": list(input_shape), "layers": layers},
        "data": {"train": {"path": path, "scale": 255}, "validation": {"fraction": 0.25}, **data},
        "training": {
            "loss": "softmax_cross_entropy",
            "epochs": 30,
            "batch_size": 8,
            "optimizer": {"type": "adam", "learning_rate": 0.02},
        },
    }


def refusal(input_shape=SHAPE, folder="photos"):
    with pytest.raises(DataError) as caught:
        read_images(Path(folder), input_shape)
    return str(caught.value)


def test_a_folder_of_images_is_trained_on_and_predicted():
    images = write_photos()
    Path("e.json").write_text(json.dumps(document()))
    code, _, err = run_specnet("train", "e.json", "--out", "r")
    assert code == 0, err
    model = specnet.load("r/best.h5")
    assert model.spec.labels == ("cats", "dogs")
    code, out, err = run_specnet("predict", "r/best.h5", "--data", "photos", "--targets", "class", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["metrics"]["accuracy"] == 1
    assert [row["class"] for row in result["predictions"]] == ["cats"] * 20 + ["dogs"] * 20
    np.savez("arrays.npz", x=images)
    code, other, err = run_specnet("predict", "r/best.h5", "--data", "arrays.npz", "--json")
    assert code == 0, err
    assert json.loads(other)["predictions"] == result["predictions"]
    shutil.copytree("photos/dogs", "unknown")
    code, out, err = run_specnet("predict", "r/best.h5", "--data", "unknown", "--json")
    assert code == 0, err
    assert [row["class"] for row in json.loads(out)["predictions"]] == ["dogs"] * 20


def test_the_rows_do_not_depend_on_the_order_of_the_files_in_the_folder():
    images = write_photos()
    digest = specnet.train(document(), out="a").model.run_state["data_sha256"]
    for path in sorted(Path("photos/cats").iterdir(), reverse=True):  # written anew, in another order
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    assert np.array_equal(read_images(Path("photos"), SHAPE).inputs, images)
    assert specnet.train(document(), out="b").model.run_state["data_sha256"] == digest


def test_a_validation_folder_and_a_report():
    write_photos()
    write_photos("held_out", rows=3)
    Path("e.json").write_text(json.dumps(document(validation={"path": "held_out"})))
    assert run_specnet("train", "e.json", "--out", "r")[0] == 0
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    code, _, err = run_specnet("report", "r", "--data", "held_out", "--out", "report.html")
    assert code == 0, err
    assert "These are the validation rows of the run" in Path("report.html").read_text()


def test_images_get_the_channels_of_the_model():
    for name, mode in (("a", "L"), ("b", "RGB"), ("c", "P"), ("d", "1"), ("e", "RGBA"), ("f", "LA")):
        Path("photos", name).mkdir(parents=True)
        Image.fromarray(picture(90, 0)).convert(mode).save(f"photos/{name}/x.png")
    grey = Image.fromarray(picture(90, 0)).convert("L")
    for shape in ((8, 6), (8, 6, 1), (8, 6, 3)):
        rows = read_images(Path("photos"), shape)
        assert rows.inputs.shape == (6, *shape)
        assert rows.inputs.dtype == np.uint8
        assert rows.targets.tolist() == list("abcdef")
        expected = np.asarray(grey.convert("RGB") if shape == SHAPE else grey).reshape(shape)
        assert np.array_equal(rows.inputs[0], expected)
        assert np.array_equal(rows.inputs[5], expected)
    assert np.array_equal(read_images(Path("photos"), SHAPE).inputs[[1, 4]], [picture(90, 0)] * 2)
    for shape in ((48,), (8, 6, 2), (8, 6, 3, 1)):
        assert "is a folder of images; expected input_shape [height, width, 1]" in refusal(shape)


def test_jpeg_images_links_and_hidden_files():
    write_photos(rows=1)
    Image.fromarray(np.full(SHAPE, 100, np.uint8)).save("photos/cats/x.JPG", quality=95)
    Path("photos/cats/.DS_Store").write_text("hidden")
    Path("photos/.cache").mkdir()
    os.symlink(Path("photos/cats/x.JPG").resolve(), "photos/cats/y.jpeg")
    os.symlink(Path("photos/cats").resolve(), "photos/lynxes")
    rows = read_images(Path("photos"), SHAPE)
    assert rows.targets.tolist() == ["cats"] * 3 + ["dogs"] + ["lynxes"] * 3
    assert np.abs(rows.inputs[1].astype(int) - 100).max() < 5
    assert np.array_equal(rows.inputs[1], rows.inputs[2])


def save(image, **options):
    image.save("photos/cats/bad.png", **options)


OTHERS = {
    "of another size": (lambda: save(Image.new("RGB", (7, 8))), "expected 8 x 6 pixels .* got 8 x 7 pixels; resize it"),
    "transparent": (lambda: save(Image.new("RGBA", (6, 8), (0, 0, 0, 99))), "has transparent pixels"),
    "palette with a transparent colour": (
        lambda: save(Image.new("P", (6, 8)), transparency=0),
        "has transparent pixels",
    ),
    "of 16 bits": (lambda: save(Image.fromarray(np.zeros((8, 6), np.uint16))), "expected values of 8 bits, got 16"),
    "animated": (
        lambda: save(Image.new("L", (6, 8)), save_all=True, append_images=[Image.new("L", (6, 8), 9)]),
        "got an animation",
    ),
    "CMYK": (lambda: save(Image.new("CMYK", (6, 8)), format="JPEG"), "expected a grey or RGB image, got CMYK"),
    "GIF": (lambda: save(Image.new("L", (6, 8)), format="GIF"), "is not a valid PNG or JPEG image; remove it"),
    "text": (lambda: Path("photos/cats/bad.png").write_text("<svg/>"), "is not a valid PNG or JPEG image"),
    "empty": (lambda: Path("photos/cats/bad.png").write_bytes(b""), "is not a valid PNG or JPEG image"),
    "a fifo": (lambda: os.mkfifo("photos/cats/bad.png"), "not a regular file"),
    "a broken link": (lambda: os.symlink("nowhere", "photos/cats/bad.png"), "there is no such file"),
    "a folder": (lambda: Path("photos/cats/bad.png").mkdir(), "expected an image .* got a folder"),
}


@pytest.mark.parametrize(("write", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_other_files_are_refused_by_name(write, message):
    write_photos(rows=1)
    write()
    with pytest.raises(DataError, match=rf"^photos/cats/bad\.png: .*{message}"):
        read_images(Path("photos"), SHAPE)


def test_a_truncated_image_is_refused_by_name():
    write_photos(rows=1)
    data = Path("photos/dogs/00.png").read_bytes()
    Path("photos/dogs/00.png").write_bytes(data[: len(data) // 2])
    assert refusal().startswith("photos/dogs/00.png: cannot be read: ")


def test_an_image_of_billions_of_pixels_is_refused_before_it_is_decoded():
    write_photos(rows=1)
    for side in (20_000, 12_000):  # beyond both limits of Pillow: an error, a warning
        head = bytearray(Path("photos/dogs/00.png").read_bytes())
        head[16:24] = side.to_bytes(4, "big") * 2
        head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
        Path("photos/cats/00.png").write_bytes(head)
        assert refusal().startswith("photos/cats/00.png: ")


def test_folders_that_are_not_images_by_class_are_refused_by_name():
    Path("photos").mkdir()
    assert refusal() == "photos: expected images, the folder is empty; fill it or remove it"
    write_photos("loose", rows=1)
    shutil.copy("loose/cats/00.png", "loose/x.png")
    assert refusal(folder="loose").startswith("loose/x.png: expected a folder for each class, got a file")
    assert refusal(folder="loose/cats").startswith("loose/cats/00.png: expected a folder for each class")
    write_photos("empty", rows=1)
    Path("empty/birds").mkdir()
    assert refusal(folder="empty") == "empty/birds: expected images, the folder is empty; fill it or remove it"
    Path("empty/birds/notes.txt").write_text("no image")
    assert refusal(folder="empty").startswith("empty/birds/notes.txt: expected an image (.png, .jpg, .jpeg)")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"targets": "y"}, "leave out inputs, targets and weights"),
        ({"in_memory": False}, "only .npy and .h5 files can be read in parts"),
    ],
)
def test_settings_that_a_folder_cannot_have_are_refused(entry, message):
    write_photos(rows=4)
    Path("e.json").write_text(json.dumps(document(train={"path": "photos", **entry})))
    code, _, err = run_specnet("validate", "e.json")
    assert code != 0
    assert message in err


def test_another_number_of_classes_than_outputs_is_refused():
    write_photos(rows=2)
    Path("photos/birds").mkdir()
    Image.fromarray(picture(1, 1)).save("photos/birds/1.png")
    with pytest.raises(DataError, match=r"there are 3 classes \(birds, cats, dogs\), the model has 2 outputs"):
        specnet.train(document(), out="r")


def test_without_pillow_the_error_names_the_extra(python):
    write_photos(rows=2)
    Path("e.json").write_text(json.dumps(document()))
    code = "import sys; sys.modules['PIL'] = None; import specnet; specnet.train('e.json')"
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert "reading images needs Pillow; pip install 'specnet-nn[images]'" in process.stderr


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_images_are_read_or_refused_by_name(kind, full):
    Path("photos/a").mkdir(parents=True)
    file = io.BytesIO()
    Image.fromarray(picture(90, 0)).save(file, kind)
    data, rng = file.getvalue(), np.random.default_rng(0)
    for _ in range(3000 if full else 150):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            damaged[rng.integers(len(data))] = rng.integers(256)
        Path("photos/a/x.png").write_bytes(damaged[: rng.integers(len(data))] if rng.random() < 0.3 else damaged)
        try:
            assert read_images(Path("photos"), SHAPE).inputs.shape == (1, *SHAPE)
        except DataError as error:
            assert str(error).startswith("photos/a/x.png: ")
