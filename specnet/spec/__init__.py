"""The model document: registry of layer types, specs of the built-in layers, ModelSpec.

Imports everything up to `layers`.
"""

from specnet.spec.model_spec import ModelSpec, load_spec

__all__ = ["ModelSpec", "load_spec"]
