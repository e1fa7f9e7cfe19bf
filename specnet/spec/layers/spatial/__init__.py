"""Specs of the layers over positions, one file per family as in layers/spatial/.

Imports what `spec/layers/` imports.
"""
