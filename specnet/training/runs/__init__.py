"""Training runs: `train` and `fit`, their checkpoints and folder, dry run, replay, scaffold.

Imports all of `training`.
"""
