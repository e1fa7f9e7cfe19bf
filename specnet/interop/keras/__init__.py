"""Keras: import and export of models (.keras, legacy .h5), import of weights.

Imports everything up to `training`, and `interop.hdf5`.
"""
