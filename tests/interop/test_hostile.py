"""Test that malicious files are rejected in one line; specnet writes nothing, reads no other file and never hangs."""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.hdf5 import sandbox
from specnet.interop.importing import import_model
from specnet.interop.keras.config import KerasNetwork
from tests.test_cli import run

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"


def copy_with_hdf5_change(tmp_path, change, source="keras3.h5"):
    """Copy a golden file and let `change` edit it as HDF5."""
    path = tmp_path / source
    shutil.copy(GOLDEN / source, path)
    with h5py.File(path, "r+") as file:
        change(file, file["model_weights/hidden"])
    return path


def replace(group, name, make):
    del group[name]
    make(group)


HDF5 = {
    "soft link": (lambda f, g: g.__setitem__("soft", h5py.SoftLink("/model_weights")), "is a soft or external link"),
    "external link": (
        lambda f, g: g.__setitem__("out", h5py.ExternalLink("secret.h5", "/x")),
        "is a soft or external link",
    ),
    "cycle": (lambda f, g: g.__setitem__("self", g), "is a second name of another object"),
    "external storage": (
        lambda f, g: f.create_dataset("e", (4,), "f4", external=[("secret", 0, 16)]),
        "uses a form of storage that specnet does not support",
    ),
    "virtual": (
        lambda f, g: f.create_virtual_dataset("v", virtual_layout()),
        "uses a form of storage that specnet does not support",
    ),
    "committed type": (lambda f, g: f.__setitem__("type", np.dtype("f4")), "is neither a group nor a dataset"),
    "compound": (lambda f, g: f.create_dataset("c", (3,), [("a", "f4")]), "expected numbers or text"),
    "reference": (lambda f, g: f.create_dataset("r", data=g.ref, dtype=h5py.ref_dtype), "expected numbers or text"),
    "claims": (lambda f, g: f.create_dataset("big", (2 * 10**7,), "f4", chunks=(1000,)), "more than 1,000 times"),
    "claims in all": (
        lambda f, g: [
            f.create_dataset(f"z{i}", (2**24,), "f4", chunks=(2**20,), compression=1, data=REPEATED) for i in range(5)
        ],
        "all arrays together are far larger than the file",
    ),
    "lzf": (lambda f, g: f.create_dataset("l", data=np.ones(99), compression="lzf"), "uses a form of storage"),
    "no config": (lambda f, g: f.attrs.__setitem__("model_config", "no json"), "its model_config is not a JSON object"),
    "deep config": (
        lambda f, g: f.attrs.__setitem__("model_config", "[" * 50_000),
        "its model_config is not a JSON object",
    ),
    "weight names": (
        lambda f, g: g.attrs.__setitem__("weight_names", ["../../etc/passwd", "b"]),
        "passwd' is missing",
    ),
    "fewer weights": (
        lambda f, g: g.attrs.__setitem__("weight_names", ["golden/hidden/kernel"]),
        "hidden has 1 arrays",
    ),
    "text for a weight": (
        lambda f, g: replace(g, "golden/hidden/kernel", lambda g: g.__setitem__("golden/hidden/kernel", b"text")),
        "hidden",
    ),
}
REPEATED = np.tile(np.random.default_rng(0).normal(size=1024).astype("f4"), 2**14)


def virtual_layout():
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (4,))
    return layout


@pytest.mark.parametrize(("change", "message_part"), HDF5.values(), ids=HDF5.keys())
def test_malicious_hdf5_files_are_rejected(tmp_path, change, message_part):
    (tmp_path / "secret").write_bytes(b"s" * 16)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(4, "f4")
    path = copy_with_hdf5_change(tmp_path, change)
    before = set(tmp_path.iterdir())
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert message_part in err
    assert err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("data", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_files_that_are_not_hdf5_are_rejected(tmp_path, data):
    (tmp_path / "k.h5").write_bytes(data)
    with pytest.raises(specnet.CheckpointError, match="HDF5 cannot read it"):
        import_model(tmp_path / "k.h5")


def test_a_hanging_reader_process_is_stopped(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(sandbox, "_CHILD", child)
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(specnet.CheckpointError, match="HDF5 did not read it within 1 seconds"):
        import_model(GOLDEN / "keras3.h5")
    assert time.monotonic() - start < 20


def test_a_crashing_reader_process_is_reported(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(sandbox, "_CHILD", child)
    with pytest.raises(specnet.CheckpointError, match="the child process exited with -11"):
        import_model(GOLDEN / "keras3.h5")


@pytest.mark.full
def test_flipped_bits_cause_no_crash(tmp_path, full):
    """Check that importing a damaged Keras file returns a model or raises CheckpointError."""
    data = (GOLDEN / "keras3.weights.h5").read_bytes()
    rng = np.random.default_rng(0)
    spec = specnet.ModelSpec(
        **json.loads(json.dumps(__import__("tests.interop.test_golden", fromlist=["KERAS"]).KERAS))
    )
    for offset in rng.choice(8192, 40, replace=False)[: 40 if full else 10]:
        damaged = bytearray(data)
        damaged[offset] ^= 1 << rng.integers(8)
        path = tmp_path / "d.weights.h5"
        path.write_bytes(damaged)
        try:
            import_model(path, spec)
        except specnet.CheckpointError as error:
            assert "\n" not in str(error)


def copy_with_archive_change(tmp_path, change):
    """Copy the golden .keras file with its members changed."""
    with zipfile.ZipFile(GOLDEN / "keras3.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "k.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        change(members, archive)
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_layer(members, **layer):
    config = json.loads(members["config.json"])
    config["config"]["layers"][2] |= layer
    members["config.json"] = json.dumps(config).encode()


KERAS = {
    "path trick": (lambda m, z: z.writestr("../../evil", b"x"), "the archive contains '../../evil'"),
    "absolute": (lambda m, z: z.writestr("/tmp/evil", b"x"), "the archive contains '/tmp/evil'"),
    "tricky asset": (lambda m, z: z.writestr("assets/../../evil", b"x"), "the archive contains"),
    "twice": (lambda m, z: z.writestr("config.json", b"{}"), "the archive contains two members with the same name"),
    "bomb": (lambda m, z: m.__setitem__("config.json", b" " * 2**25), "config.json unpacks to 33,554,432 bytes"),
    "weights bomb": (lambda m, z: m.__setitem__("model.weights.h5", bytes(200_000_000)), "model.weights.h5 unpacks to"),
    "no weights": (lambda m, z: m.pop("model.weights.h5"), "is not a .keras file"),
    "no json": (lambda m, z: m.__setitem__("config.json", b"{"), "its config.json is not a JSON object"),
    "no config": (lambda m, z: m.__setitem__("config.json", b"{}"), "its config is not one of Keras"),
    "layers": (
        lambda m, z: m.__setitem__("config.json", b'{"class_name": "Sequential", "config": {"layers": [1]}}'),
        "its config is not one of Keras",
    ),
    "lambda": (
        lambda m, z: with_layer(m, class_name="Lambda", config={"name": "l", "function": {"class_name": "__lambda__"}}),
        r"l (Lambda): the layer's type",
    ),
    "module": (lambda m, z: with_layer(m, module="os"), "hidden (Dense): the layer's type"),
    "registered": (lambda m, z: with_layer(m, registered_name="evil>Dense"), "hidden (Dense): the layer's type"),
    "units": (
        lambda m, z: with_layer(m, config={"name": "hidden", "units": 10**15}),
        "hidden: an output would have 1,000,000,000,000,000 numbers, expected at most",
    ),
    "units of text": (
        lambda m, z: with_layer(m, config={"name": "hidden", "units": "5"}),
        "does not form a valid model",
    ),
}


NUMBERS = {
    "huge epsilon": {"class_name": "LayerNormalization", "config": {"name": "n", "epsilon": 10**400}},
    "huge mean": {"class_name": "Normalization", "config": {"name": "n", "mean": [10**400], "variance": [1]}},
    "odd axes": {"class_name": "PReLU", "config": {"name": "n", "shared_axes": {"a": 1}}},
    "odd shape": {"class_name": "Reshape", "config": {"name": "n", "target_shape": [float("inf")]}},
    "no config": {"class_name": "Dense", "config": None},
}


@pytest.mark.parametrize("layer", NUMBERS.values(), ids=NUMBERS.keys())
def test_invalid_layer_settings_are_rejected_in_one_line(tmp_path, layer):
    path = copy_with_archive_change(tmp_path, lambda members, archive: with_layer(members, **layer))
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert err.count("\n") == 1


SPATIAL = {
    "Conv1D": ("filters", "kernel_size", "strides", "dilation_rate", "groups", "padding"),
    "Conv1DTranspose": ("kernel_size", "output_padding"),
    "DepthwiseConv1D": ("depth_multiplier",),
    "MaxPooling1D": ("pool_size", "strides", "data_format"),
    "ZeroPadding1D": ("padding",),
    "Cropping1D": ("cropping",),
    "UpSampling1D": ("size",),
}


@pytest.mark.parametrize("class_name", SPATIAL)
def test_invalid_settings_of_spatial_layers_are_rejected_in_one_line(tmp_path, class_name):
    """Check numbers of all kinds in all settings, without the child process that reads the weights."""
    for key in SPATIAL[class_name]:
        refused = 0
        for value in (-1, 10**400, [2**62], [[-1, 2**62]], {}, "a", 1.5, 0, 2**29, True, [], [1, 2, 3]):
            config = {"name": "n", "filters": 2, "kernel_size": 2, "output_padding": None, key: value}
            layers = [
                {"class_name": "InputLayer", "config": {"batch_shape": [None, 9, 3]}},
                {"class_name": class_name, "config": config},
            ]
            try:
                network = KerasNetwork("k.keras", {"class_name": "Sequential", "config": {"layers": layers}})
                assert network.spec({}).plan().layers[-1].output_shape[0] > 0
            except specnet.CheckpointError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 700
                refused += 1
        assert refused >= 7, key


RECURRENT = {
    "GRU": ("units", "activation", "recurrent_activation", "return_state", "stateful"),
    "SimpleRNN": ("units", "activation"),
    "Bidirectional": ("merge_mode", "layer", "backward_layer"),
    "Masking": ("mask_value",),
    "TimeDistributed": ("layer",),
}


@pytest.mark.parametrize("class_name", RECURRENT)
def test_invalid_settings_of_recurrent_layers_are_rejected_in_one_line(class_name):
    inner = {"class_name": "LSTM", "config": {"name": "l", "units": 2}}
    odd = [{"class_name": "LSTM"}, {"class_name": "LSTM", "config": []}, {**inner, "module": "os"}, {"config": {}}]
    for key in RECURRENT[class_name]:
        refused = 0
        for value in (-1, 10**400, [2**62], {}, "a", float("nan"), 2**29, [], *odd):
            config = {"name": "n", "units": 2, "layer": inner, key: value}
            layers = [
                {"class_name": "InputLayer", "config": {"batch_shape": [None, 9, 3]}},
                {"class_name": class_name, "config": config},
            ]
            try:
                network = KerasNetwork("k.keras", {"class_name": "Sequential", "config": {"layers": layers}})
                network.spec({})
            except specnet.CheckpointError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 700
                refused += 1
        assert refused >= 6, key


@pytest.mark.full
def test_many_layers_with_the_same_name_are_imported_quickly(tmp_path):
    def add_layers(members, _archive):
        config = json.loads(members["config.json"])
        config["config"]["layers"][1:] = [{"class_name": "Dropout", "config": {"name": "n", "rate": 0.1}}] * 5000
        members["config.json"] = json.dumps(config).encode()
        members["model.weights.h5"] = EMPTY

    start = time.monotonic()
    imported = import_model(copy_with_archive_change(tmp_path, add_layers))
    assert len(imported.model.layers) == 5000
    assert time.monotonic() - start < 30


def _empty():
    file = io.BytesIO()
    h5py.File(file, "w").close()
    return file.getvalue()


EMPTY = _empty()


def test_arrays_sized_by_the_configuration_are_bounded(tmp_path):
    def add_wide_layers(members, _archive):
        config = json.loads(members["config.json"])
        first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 200_000_000]}}
        norm = {"class_name": "LayerNormalization", "config": {"name": "n", "scale": False, "center": False}}
        config["config"]["layers"] = [first, norm]
        members["config.json"] = json.dumps(config).encode()

    with pytest.raises(specnet.CheckpointError, match="takes inputs of 200,000,000 numbers"):
        import_model(copy_with_archive_change(tmp_path, add_wide_layers))


def test_malformed_safetensors_and_folders_are_rejected(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    import safetensors.numpy

    spec = specnet.ModelSpec(input_shape=(1,), layers=[{"type": "affine", "units": 1}])
    safetensors.numpy.save_file({"9" * 5000 + ".weight": np.ones((1, 1), "f4")}, tmp_path / "n.safetensors")
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "n.safetensors", spec)
    with pytest.raises(specnet.CheckpointError, match="is a folder"):
        import_model(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("change", "message_part"), KERAS.values(), ids=KERAS.keys())
def test_malicious_keras_archives_are_rejected(tmp_path, change, message_part):
    path = copy_with_archive_change(tmp_path, change)
    before = set(tmp_path.iterdir())
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert message_part in err
    assert err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_pickles_are_never_loaded_whatever_the_file_name(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    data = pickle.dumps(Evil())
    for name in ("m.pt", "m.pkl", "m.joblib", "m.keras", "m.h5", "m.npz", "m.safetensors", "m.onnx"):
        if name.endswith(("onnx", "safetensors")):
            pytest.importorskip(name[2:], reason="not installed")
        (tmp_path / name).write_bytes(data)
        with pytest.raises(specnet.CheckpointError) as caught:
            import_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "o.npz", a=np.array([Evil()], object))
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "o.npz", specnet.ModelSpec(input_shape=(1,), layers=[{"type": "relu"}]))
    assert not (tmp_path / "pwned").exists()


def test_memory_is_bounded_by_the_file_size(tmp_path):
    """Check that a process limited to 1.5 GB of memory rejects small files that declare large arrays."""
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 99_999_999) + b"{}")
    bomb = copy_with_archive_change(tmp_path, KERAS["weights bomb"][0])
    claims = copy_with_hdf5_change(tmp_path, HDF5["claims"][0])
    code = (
        "import sys; from specnet.interop.importing import import_model\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        import_model(path)\n"
        "    except ValueError as error:\n        print(error)\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, 1_500_000_000))

    paths = [str(tmp_path / "h.safetensors"), str(bomb), str(claims)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, *paths],
        capture_output=True,
        check=False,
        text=True,
        preexec_fn=limit,
        env=environment,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) == 3
