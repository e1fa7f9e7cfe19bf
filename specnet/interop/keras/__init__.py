"""Keras: models (.keras, legacy .h5) and weights, both ways.

Imports everything up to `training`, and `interop.hdf5`.
"""
