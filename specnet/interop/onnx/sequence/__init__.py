"""Layers over time in ONNX: writers, and readers of recurrent operators, of attention and of axes in another order.

Imports `layers.sequence`, `spec`, `interop.recurrent_biases` and, from `interop.onnx`, `builder`, `constants`, `graph`,
`steps`.
"""
