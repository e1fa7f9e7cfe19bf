"""Foreign files that were made to harm: refused in one line, nothing written, nothing outside read, no hang."""

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
from specnet.interop.hdf5 import sandbox as apart
from specnet.interop.importing import import_model
from tests.test_cli import run

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"


def edited(tmp_path, change, source="keras3.h5"):
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
    "soft link": (lambda f, g: g.__setitem__("soft", h5py.SoftLink("/model_weights")), "is a link to elsewhere"),
    "external link": (
        lambda f, g: g.__setitem__("out", h5py.ExternalLink("secret.h5", "/x")),
        "is a link to elsewhere",
    ),
    "cycle": (lambda f, g: g.__setitem__("self", g), "is reached by two names"),
    "external storage": (
        lambda f, g: f.create_dataset("e", (4,), "f4", external=[("secret", 0, 16)]),
        "is stored in a way that specnet does not follow",
    ),
    "virtual": (
        lambda f, g: f.create_virtual_dataset("v", virtual_layout()),
        "is stored in a way that specnet does not follow",
    ),
    "committed type": (lambda f, g: f.__setitem__("type", np.dtype("f4")), "is neither a group nor a dataset"),
    "compound": (lambda f, g: f.create_dataset("c", (3,), [("a", "f4")]), "expected numbers or text"),
    "reference": (lambda f, g: f.create_dataset("r", data=g.ref, dtype=h5py.ref_dtype), "expected numbers or text"),
    "claims": (lambda f, g: f.create_dataset("big", (2 * 10**7,), "f4", chunks=(1000,)), "more than 1,000 times"),
    "claims in all": (
        lambda f, g: [
            f.create_dataset(f"z{i}", (2**24,), "f4", chunks=(2**20,), compression=1, data=REPEATED) for i in range(5)
        ],
        "together they are far larger than the file",
    ),
    "lzf": (lambda f, g: f.create_dataset("l", data=np.ones(99), compression="lzf"), "is stored in a way"),
    "no config": (lambda f, g: f.attrs.__setitem__("model_config", "no json"), "its model_config is no JSON object"),
    "deep config": (
        lambda f, g: f.attrs.__setitem__("model_config", "[" * 50_000),
        "its model_config is no JSON object",
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


@pytest.mark.parametrize(("change", "told"), HDF5.values(), ids=HDF5.keys())
def test_hdf5(tmp_path, change, told):
    (tmp_path / "secret").write_bytes(b"s" * 16)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(4, "f4")
    path = edited(tmp_path, change)
    before = set(tmp_path.iterdir())
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert told in err
    assert err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("data", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_what_is_no_hdf5(tmp_path, data):
    (tmp_path / "k.h5").write_bytes(data)
    with pytest.raises(specnet.CheckpointError, match="HDF5 cannot read it"):
        import_model(tmp_path / "k.h5")


def test_a_reader_that_hangs_is_ended(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(apart, "_CHILD", child)
    monkeypatch.setattr(apart, "SECONDS", 1)
    begun = time.monotonic()
    with pytest.raises(specnet.CheckpointError, match="HDF5 has not read it within 1 seconds"):
        import_model(GOLDEN / "keras3.h5")
    assert time.monotonic() - begun < 20


def test_a_reader_that_crashes_is_told(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(apart, "_CHILD", child)
    with pytest.raises(specnet.CheckpointError, match="the reader ended with -11"):
        import_model(GOLDEN / "keras3.h5")


def test_flipped_bits_never_crash_nor_hang(tmp_path):
    """Every outcome of a damaged Keras file is a model or one of our errors; 40 places here, more with --long."""
    data = (GOLDEN / "keras3.weights.h5").read_bytes()
    rng = np.random.default_rng(0)
    spec = specnet.ModelSpec(
        **json.loads(json.dumps(__import__("tests.interop.test_golden", fromlist=["KERAS"]).KERAS))
    )
    for place in rng.choice(8192, 40, replace=False):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        path = tmp_path / "d.weights.h5"
        path.write_bytes(damaged)
        try:
            import_model(path, spec)
        except specnet.CheckpointError as error:
            assert "\n" not in str(error)


def repacked(tmp_path, change):
    """Copy the golden .keras with other members."""
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
    "path trick": (lambda m, z: z.writestr("../../evil", b"x"), "an archive with '../../evil'"),
    "absolute": (lambda m, z: z.writestr("/tmp/evil", b"x"), "an archive with '/tmp/evil'"),
    "tricky asset": (lambda m, z: z.writestr("assets/../../evil", b"x"), "an archive with"),
    "twice": (lambda m, z: z.writestr("config.json", b"{}"), "an archive with 'members of one name'"),
    "bomb": (lambda m, z: m.__setitem__("config.json", b" " * 2**25), "config.json unpacks to 33,554,432 bytes"),
    "weights bomb": (lambda m, z: m.__setitem__("model.weights.h5", bytes(200_000_000)), "model.weights.h5 unpacks to"),
    "no weights": (lambda m, z: m.pop("model.weights.h5"), "is no .keras file"),
    "no json": (lambda m, z: m.__setitem__("config.json", b"{"), "its config.json is no JSON object"),
    "no config": (lambda m, z: m.__setitem__("config.json", b"{}"), "a config that is none of Keras"),
    "layers": (
        lambda m, z: m.__setitem__("config.json", b'{"class_name": "Sequential", "config": {"layers": [1]}}'),
        "a config that is none of Keras",
    ),
    "lambda": (
        lambda m, z: with_layer(m, class_name="Lambda", config={"name": "l", "function": {"class_name": "__lambda__"}}),
        r"l (Lambda): the layer's type",
    ),
    "module": (lambda m, z: with_layer(m, module="os"), "hidden (Dense): the layer's type"),
    "registered": (lambda m, z: with_layer(m, registered_name="evil>Dense"), "hidden (Dense): the layer's type"),
    "units": (
        lambda m, z: with_layer(m, config={"name": "hidden", "units": 10**15}),
        "makes no valid model",
    ),
    "units of text": (lambda m, z: with_layer(m, config={"name": "hidden", "units": "5"}), "makes no valid model"),
}


NUMBERS = {
    "huge epsilon": {"class_name": "LayerNormalization", "config": {"name": "n", "epsilon": 10**400}},
    "huge mean": {"class_name": "Normalization", "config": {"name": "n", "mean": [10**400], "variance": [1]}},
    "odd axes": {"class_name": "PReLU", "config": {"name": "n", "shared_axes": {"a": 1}}},
    "odd shape": {"class_name": "Reshape", "config": {"name": "n", "target_shape": [float("inf")]}},
    "no config": {"class_name": "Dense", "config": None},
}


@pytest.mark.parametrize("layer", NUMBERS.values(), ids=NUMBERS.keys())
def test_settings_of_any_kind_are_refused_in_a_line(tmp_path, layer):
    path = repacked(tmp_path, lambda members, archive: with_layer(members, **layer))
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert err.count("\n") == 1


def test_many_layers_of_one_name_take_no_longer(tmp_path):
    def many(members, _archive):
        config = json.loads(members["config.json"])
        config["config"]["layers"][1:] = [{"class_name": "Dropout", "config": {"name": "n", "rate": 0.1}}] * 5000
        members["config.json"] = json.dumps(config).encode()
        members["model.weights.h5"] = EMPTY

    begun = time.monotonic()
    found = import_model(repacked(tmp_path, many))
    assert len(found.model.layers) == 5000
    assert time.monotonic() - begun < 30


def _empty():
    file = io.BytesIO()
    h5py.File(file, "w").close()
    return file.getvalue()


EMPTY = _empty()


def test_arrays_that_no_file_holds_are_bounded(tmp_path):
    def wide(members, _archive):
        config = json.loads(members["config.json"])
        first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 200_000_000]}}
        norm = {"class_name": "LayerNormalization", "config": {"name": "n", "scale": False, "center": False}}
        config["config"]["layers"] = [first, norm]
        members["config.json"] = json.dumps(config).encode()

    with pytest.raises(specnet.CheckpointError, match="takes inputs of 200,000,000 numbers"):
        import_model(repacked(tmp_path, wide))


def test_odd_safetensors_and_folders(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    import safetensors.numpy

    spec = specnet.ModelSpec(input_shape=(1,), layers=[{"type": "affine", "units": 1}])
    safetensors.numpy.save_file({"9" * 5000 + ".weight": np.ones((1, 1), "f4")}, tmp_path / "n.safetensors")
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "n.safetensors", spec)
    with pytest.raises(specnet.CheckpointError, match="is a folder"):
        import_model(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("change", "told"), KERAS.values(), ids=KERAS.keys())
def test_keras_archives(tmp_path, change, told):
    path = repacked(tmp_path, change)
    before = set(tmp_path.iterdir())
    _, err = run("import", path, "--out", "m.h5", cwd=tmp_path, code=1)
    assert told in err
    assert err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_pickle_by_any_name_is_not_opened(tmp_path):
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


def test_memory_is_bounded_by_the_file(tmp_path):
    """Small files that claim much are refused by a process that may use 1.5 GB in all."""
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 99_999_999) + b"{}")
    bomb = repacked(tmp_path, KERAS["weights bomb"][0])
    claims = edited(tmp_path, HDF5["claims"][0])
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
    made = subprocess.run(
        [sys.executable, "-c", code, *paths],
        capture_output=True,
        check=False,
        text=True,
        preexec_fn=limit,
        env=environment,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == 3
