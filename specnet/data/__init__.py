"""Data: readers of data files, datasets in memory and streamed from disk, conversion to a model's inputs and targets.

Imports everything up to `spec` and `mpi`, and nothing from `training`.
"""
