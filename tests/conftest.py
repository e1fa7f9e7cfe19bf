"""Options and fixtures that all tests share."""

import os
import pathlib
import shutil
import sys

import pytest
from hypothesis import settings

from tests import commands

ROOT = pathlib.Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads that wait for each other's cores only spin
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of child processes would each compile the package
settings.register_profile("default", deadline=None, max_examples=20)
settings.register_profile("full", deadline=None, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the sweeps, as CI does: about ten minutes")
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes each; implies --full")


def enabled_markers(config):
    """Return the markers whose tests run."""
    return {"full", "long"} if config.getoption("--long") else {"full"} if config.getoption("--full") else set()


def pytest_configure(config):
    markers = enabled_markers(config)
    settings.load_profile("long" if "long" in markers else "full" if "full" in markers else "default")
    commands.FORKS = commands.FORKS and not markers


def pytest_collection_modifyitems(config, items):
    for marker in {"full", "long"} - enabled_markers(config):
        skip = pytest.mark.skip(reason=f"run with --{marker}")
        for item in items:
            if marker in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def full(request):
    """Return whether the sweeps run in full."""
    return "full" in enabled_markers(request.config)


@pytest.fixture
def root():
    """Return the project's root folder."""
    return ROOT


@pytest.fixture
def digits(tmp_path):
    """Return a copy of the folder of the digits example, with its documents and data."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def python():
    """Return the path of the Python interpreter, for tests that start a child process."""
    return sys.executable
