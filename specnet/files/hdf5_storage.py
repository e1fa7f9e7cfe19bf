"""Where an HDF5 dataset keeps its values: in its own file, or in others that a file from a stranger must not open."""

from __future__ import annotations

from typing import Any


def storage_fault(dataset: Any) -> str:
    """Return why a dataset (an h5py DatasetID) is not stored in its own file alone, "" if it is.

    Call this before anything else is asked of the dataset: HDF5 opens the sources of a virtual dataset as soon as it is
    asked for its shape or its size. The creation properties are part of the object itself.
    """
    from h5py import h5d  # noqa: PLC0415 - slow to import, and whoever has a dataset has imported it

    creation = dataset.get_create_plist()
    if creation.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        return "a virtual dataset, whose values are in other datasets"
    if creation.get_external_count():
        return "external storage, which is in other files"
    return ""
