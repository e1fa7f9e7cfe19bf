"""Predict for the rows of a data file, in memory or streamed, and write the predictions to a file.

May import every package up to `training`.
"""
