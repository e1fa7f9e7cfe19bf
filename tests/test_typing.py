"""Type checkers report no errors in a typed user program, tests/typing/user.py, and the program runs."""

import shutil
import subprocess

import pytest


@pytest.fixture
def program(tmp_path, root):
    shutil.copy(root / "tests/typing/user.py", tmp_path)
    return tmp_path


@pytest.mark.full
def test_mypy_strict_reports_no_errors(program, python):
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [python, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    process = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


@pytest.mark.full
def test_pyright_reports_no_errors(program, python):
    pytest.importorskip("pyright", reason="pyright is not installed")
    command = [python, "-m", "pyright", "--pythonpath", python, "user.py"]
    process = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    if "0 errors" not in process.stdout and "error:" not in process.stdout:
        pytest.skip(f"pyright did not start: {(process.stderr or process.stdout)[-200:]}")
    assert process.returncode == 0, process.stdout


def test_the_program_runs(program, python):
    process = subprocess.run([python, "user.py"], cwd=program, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
