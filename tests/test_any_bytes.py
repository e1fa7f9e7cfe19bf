"""Whatever a file holds: every command ends with an error of a few lines that names it, or succeeds; never a traceback.

Valid files of every format are damaged at random, from seeds that a failure names.
"""

import gzip
import json
import os
import shutil
import struct

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from tests import commands
from tests.commands import run_specnet
from tests.support import one_by_default

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 2
MODEL = {
    "input_shape": [3],
    "labels": ["a", "b"],
    "layers": [{"type": "affine", "units": 4}, {"type": "relu"}, {"type": "affine", "units": 2}],
}
EXPERIMENT = {
    "name": "e",
    "model": "m.json",
    "data": {"train": {"path": "d.npz"}, "validation": {"fraction": 0.2}},
    "training": {"loss": "softmax_cross_entropy", "epochs": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a valid file of every format."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "m.json").write_text(json.dumps(MODEL))
    (folder / "e.json").write_text(json.dumps(EXPERIMENT))
    np.savez(folder / "d.npz", x=X, y=Y, names=np.array(["a", "b"])[Y])
    np.save(folder / "d.npy", X)
    with h5py.File(folder / "d.h5", "w") as file:
        file["x"], file["y"] = X, Y
        file["names"] = ["ab"[y] for y in Y]
        file.create_dataset("packed", data=X, compression="gzip", chunks=(8, 3))
    idx = bytes([0, 0, 14, 2]) + struct.pack(">2I", *X.shape) + X.astype(">f8").tobytes()
    (folder / "d.idx").write_bytes(idx)
    (folder / "d.idx.gz").write_bytes(gzip.compress(idx))
    rows = "".join(f'{a},{b:.3g},"{c:.2g}",{"ab"[y]}\n' for (a, b, c), y in zip(X, Y, strict=True))
    (folder / "d.csv").write_text("a,b,c,y\n" + rows)
    try:
        import polars as pl

        pl.read_csv(folder / "d.csv").write_parquet(folder / "d.parquet")
    except ImportError:
        pass
    specnet.train(EXPERIMENT | {"model": MODEL, "data": {"train": {"path": str(folder / "d.npz")}}}, out=folder / "r")
    shutil.copy(folder / "r/last.h5", folder / "m.h5")
    for suffix in (".keras", ".safetensors", ".npz"):
        try:
            export(folder / f"model{suffix}", specnet.load(folder / "m.h5"))
        except specnet.SpecnetError:  # its package is not installed
            continue
    sweep = ["sweep", "e.json", "--set", "training.epochs=1,2", "--jobs", "1", "--out", "s"]
    assert run_specnet(*sweep, cwd=folder)[0] == 0
    return folder


COMMANDS = {
    "m.json": [["validate"], ["summary"], ["gradcheck"], ["diff", "m.json"], ["validate", "--json"]],
    "e.json": [["train", "--dry-run"], ["validate"], ["train", "--out", "new"]],
    "d.npz": [["predict", "m.h5", "--targets", "y", "--data"], ["init", "--target", "names", "--data"]],
    "d.npy": [["predict", "m.h5", "--data"], ["predict", "m.h5", "--out", "p.npy", "--data"]],
    "d.h5": [
        ["predict", "m.h5", "--targets", "names", "--data"],
        ["predict", "m.h5", "--inputs", "packed", "--out", "p.h5", "--data"],
    ],
    "d.idx": [["predict", "m.h5", "--data"]],
    "d.idx.gz": [["predict", "m.h5", "--data"]],
    "d.csv": [["init", "--force", "--target", "y", "--data"], ["predict", "m.h5", "--targets", "y", "--data"]],
    "d.parquet": [["init", "--force", "--target", "y", "--data"], ["predict", "m.h5", "--targets", "y", "--data"]],
    "m.h5": [
        ["inspect"],
        ["summary"],
        ["validate"],
        ["predict", "--data", "d.npz"],
        ["trace", "--input", "d.npz"],
        ["export", "--out", "o.npz"],
        ["import", "--out", "o.h5"],
        ["report", "--out", "o.html"],
        ["diff", "m.json"],
        ["replay", "r/last.h5", "--experiment", "r/experiment.json"],
    ],
    "r/last.h5": [["train", "e.json", "--out", "r", "--resume", "--set", "training.epochs=2"]],
    "r/experiment.json": [["replay", "r/last.h5", "r/last.h5", "--experiment"]],
    "s/sweep.csv": [["report", "s", "--out", "o.html"]],
    "s/epochs=1/history.csv": [["sweep", "e.json", "--set", "training.epochs=1,2", "--jobs", "1", "--out", "s"]],
    "model.keras": [["import", "--out", "o.h5"]],
    "model.safetensors": [["import", "--out", "o.h5", "--model", "m.json"]],
    "model.npz": [["import", "--out", "o.h5"]],
}
WITHOUT_FILE = ("r/last.h5", "s/sweep.csv", "s/epochs=1/history.csv")
"""Files that their commands find by themselves."""

SNIPPETS = [b"\0", b"\xff", b"\n", b"\r", b'"', b",", b"{", b"[", b"]", b"}", b"1e999", b"null", b"\xed\xa0\x80", b"NA",
            b"\x1b[31m", b"-1", b"9" * 30, b"\xef\xbb\xbf", b"nan", b"e.json", b"\xf0\x9f\x98\x80"]  # fmt: skip


def damaged(data, rng):
    """Return bytes with a few random changes: of bits and bytes, cuts, repetitions, snippets, or nothing left."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        length = int(rng.choice([1, 2, 8, 100]))
        match int(rng.integers(8)):
            case 0:
                data[at : at + 1] = bytes([int(rng.integers(256))])
            case 1 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 5:
                data[at : at + int(rng.integers(3))] = SNIPPETS[int(rng.integers(len(SNIPPETS)))]
            case 6:
                data[at : at + length] = rng.bytes(length)
            case _:
                other = int(rng.integers(len(data) + 1))
                data[at : at + length] = data[other : other + length]
    return bytes(data)


QUICK = ("m.json", "d.npz", "d.csv", "d.h5", "m.h5", "s/sweep.csv")
"""Files that are also damaged in a run of the tests without --full."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in COMMANDS])
def test_no_bytes_make_a_command_fail_with_a_traceback(files, tmp_path, monkeypatch, name, full, request):
    monkeypatch.setattr(commands, "FORKS", hasattr(os, "fork"))  # with --full, too: the start is not the point here
    if not (files / name).exists():
        pytest.skip(f"the package that writes {name} is not installed")
    shutil.copytree(files, tmp_path / "work")
    work, original = tmp_path / "work", (files / name).read_bytes()
    argument = [] if name in WITHOUT_FILE else [name]
    for seed in range(300 if request.config.getoption("--long") else 15 if full else 1):
        data = damaged(original, np.random.default_rng([seed, len(name)]))
        for command in COMMANDS[name]:
            (work / name).write_bytes(data)
            shutil.rmtree(work / "new", ignore_errors=True)
            first, *rest = command
            arguments = [first, *argument, *rest] if rest[-1:] != ["--data"] and name in ("m.json", "m.h5", "e.json") \
                else [first, *rest, *argument]  # fmt: skip
            code, output, errors = run_specnet(*arguments, cwd=work)
            told = f"seed {seed}: {' '.join(arguments)}: exit {code}\n{errors[-2000:]}"
            assert code in (0, 1, 2), told
            assert "Traceback" not in errors, told
            assert "\x1b" not in errors + output, told
            assert all(len(line) <= 2000 for line in errors.splitlines()), told


NOTHING_MUCH = [b"\0" * 100, b"", b"\n", b"{}", b"[]", b"null", b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"\xff" * 64]


@pytest.mark.parametrize("data", one_by_default(NOTHING_MUCH), ids=lambda data: repr(data[:8]))
def test_files_of_nothing_much(files, tmp_path, data):
    shutil.copytree(files, tmp_path / "work")
    for name, all_commands in COMMANDS.items():
        if not (files / name).exists():
            continue
        command = all_commands[0]
        (tmp_path / "work" / name).write_bytes(data)
        argument = [] if name in WITHOUT_FILE else [name]
        first, *rest = command
        arguments = [first, *argument, *rest] if name in ("m.json", "e.json") else [first, *rest, *argument]
        code, _, errors = run_specnet(*arguments, cwd=tmp_path / "work")
        assert code in (0, 1, 2), (arguments, errors)
        assert "Traceback" not in errors, (arguments, errors)
        (tmp_path / "work" / name).write_bytes((files / name).read_bytes())
