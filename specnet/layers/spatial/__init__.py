"""Layers over positions: sequences (length, channels) and images (height, width, channels).

Imports `arrays`, `kernels`, `errors` and `layer`, and from `layers` only `relu`.
"""
