"""HDF5 creation settings: datasets that are allocated early and never filled, and fixed-length strings."""

from __future__ import annotations

from h5py import h5d, h5p, h5t


def placed_early() -> h5p.PropDCID:
    """Return creation settings for a dataset that gets its place in the file at once; HDF5 writes nothing to it."""
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    return creation


def text_type(length: int) -> h5t.TypeID:
    """Return the HDF5 type of UTF-8 strings of at most `length` bytes."""
    string_type = h5t.C_S1.copy()
    string_type.set_size(length)
    string_type.set_strpad(h5t.STR_NULLPAD)
    string_type.set_cset(h5t.CSET_UTF8)
    return string_type
