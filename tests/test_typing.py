"""Typed users see no false error: type checkers find nothing in a user's program, and the program runs."""

import shutil
import subprocess

import pytest


@pytest.fixture
def program(tmp_path, root):
    shutil.copy(root / "tests/typing/user.py", tmp_path)
    return tmp_path


def test_mypy_strict_finds_nothing(program, python):
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [python, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    checked = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.full
def test_pyright_finds_nothing(program, python):
    pytest.importorskip("pyright", reason="pyright is not installed")
    command = [python, "-m", "pyright", "--pythonpath", python, "user.py"]
    checked = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    if "0 errors" not in checked.stdout and "error:" not in checked.stdout:
        pytest.skip(f"pyright did not start: {(checked.stderr or checked.stdout)[-200:]}")
    assert checked.returncode == 0, checked.stdout


def test_the_program_runs(program, python):
    ran = subprocess.run([python, "user.py"], cwd=program, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
