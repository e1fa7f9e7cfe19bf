"""Prediction: answers for the rows of a file, in memory or streamed, and their writers.

Imports everything up to `training`.
"""
