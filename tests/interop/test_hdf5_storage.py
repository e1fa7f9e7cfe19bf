"""Test that no file outside an HDF5 file is opened, whatever its datasets claim."""

import os

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

import specnet
from specnet.files.hdf5_storage import storage_fault
from specnet.interop.hdf5 import sandbox
from specnet.interop.importing import import_model


def printf_virtual(file, source):
    """Add a dataset of which HDF5 looks for all parts, source 0, 1, ..., when it is asked for the shape."""
    space = h5s.create_simple((0,), (h5s.UNLIMITED,))
    space.select_hyperslab((0,), (h5s.UNLIMITED,), (4,), (4,))
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_virtual(space, f"{source}%b".encode(), b"x", h5s.create_simple((4,)))
    h5d.create(file.id, b"v", h5t.IEEE_F64LE, space, creation)


def fixed_virtual(file, source):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(f"{source}0", "x", (4,))
    file.create_virtual_dataset("v", layout)


def growing_virtual(file, source):
    """Add a dataset that grows with its source, which HDF5 opens when it is asked for the shape."""
    space = h5s.create_simple((0,), (h5s.UNLIMITED,))
    space.select_hyperslab((0,), (h5s.UNLIMITED,), (1,), (1,))
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_virtual(space, f"{source}0".encode(), b"x", space)
    h5d.create(file.id, b"v", h5t.IEEE_F64LE, space, creation)


def own_virtual(file, _source):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(".", "plain", (4,))
    file.create_virtual_dataset("v", layout)


def external(file, source):
    file.create_dataset("v", (4,), "f8", external=[(f"{source}0", 0, 32)])


FORMS = {
    printf_virtual: "a virtual dataset",
    fixed_virtual: "a virtual dataset",
    growing_virtual: "a virtual dataset",
    own_virtual: "a virtual dataset",
    external: "external storage",
}
ROOTS = {
    "Keras": {"model_config": "{}"},
    "weights": {"layer_names": ["v"]},
    "checkpoint": {"format": "specnet-checkpoint", "format_version": 1},
}


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("root", ROOTS)
def test_sources_outside_a_file_are_never_opened(tmp_path, monkeypatch, root, make):
    """Check it with sources that are FIFOs: to open one waits for a writer, until the child is stopped."""
    os.mkfifo(tmp_path / "outside0")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs.update(ROOTS[root])
        file["plain"] = np.arange(4.0)
        make(file, tmp_path / "outside")
    monkeypatch.setattr(sandbox, "SECONDS", 20)
    pattern = f"/v uses a form of storage that specnet does not support: {FORMS[make]}"
    with pytest.raises(specnet.CheckpointError, match=pattern):
        import_model(tmp_path / "m.h5")


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_storage_fault_names_the_storage(tmp_path, make):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["plain"] = np.arange(4.0)
        file.create_dataset("chunks", data=np.arange(4.0), chunks=(2,), compression="gzip")
        compact = h5p.create(h5p.DATASET_CREATE)
        compact.set_layout(h5d.COMPACT)
        h5d.create(file.id, b"compact", h5t.IEEE_F64LE, h5s.create_simple((4,)), compact)
        file.create_dataset("null", dtype="f8")
        make(file, tmp_path / "outside")
    with h5py.File(tmp_path / "m.h5") as file:
        for name in ("plain", "chunks", "compact", "null"):
            assert storage_fault(h5d.open(file.id, name.encode())) == ""
        assert storage_fault(h5d.open(file.id, b"v")).startswith(FORMS[make])
        assert storage_fault(file["v"].id).startswith(FORMS[make])


def test_the_traps_of_these_tests_work(tmp_path):
    """Check that HDF5 opens the sources of two of the forms for the shape alone, which is that of the source."""
    for make in (printf_virtual, growing_virtual):
        with h5py.File(tmp_path / "outside0", "w") as file:
            file.create_dataset("x", data=np.arange(4.0), maxshape=(None,))
        with h5py.File(tmp_path / "m.h5", "w") as file:
            make(file, tmp_path / "outside")
        with h5py.File(tmp_path / "m.h5") as file:
            assert file["v"].shape == (4,)
