"""Checkpoints open elsewhere: each reader that is there sees the names, the numbers and the curves."""

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


def test_pyfive(path, model):
    pyfive = pytest.importorskip("pyfive", reason="pyfive is not installed")
    with pyfive.File(str(path)) as file:
        assert np.array_equal(file["layers/hidden/parameters/weight"][...], model.parameters["hidden.weight"])
        assert sorted(file["layers"]) == sorted(["hidden", *(f"prelu_{n}" for n in range(1, 13))])
        assert np.array_equal(file["training/history/loss"][...], [0.5, 0.25])


def test_h5wasm(path, model, root, tmp_path):
    npm_install(tmp_path, "h5wasm@0.10.3")
    command = ["node", root / "tests/golden/h5wasm.mjs", path]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == {
        "format": "specnet-checkpoint",
        "first": "training/history",
        "document": "model",
        "weight": model.parameters["hidden.weight"].reshape(-1).tolist(),
        "shape": [5, 3],
        "signal": "loss",
        "loss": [0.5, 0.25],
    }


@pytest.mark.parametrize("tool", ["h5dump", "h5ls"])
def test_the_tools_of_hdf5(path, tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    command = [tool, path] if tool == "h5dump" else [tool, "-r", path]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "hidden" in made.stdout
    assert "history" in made.stdout
