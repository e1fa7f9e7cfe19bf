"""Layers over sequences, (batch, time, features): recurrent layers, attention, and what prepares or ends sequences.

Imports `arrays`, `kernels`, `layer`, `composite` and other layers.
"""
