"""Options and fixtures that all tests share."""

import pathlib
import shutil
import sys

import pytest
from hypothesis import settings

ROOT = pathlib.Path(__file__).parent.parent

settings.register_profile("specnet", deadline=None, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile("specnet")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests that take minutes")


def pytest_configure(config):
    if config.getoption("--long"):
        settings.load_profile("long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="takes minutes; run with --long")
        for item in items:
            if "long" in item.keywords:
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
