"""Files: paths, atomic and durable replacement, sparse in-memory files, HDF5 creation settings.

Imports only `errors`.
"""
