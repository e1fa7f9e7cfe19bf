"""Options and fixtures that all tests share."""

import pathlib
import shutil
import sys

import pytest
from hypothesis import settings

ROOT = pathlib.Path(__file__).parent.parent

settings.register_profile("default", deadline=None, max_examples=20)
settings.register_profile("full", deadline=None, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the sweeps, as CI does: about ten minutes")
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes each; implies --full")


def wanted(config):
    """The markers whose tests run."""
    return {"full", "long"} if config.getoption("--long") else {"full"} if config.getoption("--full") else set()


def pytest_configure(config):
    settings.load_profile("long" if "long" in wanted(config) else "full" if "full" in wanted(config) else "default")


def pytest_collection_modifyitems(config, items):
    for marker in {"full", "long"} - wanted(config):
        skip = pytest.mark.skip(reason=f"run with --{marker}")
        for item in items:
            if marker in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def root():
    """The project's folder."""
    return ROOT


@pytest.fixture
def digits(tmp_path):
    """A copy of the digits example's documents and data."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def python():
    """The interpreter, for tests that need a process of their own."""
    return sys.executable
