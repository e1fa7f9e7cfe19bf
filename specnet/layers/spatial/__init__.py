"""Layers over positions: sequences (length, channels) and images (height, width, channels).

Imports `arrays`, `kernels`, `errors`, `layer` and `plan`, and from `layers` only `relu`.
"""
