"""Specs of the layers over sequences, one file per family as in layers/sequence/.

Imports what `spec/layers/` imports.
"""
