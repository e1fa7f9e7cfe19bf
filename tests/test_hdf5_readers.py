"""Other HDF5 readers, if installed, read the names, the arrays and the training history of a checkpoint."""

import json
import shutil
import subprocess

import numpy as np
import pytest

import specnet
from tests.support import model_of, npm_install


@pytest.fixture
def model():
    model = model_of({"type": "affine", "name": "hidden", "units": 3}, *[{"type": "prelu"}] * 12, dtype="float32")
    model.run_state = {"step": 2, "history/epoch": np.array([1, 2]), "history/loss": np.array([0.5, 0.25])}
    return model


@pytest.fixture
def path(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    return tmp_path / "m.h5"


def test_pyfive_reads_a_checkpoint(path, model):
    pyfive = pytest.importorskip("pyfive", reason="pyfive is not installed")
    with pyfive.File(str(path)) as file:
        assert np.array_equal(file["layers/hidden/parameters/weight"][...], model.parameters["hidden.weight"])
        assert sorted(file["layers"]) == sorted(["hidden", *(f"prelu_{n}" for n in range(1, 13))])
        assert np.array_equal(file["training/history/loss"][...], [0.5, 0.25])


def test_h5wasm_reads_a_checkpoint(path, model, root, tmp_path):
    npm_install(tmp_path, "h5wasm@0.10.3")
    command = ["node", root / "tests/golden/h5wasm.mjs", path]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {
        "format": "specnet-checkpoint",
        "first": "training/history",
        "document": "model",
        "weight": model.parameters["hidden.weight"].reshape(-1).tolist(),
        "shape": [5, 3],
        "signal": "loss",
        "loss": [0.5, 0.25],
    }


@pytest.mark.parametrize("tool", ["h5dump", "h5ls"])
def test_hdf5_command_line_tools_read_a_checkpoint(path, tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    command = [tool, path] if tool == "h5dump" else [tool, "-r", path]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "hidden" in process.stdout
    assert "history" in process.stdout
