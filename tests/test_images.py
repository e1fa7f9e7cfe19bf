"""Test images: uint8 arrays that stay uint8, the scale of a run, IDX files, and folders of images by class."""

import gc
import gzip
import json
import struct
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet import DataError
from specnet.data.files import read_array
from specnet.prediction.predict import predict_file
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from tests.commands import run_specnet
from tests.support import arrays_of, same_arrays

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (120, 6, 6), dtype=np.uint8)
CLASSES = (IMAGES[:, :3].mean(axis=(1, 2)) > IMAGES[:, 3:].mean(axis=(1, 2))).astype(np.uint8)
SHARED_DATA = "../shared/data"


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def document(train, validation=None, first=(), input_shape=(6, 6, 1), **training):
    layers = [*first, {"type": "flatten"}, {"type": "affine", "units": 8}, {"type": "relu"}]
    return {
        "name": "images",
        "model": {"input_shape": list(input_shape), "layers": [*layers, {"type": "affine", "units": 2}]},
        "data": {"train": train, "validation": {"fraction": 0.25} if validation is None else validation},
        "training": {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 16, **training},
    }


def idx(array, code, dtype):
    """Return the bytes of an IDX file."""
    return (
        bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(dtype).tobytes()
    )


def write_formats():
    """Write the images in every format, and return the data entries."""
    np.savez("d.npz", x=IMAGES, y=CLASSES)
    np.savez("floats.npz", x=IMAGES.astype(np.float64), y=CLASSES)
    np.save("x.npy", IMAGES)
    np.save("y.npy", CLASSES)
    with h5py.File("d.h5", "w") as file:
        file["x"], file["y"] = IMAGES, CLASSES
    Path("images-idx3-ubyte").write_bytes(idx(IMAGES, 8, "u1"))
    Path("labels.gz").write_bytes(gzip.compress(idx(CLASSES, 8, "u1")))
    return {
        "floats": {"path": "floats.npz"},
        "npz": {"path": "d.npz"},
        "npy": {"inputs": "x.npy", "targets": "y.npy"},
        "h5": {"path": "d.h5"},
        "idx": {"inputs": "images-idx3-ubyte", "targets": "labels.gz"},
    }


def trained(entry, out, **options):
    return specnet.train(document(entry, **options), out=out).model


@pytest.mark.parametrize("scale", [None, 255])
@pytest.mark.parametrize("shuffle", [True, False])
def test_bytes_of_every_format_train_as_floats(scale, shuffle):
    entries = {name: entry | ({} if scale is None else {"scale": scale}) for name, entry in write_formats().items()}
    expected = trained(entries.pop("floats"), "floats", shuffle=shuffle)
    for name, entry in entries.items():
        model = trained(entry, name, shuffle=shuffle)
        assert same_arrays(arrays_of(model), arrays_of(expected)), name
        assert model.run_state["data_sha256"] == expected.run_state["data_sha256"]
        assert np.array_equal(model.run_state["features/high"], expected.run_state["features/high"])


def test_a_scale_divides_the_rows_that_standardize_is_fitted_to():
    entries = write_formats()
    by_scale = trained(entries["npz"] | {"scale": 51}, "a", first=[{"type": "standardize"}])
    np.savez("divided.npz", x=IMAGES.astype(np.float32) / np.float32(51), y=CLASSES)
    divided = trained({"path": "divided.npz"}, "b", first=[{"type": "standardize"}])
    assert by_scale.buffers["standardize_1.mean"] < 5
    assert same_arrays(arrays_of(by_scale), arrays_of(divided))


def test_images_stay_bytes_in_memory():
    write_formats()
    _, train, validation = load_data(*load_experiment(document({"path": "d.npz", "scale": 255})))
    assert (train.stored.dtype, train.stored.nbytes) == (np.uint8, 90 * 36)
    assert (validation.stored.dtype, validation.inputs.dtype) == (np.uint8, np.float32)
    assert validation.inputs.max() <= 1


def test_a_large_array_of_bytes_is_never_converted_as_a_whole():
    """Memory for training, validation and prediction is a little more than the bytes, not four times as much."""
    images = np.zeros((12_000, 64, 64), np.uint8)
    np.save("x.npy", images)
    np.save("y.npy", np.arange(12_000) % 2)
    entry = {"inputs": "x.npy", "targets": "y.npy", "scale": 255}
    experiment = document(entry, validation=entry, input_shape=(64, 64, 1), epochs=1, batch_size=256)
    tracemalloc.start()
    try:
        model = specnet.train(experiment, out="r").model
        trained = tracemalloc.get_traced_memory()[1]
        gc.collect()  # the rows of the run
        tracemalloc.reset_peak()
        predict_file(model, "x.npy")
        predicted = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 2 * images.nbytes < trained < 3 * images.nbytes  # training and validation rows are two arrays
    assert images.nbytes < predicted < 2.5 * images.nbytes


def test_predictions_evaluations_and_reports_divide_by_the_scale_of_the_run():
    write_formats()
    Path("e.json").write_text(json.dumps(document({"path": "d.npz", "scale": 255}, {"path": "d.npz"})))
    assert run_specnet("train", "e.json", "--out", "r")[0] == 0
    model = specnet.load("r/best.h5")
    with np.errstate(all="raise"):
        logits = model.predict(IMAGES[..., np.newaxis].astype(np.float32) / np.float32(255), batch_size=120)
    for data, out in (("d.npz", "p.npz"), ("x.npy", "p.npy"), ("floats.npz", "q.npz"), ("images-idx3-ubyte", "i.npy")):
        code, _, err = run_specnet("predict", "r/best.h5", "--data", data, "--out", out, "--logits")
        assert code == 0, err
        assert "far outside" not in err
        predicted = np.load(out) if out.endswith("npy") else np.load(out)["outputs"]
        assert np.array_equal(predicted, logits), data
    history = specnet.load("r/last.h5").run_state
    code, out, _ = run_specnet("predict", "r/last.h5", "--data", "d.npz", "--targets", "y", "--json", "--out", "p.csv")
    assert json.loads(out)["metrics"]["loss"] == pytest.approx(history["history/val_loss"][-1])


def test_a_report_recognizes_the_rows_of_a_run_that_scales():
    write_formats()
    Path("e.json").write_text(json.dumps(document({"path": "d.npz", "scale": 255})))
    assert run_specnet("train", "e.json", "--out", "r")[0] == 0
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    code, _, err = run_specnet("report", "r", "--data", "d.npz", "--out", "report.html")
    assert code == 0, err
    assert "rows held out for validation, 30 of 120" in Path("report.html").read_text()


def test_a_validation_file_has_the_scale_of_the_training_rows_unless_it_states_another():
    write_formats()
    np.savez("scaled.npz", x=IMAGES / 255, y=CLASSES)
    for validation in ({"inputs": "x.npy", "targets": "y.npy"}, {"path": "scaled.npz", "scale": 1}):
        data = load_data(*load_experiment(document({"path": "d.npz", "scale": 255}, validation)))
        assert np.allclose(data.validation.inputs[..., 0], IMAGES / 255, atol=1e-7)


def test_another_scale_is_another_run():
    write_formats()
    Path("e.json").write_text(json.dumps(document({"path": "d.npz", "scale": 255})))
    assert run_specnet("train", "e.json", "--out", "r")[0] == 0
    code, _, err = run_specnet("train", "e.json", "--out", "r", "--resume", "--set", "data.train.scale=256")
    assert code != 0
    assert "the training or validation data differ" in err


@pytest.mark.parametrize("scale", [0, -1, "255", True, 1e300])
def test_a_scale_is_a_positive_number(scale):
    with pytest.raises(specnet.SpecError, match=r"data\.train\.scale: expected a positive number, from 1e-30 to 1e30"):
        load_experiment(document({"path": "d.npz", "scale": scale}))


def test_a_scale_that_makes_values_infinite_or_changes_indices_is_refused():
    np.savez("d.npz", x=np.full((20, 6), 1e20), y=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"d\.npz: inputs: row 1, column 1: expected a finite number, got inf"):
        load_data(*load_experiment(document({"path": "d.npz", "scale": 1e-20}, input_shape=[6])))
    np.savez("d.npz", x=np.ones((20, 6), np.uint8), y=np.arange(20) % 2)
    tokens = document(
        {"path": "d.npz"}, first=[{"type": "embedding", "vocabulary": 3, "dimension": 2}], input_shape=[6]
    )
    assert load_data(*load_experiment(tokens)).train.inputs.dtype == np.int64
    with pytest.raises(DataError, match="first layer takes indices, which scale would change; leave scale out"):
        load_data(*load_experiment(tokens, {"data.train.scale": "2"}))


def test_timestamps_that_float32_cannot_tell_apart_are_refused_with_a_scale_too():
    np.savez("d.npz", x=1.7e9 + np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    with pytest.raises(DataError, match="too close together for float32"):
        load_data(*load_experiment(document({"path": "d.npz", "scale": 1e9}, input_shape=[2])))


def test_the_axis_of_channels_may_be_missing_if_its_length_is_1():
    write_formats()
    model = trained({"path": "d.npz"}, "a")
    np.savez("channels.npz", x=IMAGES[..., np.newaxis], y=CLASSES)
    assert same_arrays(arrays_of(model), arrays_of(trained({"path": "channels.npz"}, "b")))
    assert np.array_equal(model.predict(IMAGES), model.predict(IMAGES[..., np.newaxis]))
    for shape in ([6, 6, 2], [6, 1, 6]):
        with pytest.raises(DataError, match="the model expects shape"):
            trained({"path": "d.npz"}, "c", input_shape=shape)


def test_fit_keeps_bytes_and_trains_as_with_floats():
    spec = specnet.ModelSpec(**document({})["model"])
    models = [specnet.build(spec) for _ in range(2)]
    for model, images in zip(models, (IMAGES, IMAGES.astype(np.float32)), strict=True):
        specnet.fit(model, images, CLASSES, loss="softmax_cross_entropy", epochs=2, validation=0.25)
    assert same_arrays(arrays_of(models[0]), arrays_of(models[1]))


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "a.idx", "letters", "a.gz", "packed"])
def test_idx_files_of_every_type_and_name(code, dtype, name):
    values = np.arange(-3 if code != 8 else 0, 21 if code != 8 else 24).reshape(4, 2, 3)
    data = idx(values, code, dtype)
    Path(name).write_bytes(gzip.compress(data) if name in ("a.gz", "packed") else data)
    array = read_array(Path(name))
    assert np.array_equal(array, values)
    assert array.dtype == np.dtype(dtype).newbyteorder("=")


HOSTILE_IDX = {
    "cut in the data": (idx(IMAGES, 8, "u1")[:-1], "expected 4320 bytes for shape (120, 6, 6), got 4319"),
    "cut in the sizes": (idx(IMAGES, 8, "u1")[:11], "does not match its header"),
    "longer than its header": (idx(IMAGES, 8, "u1") + b"\0", "got 4321"),
    "sizes of terabytes": (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0" * 99, "would unpack to"),
    "too many axes": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0", "cannot be read"),
    "another type": (b"\0\0\x07\x01\0\0\0\1\0", "is not an IDX file: its first bytes are 00 00 07 01"),
    "empty": (b"", "its first bytes are missing"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE_IDX.values(), ids=HOSTILE_IDX.keys())
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_idx_files_are_refused_by_name(data, message, packed):
    Path("x-idx3-ubyte").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError) as caught:
        read_array(Path("x-idx3-ubyte"))
    assert str(caught.value).startswith("x-idx3-ubyte: ")
    assert message in str(caught.value)


def test_a_packed_idx_file_is_unpacked_only_as_far_as_its_header_says():
    small = b"\0\0\x08\x01\0\0\0\x05" + b"\0" * 2**24
    Path("x.idx.gz").write_bytes(gzip.compress(small))
    with pytest.raises(DataError, match="expected 5 bytes for shape \\(5,\\), got 6"):
        read_array(Path("x.idx.gz"))
    Path("cut.idx.gz").write_bytes(gzip.compress(idx(IMAGES, 8, "u1"))[:-30])
    with pytest.raises(DataError, match=r"cut\.idx\.gz: cannot be read"):
        read_array(Path("cut.idx.gz"))


def test_the_test_images_of_mnist_are_learned_from_the_distributed_files(root):
    folder = (root / SHARED_DATA).resolve()
    if not (folder / "mnist-t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("the MNIST test images are not available")
    entry = {
        "inputs": str(folder / "mnist-t10k-images-idx3-ubyte.gz"),
        "targets": str(folder / "mnist-t10k-labels-idx1-ubyte.gz"),
        "scale": 255,
    }
    experiment = document(entry, input_shape=(28, 28, 1), epochs=1, batch_size=64)
    experiment["model"]["layers"][1]["units"], experiment["model"]["layers"][-1]["units"] = 32, 10
    assert specnet.train(experiment, out="r").history["val_accuracy"][-1] > 0.8
