"""What documents say of the built-in layers, a file a family, imported when a document names one of its types.

Imports everything up to `layers`, `fields` and the registry.
"""

from specnet.layers import FAMILIES
from specnet.spec.registry import announce_layers

announce_layers({kind: f"specnet.spec.layers.{family}" for family, row in FAMILIES.items() for kind in row})
