"""How specnet writes HDF5: datasets allocated early and never filled, text of fixed length."""

from __future__ import annotations

from h5py import h5d, h5p, h5t


def placed_early() -> h5p.PropDCID:
    """Give the settings of a dataset whose place in the file is known at once, and not written to."""
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    return creation


def text_type(length: int) -> h5t.TypeID:
    """Give the type of UTF-8 text of at most so many bytes."""
    made = h5t.C_S1.copy()
    made.set_size(length)
    made.set_strpad(h5t.STR_NULLPAD)
    made.set_cset(h5t.CSET_UTF8)
    return made
