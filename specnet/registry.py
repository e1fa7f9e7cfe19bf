"""Which layer types there are: built in, registered by a decorator, or published by an installed package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from specnet.errors import SpecnetError
from specnet.layerspec import LayerSpec

ENTRY_POINT_GROUP = "specnet.layers"

Spec = TypeVar("Spec", bound=LayerSpec)

_registered: dict[str, type[LayerSpec]] = {}


def register_layer(type_name: str) -> Callable[[type[Spec]], type[Spec]]:
    """Decorate a LayerSpec class: documents may say `"type": type_name` from now on.

    Raises SpecnetError when another class has the name.
    """

    def register(cls: type[Spec]) -> type[Spec]:
        if not (isinstance(cls, type) and issubclass(cls, LayerSpec)):
            msg = f"register_layer({type_name!r}): expected a subclass of LayerSpec, got {cls!r}"
            raise SpecnetError(msg)
        taken = _registered.get(type_name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = f"layer type {type_name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another name"
            raise SpecnetError(msg)
        cls.registered_type = type_name
        _registered[type_name] = cls
        return cls

    return register


def layer_types() -> Mapping[str, type[LayerSpec]]:
    """List the layer types registered so far: name -> LayerSpec class."""
    return MappingProxyType(_registered)


def find_layer(type_name: str) -> type[LayerSpec] | None:
    """Give the class of a layer type; asks installed packages only for a name that is not registered."""
    if type_name not in _registered:
        _load_plugin(type_name)
    return _registered.get(type_name)


def _load_plugin(type_name: str) -> None:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, seldom needed

    for entry in entry_points(group=ENTRY_POINT_GROUP, name=type_name):
        try:
            loaded = entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            msg = f"layer type {type_name!r}: the package {package} that offers it fails to import: {error}"
            raise SpecnetError(msg) from error
        if type_name not in _registered and isinstance(loaded, type) and issubclass(loaded, LayerSpec):
            register_layer(type_name)(loaded)
