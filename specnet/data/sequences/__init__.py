"""Rows that are sequences: of differing length, windows over a long series, and text.

Imports `raw`, `labels`, `conform` and `dataset` of `specnet.data`.
"""
