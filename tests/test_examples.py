"""The examples run as their READMEs say."""

import re
import subprocess

import numpy as np
import pytest


def run(python, script, *arguments, cwd):
    """Run a script in a folder; give what it prints."""
    made = subprocess.run([python, script, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return made.stdout


def test_digits(python, root, tmp_path):
    for _ in range(2):  # a second time too
        out = run(python, root / "examples/digits/run.py", cwd=tmp_path)
        accuracy = float(re.search(r"accuracy on 359 held-out digits: ([\d.]+)", out)[1])
        assert accuracy >= 0.96
        assert "runs/digits-example/best.h5 loaded again" in out
    assert (tmp_path / "runs/digits-example/last.h5").exists()


def test_digits_by_hand(python, root, tmp_path):
    out = run(python, root / "examples/digits/loop.py", cwd=tmp_path)
    assert float(out.split()[-1]) > 0.97


@pytest.mark.parametrize("name", ["by_hand", "by_document"])
def test_the_tutorials_network(python, root, tmp_path, name):
    out = run(python, root / f"examples/blog_two_layer/{name}.py", cwd=tmp_path)
    numbers = [float(number) for number in re.findall(r"[\d.]*\d\.", out)]
    expected = [93, 211, 12385, 16108, 937, 1241, 1545, 1874, 2482, 3090, 937, 1241, 1545]
    assert numbers[: len(expected)] == expected


def test_the_digits_are_the_real_ones(root):
    with np.load(root / "examples/digits/digits.npz") as data:
        x, y = data["x"], data["y"]
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1797, 64), np.uint8, 0, 16)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
