"""Test that importing any bytes raises SpecnetError, in one line, or returns: damaged files of all formats."""

import io
import time
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.test_golden import KERAS, TORCH
from tests.support import model_of

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
SPEC = model_of({"type": "affine", "units": 3}, {"type": "batch_norm"}, dtype="float32").spec
IMAGES = model_of(
    {"type": "conv2d", "filters": 4, "kernel_size": [2, 3], "padding": [[1, 0], 2], "groups": 2},
    {"type": "batch_norm"},
    {"type": "max_pool2d", "pool_size": [2, 1]},
    {"type": "conv_transpose2d", "filters": 2, "kernel_size": 3, "stride": 2, "padding": "same"},
    {"type": "upsample2d"},
    {"type": "crop2d", "cropping": [1, [0, 2]]},
    {"type": "flatten"},
    {"type": "affine", "units": 2},
    input_shape=(4, 3, 2),
    dtype="float32",
).spec
SEQUENCES = model_of(
    {"type": "lstm", "units": 3, "return_sequences": True},
    {"type": "bidirectional", "layers": [{"type": "gru", "units": 2, "return_sequences": True}]},
    {"type": "simple_rnn", "units": 4},
    {"type": "affine", "units": 2},
    input_shape=(5, 3),
    dtype="float32",
).spec
ATTENTION = model_of(
    {"type": "positional_encoding", "kind": "learned", "length": 7},
    {"type": "residual", "layers": [{"type": "attention", "heads": 2, "causal": True}]},
    {"type": "last_step"},
    input_shape=(5, 4),
    dtype="float32",
).spec
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\x80",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    b'"',
    b"{",
    b"-1",
    b"e9",
)


def exported(suffix):
    def make(folder):
        path = folder / f"good{suffix}"
        export(path, specnet.build(SPEC), suffix.removeprefix("."))
        return path.read_bytes()

    return make


def built(spec, suffix):
    """Return a maker of a network, for ONNX without its document, so that the graph is read."""

    def make(folder):
        path = folder / f"good{suffix}"
        export(path, specnet.build(spec), suffix.removeprefix("."))
        if suffix != ".onnx":
            return path.read_bytes()
        import onnx

        model = onnx.load(path)
        del model.metadata_props[:]
        return model.SerializeToString()

    return make


def golden(name):
    return lambda _folder: (GOLDEN / name).read_bytes()


def caffe(_folder):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["data/affine_1/0"], file["data/affine_1/1"] = np.ones((3, 5), "f4"), np.ones(3, "f4")
    return buffer.getvalue()


def checkpoint(folder):
    """Return a checkpoint in other HDF5 structures, as a viewer writes it."""
    specnet.save(folder / "m.h5", specnet.build(SPEC))
    buffer = io.BytesIO()
    with h5py.File(folder / "m.h5") as old, h5py.File(buffer, "w") as new:
        new.attrs.update(old.attrs)
        for name in old:
            old.copy(name, new)
    return buffer.getvalue()


AFFINE = model_of({"type": "affine", "units": 3}, dtype="float32").spec
FORMATS = {
    "m.npz": (exported(".npz"), None, 400),
    "weights.npz": (exported(".npz"), SPEC, 200),
    "m.safetensors": (exported(".safetensors"), None, 400),
    "torch.safetensors": (golden("torch.safetensors"), specnet.ModelSpec(**TORCH), 200),
    "m.onnx": (exported(".onnx"), None, 400),
    "torch.onnx": (golden("torch-dynamo.onnx"), None, 200),
    "spatial.onnx": (built(IMAGES, ".onnx"), None, 400),
    "spatial.safetensors": (built(IMAGES, ".safetensors"), None, 100),
    "spatial.keras": (built(IMAGES, ".keras"), None, 30),
    "recurrent.onnx": (built(SEQUENCES, ".onnx"), None, 400),
    "recurrent.safetensors": (built(SEQUENCES, ".safetensors"), SEQUENCES, 100),
    "recurrent.keras": (built(SEQUENCES, ".keras"), None, 30),
    "attention.onnx": (built(ATTENTION, ".onnx"), None, 400),
    "attention.safetensors": (built(ATTENTION, ".safetensors"), ATTENTION, 100),
    "m.keras": (golden("keras3.keras"), None, 40),
    "m.h5": (golden("keras3.h5"), None, 15),
    "keras2.h5": (golden("keras2.h5"), None, 10),
    "m.weights.h5": (golden("keras3.weights.h5"), specnet.ModelSpec(**KERAS), 10),
    "m.caffemodel.h5": (caffe, AFFINE, 10),
    "checkpoint.h5": (checkpoint, None, 10),
}
"""A good file, the document that it is imported with, and how often it is damaged; HDF5 needs a process each time."""


def damaged(data, rng):
    """Return bytes with one to four changes: flipped, replaced, removed, repeated or moved."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(len(changed) + 1))
        span = int(rng.integers(1, 2 ** rng.integers(1, 9)))
        kind = rng.integers(7)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[start : start + span] = rng.bytes(span)
        elif kind == 2:
            del changed[start : start + span]
        elif kind == 3:
            changed[start:start] = changed[start : start + span]
        elif kind == 4 and rng.integers(4) == 0:
            del changed[start:]
        elif kind == 5:
            other = int(rng.integers(len(changed) + 1))
            changed[start : start + span] = changed[other : other + span]
        else:
            piece = INTERESTING[rng.integers(len(INTERESTING))]
            changed[start : start + len(piece)] = piece
    return bytes(changed)


def damaged_member(data, rng):
    """Return a zip archive of which one member is damaged, or all are; its sums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = str(rng.choice([*members]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if rng.integers(2) else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(
                name, damaged(content[: 200 if rng.integers(2) else None], rng) if name == chosen else content
            )
    return buffer.getvalue()


def damaged_text(data, rng):
    """Return bytes of which a piece of JSON or of a header is replaced by one of the same length."""
    old, new = [(b"float32", b"float64"), (b"<f4", b"<U9"), (b"<f4", b"|O8"), (b"<f4", b"<c8"), (b"F32", b"I64"),
                (b"false", b"1e999"), (b"(3,)", b"(-3)"), (b"null", b"9e99"), (b"{", b"["), (b"5", b"-")][
        rng.integers(10)
    ]  # fmt: skip
    place = data.find(old, int(rng.integers(len(data))))
    return data[:place] + new + data[place + len(old) :] if place >= 0 else damaged(data, rng)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_any_bytes_are_imported_or_refused(tmp_path, full, name):
    make, spec, count = FORMATS[name]
    if name.endswith((".onnx", ".safetensors")):
        pytest.importorskip(name.rpartition(".")[2], reason="not installed")
    data, path = make(tmp_path), tmp_path / name
    path.write_bytes(data)
    import_model(path, spec)
    is_archive = data.startswith(b"PK")
    for seed in range(4 * count if full else count // 8):
        rng = np.random.default_rng(seed)
        ways = (damaged, damaged_text, *([damaged_member] * 2 if is_archive else []))
        path.write_bytes(ways[rng.integers(len(ways))](data, rng))
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_model(path, spec)
        except specnet.SpecnetError as error:
            assert "\n" not in str(error), f"{name}, seed {seed}"
            assert str(error).startswith(str(path)), f"{name}, seed {seed}: {error}"
        except Exception as error:  # noqa: BLE001 - any other type is a fault
            pytest.fail(f"{name}, seed {seed}: {error!r}")
        assert time.monotonic() - start < 60, f"{name}, seed {seed}"
