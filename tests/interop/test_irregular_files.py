"""Test that every importer refuses what is no regular file in one line, at once, and without waiting for it."""

import importlib.util
import os
import socket
import subprocess
import sys

import pytest

import specnet
from specnet.interop.importing import READERS, import_model
from tests.support import model_of

SUFFIXES = (*READERS, ".h5", ".weights.h5", ".caffemodel.h5")
SPEC = model_of({"type": "relu"}).spec
CODE = """
import sys
from specnet.errors import CheckpointError
from specnet.interop.importing import import_model
for path in sys.argv[1:]:
    try:
        import_model(path)
    except CheckpointError as error:
        print(error)
"""


def needs_package(suffix):
    if suffix in (".onnx", ".safetensors"):
        pytest.importorskip(suffix[1:], reason="not installed")


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def unix_socket(path):
    os.chdir(path.parent)  # the path of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def folder(path):
    path.mkdir()


def missing(_path):
    pass


def loop(path):
    path.symlink_to(path.name)


KINDS = {
    fifo: "cannot be read: it is not a regular file",
    device: "cannot be read: it is not a regular file",
    unix_socket: "cannot be read: ",
    folder: "is a folder, expected a file",
    missing: "cannot be read: No such file or directory",
    loop: "cannot be read: Too many levels of symbolic links",
}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_only_regular_files_are_read(tmp_path, monkeypatch, python, make):
    """Check it in another process, which is stopped if it waits for the file."""
    monkeypatch.chdir(tmp_path)
    packages = {".onnx": "onnx", ".safetensors": "safetensors"}
    suffixes = [s for s in SUFFIXES if s not in packages or importlib.util.find_spec(packages[s]) is not None]
    paths = [tmp_path / f"m{suffix}" for suffix in suffixes]
    for path in paths:
        make(path)
    done = subprocess.run([python, "-c", CODE, *paths], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith(f"{path}: {KINDS[make]}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_paths_that_cannot_be_opened_are_refused(tmp_path, suffix):
    needs_package(suffix)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / f"m{suffix}", tmp_path / f"{'m' * 300}{suffix}", f"{tmp_path}/m\0{suffix}"):
        with pytest.raises(specnet.CheckpointError) as caught:
            import_model(path, None)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads every file")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unreadable_files_are_refused(tmp_path, suffix):
    needs_package(suffix)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"data")
    path.chmod(0)
    with pytest.raises(specnet.CheckpointError, match="cannot be read: Permission denied"):
        import_model(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_refused(tmp_path, suffix):
    needs_package(suffix)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"")
    with pytest.raises(specnet.CheckpointError) as caught:
        import_model(path, None if suffix in (".keras", ".onnx") else SPEC)
    assert "\n" not in str(caught.value)
