"""ONNX: import and export.

Imports everything up to `training`.
"""
