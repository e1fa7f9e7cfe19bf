"""A reader of exactly the HDF5 structures that checkpoints use; it needs no HDF5 library.

Imports `errors` and `files`.
"""
