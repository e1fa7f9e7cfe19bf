"""What an experiment document says: data, training settings, checks of one against the other.

Imports everything up to `checkpoint`, and the losses, metrics, optimizers and schedules.
"""
