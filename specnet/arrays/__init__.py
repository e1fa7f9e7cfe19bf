"""Arrays: flat parameter vectors with named views, random draws, conversion to float and integer arrays.

Imports numpy, `errors` and `mpi.world`, but not Pydantic.
"""
