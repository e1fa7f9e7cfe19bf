"""The experiment document: its data, its training settings, and checks that they fit together.

Imports everything up to `checkpoint`, and the losses, metrics, optimizers and schedules.
"""
