"""Read exactly the HDF5 structures that checkpoints use, without the HDF5 library.

Imports `errors` and `files`.
"""
