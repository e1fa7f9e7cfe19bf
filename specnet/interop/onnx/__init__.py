"""ONNX, both ways.

Imports everything up to `training`.
"""
