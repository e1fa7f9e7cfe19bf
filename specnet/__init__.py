"""specnet: neural networks as two readable files, a JSON document and an HDF5 checkpoint.

A public name is imported at its first use, so `import specnet` itself imports no large package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specnet.version import __version__

if TYPE_CHECKING:
    from specnet.checkpoint import load as load
    from specnet.checkpoint import load_parameters as load_parameters
    from specnet.checkpoint import save as save
    from specnet.errors import CheckpointCorruptError as CheckpointCorruptError
    from specnet.errors import CheckpointError as CheckpointError
    from specnet.errors import CheckpointMismatchError as CheckpointMismatchError
    from specnet.errors import CheckpointUnsupportedError as CheckpointUnsupportedError
    from specnet.errors import DataError as DataError
    from specnet.errors import Problem as Problem
    from specnet.errors import ShapeError as ShapeError
    from specnet.errors import SpecError as SpecError
    from specnet.errors import SpecnetError as SpecnetError
    from specnet.layer import Layer as Layer
    from specnet.layerspec import LayerSpec as LayerSpec
    from specnet.layerspec import ParameterSpec as ParameterSpec
    from specnet.model import Model as Model
    from specnet.model import build as build
    from specnet.spec import ModelSpec as ModelSpec
    from specnet.spec import load_spec as load_spec
    from specnet.spec.registry import register_layer as register_layer
    from specnet.training import fit as fit
    from specnet.training import train as train

_MODULE_OF = {
    "CheckpointCorruptError": "errors",
    "CheckpointError": "errors",
    "CheckpointMismatchError": "errors",
    "CheckpointUnsupportedError": "errors",
    "DataError": "errors",
    "Layer": "layer",
    "LayerSpec": "layerspec",
    "Model": "model",
    "ModelSpec": "spec",
    "ParameterSpec": "layerspec",
    "Problem": "errors",
    "ShapeError": "errors",
    "SpecError": "errors",
    "SpecnetError": "errors",
    "build": "model",
    "fit": "training",
    "load": "checkpoint",
    "load_parameters": "checkpoint",
    "load_spec": "spec",
    "register_layer": "spec.registry",
    "save": "checkpoint",
    "train": "training",
}
_MODULES = ("checkpoint", "errors", "fields", "inspection", "layers", "testing", "training")

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(f"specnet.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"specnet.{name}")
    msg = f"module 'specnet' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
