"""Files on disk: paths, atomic durable replacement, sparse files, HDF5 pages written without touching the disk.

Imports `errors` alone.
"""
