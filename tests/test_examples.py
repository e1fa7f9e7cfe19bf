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


def figures(out, *labels):
    """Return the number that stands behind each label in the output of a script."""
    return [float(re.search(rf"{label} +([\d.]+)", out)[1]) for label in labels]


def test_the_digits_example(python, root, tmp_path, full):
    for _ in range(1 + full):  # the second run replaces the files of the first
        out = run(python, root / "examples/digits/run.py", cwd=tmp_path)
        accuracy = float(re.search(r"accuracy on 359 held-out digits: ([\d.]+)", out)[1])
        assert accuracy >= 0.96
        assert "runs/digits-example/best.h5 loaded again" in out
    assert (tmp_path / "runs/digits-example/last.h5").exists()


def test_the_digits_are_read_with_convolutions(python, root, tmp_path):
    """The README trains with the command alone; 354 of the 359 held-out digits are 98.6 %."""
    document = root / "examples/digits_conv/digits_conv.experiment.json"
    command = [python, "-m", "specnet", "train", document]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert float(re.search(r"epoch 20 .* val_accuracy ([\d.]+)", process.stdout)[1]) >= 0.985
    assert (tmp_path / "runs/digits-conv/best.h5").exists()


def test_the_autoencoder_draws_better_than_principal_components(python, root, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = run(python, root / "examples/autoencoder/train.py", cwd=tmp_path)
    network, components = figures(out, "this network", "principal components")
    assert 4.5 < components < 7  # 8 of 64 dimensions, fitted to the training rows
    assert network < 0.6 * components
    assert (tmp_path / "autoencoder.png").read_bytes().startswith(b"\x89PNG")


def test_the_smartwatch_example_recognizes_movements_of_new_persons(python, root, tmp_path):
    for package in ("pandas", "seglearn"):  # the second needs the first
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = run(python, root / "examples/smartwatch/train.py", cwd=tmp_path)
    assert "946 windows of the persons [9, 10]" in out
    network, linear = figures(out, "this network", "means and deviations")
    assert network > linear + 3
    assert network > 83


def test_the_series_example_forecasts_better_than_a_linear_model(python, root, tmp_path):
    for package in ("pandas", "seglearn", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    out = run(python, root / "examples/series/forecast.py", cwd=tmp_path)
    assert "40498 samples; the last 8099, of the persons [9, 10], are held out" in out
    errors = {line[:16].strip(): float(line.split()[-1]) for line in out.splitlines()[3:6]}
    assert errors["last value"] == pytest.approx(0.842, abs=0.002)  # no network decides it
    assert errors["linear"] == pytest.approx(0.849, abs=0.005)
    assert errors["this network"] < 0.72


def test_the_names_example_writes_names(python, root, tmp_path, full):
    """The README trains for 60 epochs; four show that the commands work."""
    document = root / "examples/names/names.experiment.json"
    train = [python, "-m", "specnet", "train", document, *([] if full else ["--set", "training.epochs=4"])]
    subprocess.run(train, capture_output=True, text=True, cwd=tmp_path, check=True)
    out = run(python, root / "examples/names/bigram.py", cwd=tmp_path)
    bigrams, network = figures(out, "bigrams", "this network")
    assert bigrams == pytest.approx(2.146, abs=0.001)
    assert network < (1.25 if full else 2.3)
    command = [
        python,
        "-m",
        "specnet",
        "generate",
        "runs/names/best.h5",
        "--prompt",
        "dark",
        "--seed",
        "1",
        "--lines",
        "5",
    ]
    lines = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("dark") for line in lines)
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    assert again == lines


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
    linear, network = figures(out, "linear model", "this network")
    assert network > linear > 0.4
    assert (tmp_path / "runs/diabetes-example/best.h5").exists()


def test_the_spirals_example_classifies_and_draws(python, root, tmp_path):
    from xml.etree import ElementTree as ET

    out = run(python, root / "examples/spirals/run.py", cwd=tmp_path)
    assert float(re.match(r"([\d.]+)% of 300", out)[1]) >= 98
    picture = ET.fromstring((tmp_path / "spirals.svg").read_text())
    assert [child.tag.rpartition("}")[2] for child in picture].count("circle") == 600


@pytest.mark.full
@pytest.mark.parametrize(("network", "least"), [("mnist", 95.5), ("lenet", 98.3)])
def test_the_mnist_example_on_the_real_files(python, root, tmp_path, network, least):
    data = root / "../shared/data"
    files = [data / f"mnist-t10k-{name}.gz" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if not all(file.exists() for file in files):
        pytest.skip("the MNIST test images are not in shared/data")
    out = run(python, root / "examples/mnist/train.py", "--network", network, *files, cwd=tmp_path)
    assert float(re.search(r"([\d.]+)% of the held-out", out)[1]) >= least


@pytest.mark.parametrize("network", ["mnist", "lenet"])
def test_the_mnist_example_with_an_npz_file(python, root, tmp_path, network):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "m.npz", x_train=rng.integers(0, 256, (200, 28, 28), np.uint8), y_train=rng.integers(0, 10, 200)
    )
    out = run(python, root / "examples/mnist/train.py", "--network", network, "m.npz", cwd=tmp_path)
    assert "held-out digits right" in out
    assert (tmp_path / f"runs/{network}/last.h5").exists()
