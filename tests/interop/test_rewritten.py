"""What comes in from other programs."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.hdf5.rewritten_checkpoint import from_rewritten
from tests.support import arrays_of, model_of, same_arrays
from tests.test_cli import run


@pytest.fixture
def model():
    model = model_of({"type": "affine", "units": 3}, {"type": "batch_norm"}, dtype="float32")
    model.backward(model.forward(np.ones((4, 5)), training=True))
    model.run_state = {"experiment": "{}\n", "step": 3, "sums/loss": 0.5, "history/epoch": np.array([1])}
    return model


def rewritten(source, target, **how):
    """Copy a checkpoint as a viewer or a tool would, into structures of another kind."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                options = how if item.shape else {}
                made = new.create_dataset(name, data=item[()], **options)
                made.attrs.update(item.attrs)

        old.visititems(copy)


@pytest.mark.parametrize("how", [{}, {"chunks": True, "compression": "gzip"}], ids=["contiguous", "compressed"])
def test_a_rewritten_checkpoint_is_imported(tmp_path, model, how):
    specnet.save(tmp_path / "m.h5", model)
    rewritten(tmp_path / "m.h5", tmp_path / "other.h5", **how)
    with pytest.raises(specnet.CheckpointUnsupportedError, match="`specnet import FILE --out CKPT` reads it"):
        specnet.load(tmp_path / "other.h5")
    found = from_rewritten(tmp_path / "other.h5").model
    assert same_arrays(arrays_of(found), arrays_of(model))
    assert found.spec == model.spec
    assert {k: np.asarray(v).tolist() for k, v in found.run_state.items()} == {
        k: np.asarray(v).tolist() for k, v in model.run_state.items()
    }
    _, err = run("import", tmp_path / "other.h5", "--out", tmp_path / "again.h5")
    assert "24 parameters in 2 layers" in err
    assert "every digest was checked" in err
    assert same_arrays(arrays_of(specnet.load(tmp_path / "again.h5")), arrays_of(model))


def test_h5repack(tmp_path, model):
    if not shutil.which("h5repack"):
        pytest.skip("h5repack is not installed")
    specnet.save(tmp_path / "m.h5", model)
    subprocess.run(["h5repack", "-f", "GZIP=5", tmp_path / "m.h5", tmp_path / "packed.h5"], check=True)
    with pytest.raises(specnet.CheckpointError):
        specnet.load(tmp_path / "packed.h5")
    assert same_arrays(arrays_of(from_rewritten(tmp_path / "packed.h5").model), arrays_of(model))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["layers/affine_1/parameters/bias"].__setitem__(0, 9), "bias do not match their sha256"),
        (lambda f: f.__delitem__("layers/affine_1/parameters/bias"), "layers/affine_1/parameters/bias, it is missing"),
        (lambda f: f.__delitem__("model_spec"), "model document, is missing"),
        (lambda f: f.attrs.__setitem__("format", "other"), "neither Keras's, nor Caffe's, nor a specnet checkpoint"),
        (lambda f: f.attrs.__setitem__("format_version", 2), "format_version is not 1"),
        (lambda f: f["layers/affine_1/parameters/bias"].attrs.__delitem__("sha256"), "bias do not match"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, model, change, words):
    specnet.save(tmp_path / "m.h5", model)
    rewritten(tmp_path / "m.h5", tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        change(file)
    _, err = run("import", tmp_path / "other.h5", "--out", tmp_path / "again.h5", code=1)
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "again.h5").exists()


def test_what_is_no_file_of_hdf5_is_refused(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"hello" * 100)
    for name in ("x.h5", "none.h5"):
        _, err = run("import", tmp_path / name, "--out", tmp_path / "again.h5", code=1)
        assert len(err.splitlines()) == 1
