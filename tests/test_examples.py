"""The example scripts run and print the results that their READMEs state."""

import re
import subprocess

import numpy as np
import pytest


def run(python, script, *arguments, cwd):
    """Run a script in the folder `cwd`; return its standard output."""
    process = subprocess.run([python, script, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_the_digits_example(python, root, tmp_path, full):
    for _ in range(1 + full):  # the second run replaces the files of the first
        out = run(python, root / "examples/digits/run.py", cwd=tmp_path)
        accuracy = float(re.search(r"accuracy on 359 held-out digits: ([\d.]+)", out)[1])
        assert accuracy >= 0.96
        assert "runs/digits-example/best.h5 loaded again" in out
    assert (tmp_path / "runs/digits-example/last.h5").exists()


def test_the_digits_example_with_a_hand_written_loop(python, root, tmp_path):
    out = run(python, root / "examples/digits/loop.py", cwd=tmp_path)
    assert float(out.split()[-1]) > 0.97


@pytest.mark.parametrize("name", ["by_hand", "by_document"])
def test_the_tutorial_network(python, root, tmp_path, name):
    out = run(python, root / f"examples/blog_two_layer/{name}.py", cwd=tmp_path)
    numbers = [float(number) for number in re.findall(r"[\d.]*\d\.", out)]
    expected = [93, 211, 12385, 16108, 937, 1241, 1545, 1874, 2482, 3090, 937, 1241, 1545]
    assert numbers[: len(expected)] == expected


def test_the_digits_data_is_unchanged(root):
    with np.load(root / "examples/digits/digits.npz") as data:
        x, y = data["x"], data["y"]
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1797, 64), np.uint8, 0, 16)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.full
def test_the_regression_example_beats_a_linear_model(python, root, tmp_path):
    pytest.importorskip("polars", reason="polars is not installed")
    out = run(python, root / "examples/regression/run.py", cwd=tmp_path)
    linear, network = (float(re.search(rf"{name} +([\d.]+)", out)[1]) for name in ("linear model", "this network"))
    assert network > linear > 0.4
    assert (tmp_path / "runs/diabetes-example/best.h5").exists()


def test_the_spirals_example_classifies_and_draws(python, root, tmp_path):
    from xml.etree import ElementTree as ET

    out = run(python, root / "examples/spirals/run.py", cwd=tmp_path)
    assert float(re.match(r"([\d.]+)% of 300", out)[1]) >= 98
    picture = ET.fromstring((tmp_path / "spirals.svg").read_text())
    assert [child.tag.rpartition("}")[2] for child in picture].count("circle") == 600


@pytest.mark.full
def test_the_mnist_example_on_the_real_files(python, root, tmp_path):
    data = root / "../shared/data"
    files = [data / f"mnist-t10k-{name}.gz" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if not all(file.exists() for file in files):
        pytest.skip("the MNIST test images are not in shared/data")
    out = run(python, root / "examples/mnist/train.py", *files, cwd=tmp_path)
    assert float(re.search(r"([\d.]+)% of the held-out", out)[1]) >= 95.5


def test_the_mnist_example_with_an_npz_file(python, root, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "m.npz", x_train=rng.integers(0, 256, (200, 28, 28), np.uint8), y_train=rng.integers(0, 10, 200)
    )
    assert "held-out digits right" in run(python, root / "examples/mnist/train.py", "m.npz", cwd=tmp_path)
