"""Specs of the built-in layers, one file per family; a file is imported when a document names one of its types.

Imports everything up to `layers`, `fields` and the registry.
"""

from specnet.layers import FAMILIES
from specnet.spec.registry import announce_layers

announce_layers({kind: f"specnet.spec.layers.{family}" for family, row in FAMILIES.items() for kind in row})
