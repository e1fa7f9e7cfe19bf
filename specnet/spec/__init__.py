"""The model document: ModelSpec, the specs of the built-in layers, and the registry of layer types.

Imports everything up to `layers`.
"""

from specnet.spec.model_spec import ModelSpec, load_spec

__all__ = ["ModelSpec", "load_spec"]
