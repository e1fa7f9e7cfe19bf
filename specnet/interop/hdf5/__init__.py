"""Other programs' HDF5 files: h5py opens them in a child process, which a forged file may crash.

Imports everything up to `checkpoint`.
"""
