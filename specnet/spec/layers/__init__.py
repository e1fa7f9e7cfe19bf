"""What documents say of the built-in layers, a file a family; importing this registers all of them."""

from importlib import import_module

from specnet.layers import FAMILIES

for family in FAMILIES:
    import_module(f"specnet.spec.layers.{family}")
