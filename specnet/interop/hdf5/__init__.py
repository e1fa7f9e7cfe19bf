"""Reading of HDF5 files from other programs: h5py runs in a child process, because a malicious file can crash it.

Imports everything up to `checkpoint`.
"""
