"""Test layers of other packages: entry points, the record in checkpoints, and messages about missing packages."""

import json
import os
import subprocess
import sys

import h5py
import jsonschema
import numpy as np
import pytest

import specnet
from specnet import ModelSpec
from specnet.checkpoint.plugins import missing_plugins
from specnet.spec import registry
from specnet.spec.registry import find_layer, load_plugins


@pytest.fixture(scope="module")
def swish(tmp_path_factory):
    """Return a folder into which pip has installed the example package."""
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("swish")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    process = subprocess.run([*command, ROOT / "examples/custom_layer"], capture_output=True, text=True, check=False)
    if process.returncode:
        pytest.skip(f"pip cannot build the example package: {process.stderr.strip().splitlines()[-1:]}")
    return folder


def run(*arguments, home=None, cwd=None, code=0):
    """Run a module as a command with `home` on the Python path; return its standard output and error."""
    process = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "PYTHONPATH": str(home or "")},
    )
    assert process.returncode == code, process.stdout + process.stderr
    return process.stdout, process.stderr


@pytest.fixture(scope="module")
def trained(swish, tmp_path_factory):
    """Return the folder of a finished run of a model with the example package's layer."""
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    np.savez(folder / "d.npz", x=x, y=(np.abs(x).sum(axis=1) > 1).astype(int))
    experiment = {
        "model": str(ROOT / "examples/custom_layer/swish.model.json"),
        "data": {"train": {"path": "d.npz"}},
        "training": {
            "loss": "softmax_cross_entropy",
            "optimizer": {"type": "adam", "learning_rate": 0.01},
            "epochs": 5,
        },
    }
    (folder / "e.json").write_text(json.dumps(experiment))
    run("specnet", "train", "e.json", "--out", "run", home=swish, cwd=folder)
    return folder


def test_the_example_package_passes_the_layer_checks(swish, root):
    out, _ = run("pytest", "-q", "-p", "no:cacheprovider", root / "examples/custom_layer/tests", home=swish, cwd=swish)
    assert "9 passed" in out


def test_documents_and_commands_accept_the_layer_of_the_package(swish, root):
    document = root / "examples/custom_layer/swish.model.json"
    assert "242 parameters" not in run("specnet", "validate", document, home=swish)[0]
    assert "residual_1.example_swish_1" in run("specnet", "summary", document, home=swish)[0]
    assert "WRONG" not in run("specnet", "gradcheck", document, home=swish)[0]
    assert 'unknown layer type "example_swish"' in run("specnet", "validate", document, code=1)[1]
    schema = json.loads(run("specnet", "schema", "model", "--with-plugins", home=swish)[0])
    jsonschema.validate(json.loads(document.read_text()), schema)
    schema_without_plugins = run("specnet", "schema", "model", home=swish)[0]
    assert schema_without_plugins == (root / "schemas/model.schema.json").read_text()


def test_a_checkpoint_records_the_package_and_the_error_names_it_if_missing(swish, trained):
    path = trained / "run/last.h5"
    with h5py.File(path) as file:
        records = json.loads(file["/provenance/plugins"].asstr()[()])
    assert records == [
        {"type": "example_swish", "module": "specnet_swish", "distribution": "specnet-swish", "version": "0.1.0"}
    ]
    out, _ = run("specnet", "predict", path, "--data", trained / "d.npz", "--targets", "y", home=swish)
    assert "accuracy" in out
    run("specnet", "train", "e.json", "--out", "run", "--resume", "--set", "training.epochs=6", home=swish, cwd=trained)
    with pytest.raises(specnet.CheckpointUnsupportedError) as caught:
        specnet.load(path)
    assert '"example_swish" was saved with specnet-swish 0.1.0, which is not installed here' in str(caught.value)
    assert "valid:" not in str(caught.value)
    assert "pip install 'specnet-swish==0.1.0'" in str(caught.value)
    _, err = run("specnet", "summary", path, code=1)
    assert len(err.splitlines()) == 1
    assert "pip install 'specnet-swish==0.1.0'" in err


def test_a_layer_registered_by_a_script_is_recorded_by_its_module(tmp_path):
    code = (
        "import numpy, specnet\nfrom specnet.layers import Tanh\n"
        "@specnet.register_layer('script_tanh')\nclass S(specnet.LayerSpec):\n    layer = Tanh\n"
        "model = specnet.build(specnet.ModelSpec(input_shape=[2], layers=[{'type': 'script_tanh'}]))\n"
        "specnet.save('m.h5', model)\nprint(specnet.load('m.h5').predict([[0, 0]]))\n"
    )
    (tmp_path / "my_layers.py").write_text(code)
    assert "[[0. 0.]]" in run("my_layers", home=tmp_path, cwd=tmp_path)[0]
    with pytest.raises(specnet.CheckpointUnsupportedError, match="registered by the Python module __main__"):
        specnet.load(tmp_path / "m.h5")


def test_malformed_plugin_records_are_ignored():
    valid = {"type": "a", "module": "m", "distribution": "d-x", "version": "1.0"}
    for change in (
        {"distribution": "d; rm -rf ~"},
        {"distribution": "-r evil"},
        {"version": "1' && true"},
        {"module": "os\nsystem"},
        {"type": 3},
        {"distribution": None},
    ):
        assert missing_plugins(json.dumps([{**valid, **change}]).encode(), ["a"]) == {}
    for malformed in (b"", b"[", b"{}", b"3", b"[3, null]", b'["a"]', json.dumps([valid] * 1000).encode()):
        assert missing_plugins(malformed, ["a"]) == {}
    assert missing_plugins(json.dumps([valid]).encode(), ["b"]) == {}
    assert len(missing_plugins(json.dumps([valid]).encode(), ["a"])) == 1


# ---------------------------------------------------------------- entry points that fail


@pytest.fixture
def install_package(tmp_path, monkeypatch):
    """Return a function that installs a package with these entry points and modules."""

    def install(package, entry_points, **modules):
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{package}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[specnet.layers]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    before = set(registry._registered)
    yield install
    for name in ("toy", "toy_broken", "other"):
        sys.modules.pop(name, None)
    for name in set(registry._registered) - before:
        del registry._registered[name]


TOY = "import specnet\nfrom specnet.layers import Tanh\nclass ToySpec(specnet.LayerSpec):\n    layer = Tanh\n"


def message_of_problem(layer_type):
    """Return the message of the only problem of a document with a layer of this type."""
    with pytest.raises(specnet.SpecError) as caught:
        ModelSpec(input_shape=(4,), layers=[{"type": layer_type}])
    (problem,) = caught.value.problems
    return problem.message


def test_a_package_offers_a_layer_by_entry_point(install_package):
    install_package("toy", {"toy_tanh": "toy:ToySpec"}, toy=TOY)
    spec = ModelSpec(input_shape=(4,), layers=[{"type": "toy_tanh"}])
    assert specnet.build(spec).forward(np.zeros((1, 4))).tolist() == [[0.0] * 4]
    assert find_layer("no_such_layer") is None


def test_a_failing_entry_point_is_reported_and_the_others_work(install_package, capsys):
    home = install_package(
        "toys",
        {"toy_one": "toy:ToySpec", "toy_broken": "toy_broken:X", "toy_absent": "toy:Absent", "toy_odd": "toy:specnet"},
        toy=TOY,
        toy_broken="raise RuntimeError('no licence')\n",
    )
    assert "package toys: it fails to import: no licence" in message_of_problem("toy_broken")
    assert "package toys: it fails to import" in message_of_problem("toy_absent")
    assert "toy:specnet is not a subclass of LayerSpec" in message_of_problem("toy_odd")
    failures = [str(error) for error in load_plugins()]
    assert len(failures) == 3
    assert "toy_one" in registry.layer_types()
    out, err = run("specnet", "schema", "model", "--with-plugins", home=home)
    assert "toy_one" in json.loads(out)["$defs"]["layer"]["properties"]["type"]["enum"]
    assert len([line for line in err.splitlines() if line.startswith("skipped: layer type 'toy_")]) == 3


def test_a_layer_type_offered_by_two_packages_is_rejected(install_package):
    install_package("toy", {"toy_tanh": "toy:ToySpec", "relu": "toy:ToySpec"}, toy=TOY)
    install_package("another", {"toy_tanh": "other:ToySpec"}, other=TOY)
    assert "is provided by another and toy; uninstall all but one" in message_of_problem("toy_tanh")
    failures = " ".join(str(error) for error in load_plugins())
    assert "'relu' of the package toy: layer type 'relu' is taken by specnet.spec.layers.relu.ReluSpec" in failures
    assert ModelSpec(input_shape=(4,), layers=[{"type": "relu"}]).layers[0].layer is specnet.layers.Relu


def test_a_checkpoint_whose_plugin_fails_is_unsupported(install_package, tmp_path):
    install_package("toy", {"toy_tanh": "toy:ToySpec"}, toy=TOY)
    model = specnet.build(ModelSpec(input_shape=(4,), layers=[{"type": "toy_tanh"}]))
    specnet.save(tmp_path / "m.h5", model)
    del registry._registered["toy_tanh"]
    del sys.modules["toy"]
    (tmp_path / "toy.py").write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(specnet.CheckpointUnsupportedError, match="no licence"):
        specnet.load(tmp_path / "m.h5")
