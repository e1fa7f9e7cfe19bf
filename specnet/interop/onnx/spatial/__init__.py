"""Convolutions, pools and other spatial layers in ONNX: writers, and readers of their operators.

Imports `layers.spatial`, `interop.channels_first` and, from `interop.onnx`, `builder`, `graph`, `norm`, `sequence`,
`steps`.
"""
