"""Test the import of checkpoints that other programs have rewritten."""

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


def copy_with_h5py(source, target, **settings):
    """Copy a checkpoint as a viewer or a tool would, into other HDF5 structures."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                dataset_options = settings if item.shape else {}
                dataset = new.create_dataset(name, data=item[()], **dataset_options)
                dataset.attrs.update(item.attrs)

        old.visititems(copy)


@pytest.mark.parametrize("settings", [{}, {"chunks": True, "compression": "gzip"}], ids=["contiguous", "compressed"])
def test_a_rewritten_checkpoint_is_imported(tmp_path, model, settings):
    specnet.save(tmp_path / "m.h5", model)
    copy_with_h5py(tmp_path / "m.h5", tmp_path / "other.h5", **settings)
    with pytest.raises(specnet.CheckpointUnsupportedError, match="`specnet import FILE --out CKPT` reads it"):
        specnet.load(tmp_path / "other.h5")
    imported = from_rewritten(tmp_path / "other.h5").model
    assert same_arrays(arrays_of(imported), arrays_of(model))
    assert imported.spec == model.spec
    assert {k: np.asarray(v).tolist() for k, v in imported.run_state.items()} == {
        k: np.asarray(v).tolist() for k, v in model.run_state.items()
    }
    _, err = run("import", tmp_path / "other.h5", "--out", tmp_path / "again.h5")
    assert "24 parameters in 2 layers" in err
    assert "every digest was checked" in err
    assert same_arrays(arrays_of(specnet.load(tmp_path / "again.h5")), arrays_of(model))


def test_a_checkpoint_rewritten_by_h5repack_is_imported(tmp_path, model):
    if not shutil.which("h5repack"):
        pytest.skip("h5repack is not installed")
    specnet.save(tmp_path / "m.h5", model)
    subprocess.run(["h5repack", "-f", "GZIP=5", tmp_path / "m.h5", tmp_path / "packed.h5"], check=True)
    with pytest.raises(specnet.CheckpointError):
        specnet.load(tmp_path / "packed.h5")
    assert same_arrays(arrays_of(from_rewritten(tmp_path / "packed.h5").model), arrays_of(model))


@pytest.mark.parametrize(
    ("change", "message_part"),
    [
        (lambda f: f["layers/affine_1/parameters/bias"].__setitem__(0, 9), "bias do not match their sha256"),
        (
            lambda f: f.__delitem__("layers/affine_1/parameters/bias"),
            "/layers/affine_1/parameters/bias: expected float32 of shape (3,), but it is missing",
        ),
        (lambda f: f.__delitem__("model_spec"), "model document, is missing"),
        (lambda f: f.attrs.__setitem__("format", "other"), "neither from Keras or Caffe, nor a specnet checkpoint"),
        (lambda f: f.attrs.__setitem__("format_version", 2), "format_version is not 1"),
        (lambda f: f["layers/affine_1/parameters/bias"].attrs.__delitem__("sha256"), "bias do not match"),
    ],
)
def test_an_incomplete_or_altered_copy_is_rejected(tmp_path, model, change, message_part):
    specnet.save(tmp_path / "m.h5", model)
    copy_with_h5py(tmp_path / "m.h5", tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        change(file)
    _, err = run("import", tmp_path / "other.h5", "--out", tmp_path / "again.h5", code=1)
    assert message_part in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "again.h5").exists()


def test_missing_and_malformed_files_are_rejected(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"hello" * 100)
    for name in ("x.h5", "none.h5"):
        _, err = run("import", tmp_path / name, "--out", tmp_path / "again.h5", code=1)
        assert len(err.splitlines()) == 1
