"""Data: readers of data files, datasets in memory and streamed from disk, conversion to what a model takes.

Imports everything up to `spec` and `mpi`; nothing of `training`.
"""
