"""Which layer types there are: built in, registered by a decorator, or published by an installed package."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from specnet.errors import SpecnetError
from specnet.layerspec import LayerSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINT_GROUP = "specnet.layers"


Spec = TypeVar("Spec", bound=LayerSpec)


_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


_registered: dict[str, type[LayerSpec]] = {}

_announced: dict[str, str] = {}
"""Type -> module that registers it: the built-in layers, imported when a document names them."""


def announce_layers(modules: Mapping[str, str]) -> None:
    """Say which module registers each of these types; it is imported when the type is asked for."""
    _announced.update(modules)


def _load_announced(type_name: str) -> None:
    if type_name in _announced and type_name not in _registered:
        import_module(_announced[type_name])


def register_layer(type_name: str) -> Callable[[type[Spec]], type[Spec]]:
    """Decorate a LayerSpec class: documents may say `"type": type_name` from now on.

    Raises SpecnetError when another class has the name.
    """
    if not isinstance(type_name, str) or not _TYPE_NAME.fullmatch(type_name):
        msg = f"register_layer: expected a type name, letters, digits, _ and -, got {type_name!r}"
        raise SpecnetError(msg)

    def register(cls: type[Spec]) -> type[Spec]:
        if not (isinstance(cls, type) and issubclass(cls, LayerSpec)):
            msg = f"register_layer({type_name!r}): expected a subclass of LayerSpec, got {cls!r}"
            raise SpecnetError(msg)
        if not isinstance(getattr(cls, "layer", None), type):
            msg = f"register_layer({type_name!r}): {cls.__qualname__} names no layer class: layer = ..."
            raise SpecnetError(msg)
        if cls.__module__ != _announced.get(type_name):
            _load_announced(type_name)
        taken = _registered.get(type_name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = f"layer type {type_name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another name"
            raise SpecnetError(msg)
        if _registered.get(cls.registered_type) is cls and cls.registered_type != type_name:
            msg = f"{cls.__qualname__} is layer type {cls.registered_type!r} already; make a subclass for {type_name!r}"
            raise SpecnetError(msg)
        cls.registered_type = type_name
        _registered[type_name] = cls
        return cls

    return register


def layer_types() -> Mapping[str, type[LayerSpec]]:
    """Return the layer types there are so far, the built-in ones first: name -> LayerSpec class."""
    for name in _announced:
        _load_announced(name)
    return {
        name: _registered[name] for name in [*_announced, *(other for other in _registered if other not in _announced)]
    }


def find_layer(type_name: str) -> type[LayerSpec] | None:
    """Give the class of a layer type; asks installed packages only for a name that is not registered."""
    _load_announced(type_name)
    if type_name not in _registered:
        _load_plugin(type_name)
    return _registered.get(type_name)


def load_plugins() -> list[SpecnetError]:
    """Register the layers of all installed packages; give an error for each that cannot be, the others are there."""
    failures = []
    for name in sorted({entry.name for entry in _entry_points()}):
        try:
            _load_plugin(name)
        except SpecnetError as error:
            failures.append(error)
    return failures


def _load_plugin(type_name: str) -> None:
    offers = {(entry.value, _package(entry)): entry for entry in _entry_points() if entry.name == type_name}
    if len(offers) > 1:
        packages = " and ".join(sorted(package for _, package in offers))
        msg = f"layer type {type_name!r} is offered by {packages}; uninstall all but one"
        raise SpecnetError(msg)
    for (_, package), entry in offers.items():
        try:
            loaded = entry.load()
        except Exception as error:
            told = str(error) if isinstance(error, SpecnetError) else f"it fails to import: {error}"
            msg = f"layer type {type_name!r} of the package {package}: {told}"
            raise SpecnetError(msg) from error
        if not (isinstance(loaded, type) and issubclass(loaded, LayerSpec)):
            msg = f"layer type {type_name!r} of the package {package}: {entry.value} is no subclass of LayerSpec"
            raise SpecnetError(msg)
        if loaded.registered_type not in ("", type_name):
            msg = (
                f"the entry point {type_name!r} of the package {package} offers the layer type "
                f"{loaded.registered_type!r}; name them alike"
            )
            raise SpecnetError(msg)
        try:
            register_layer(type_name)(loaded)
        except SpecnetError as error:
            msg = f"layer type {type_name!r} of the package {package}: {error}"
            raise SpecnetError(msg) from None


def _entry_points() -> EntryPoints:
    return _entry_points_on(tuple(sys.path))


@cache
def _entry_points_on(_path: tuple[str, ...]) -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, seldom needed

    return entry_points(group=ENTRY_POINT_GROUP)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def origin_of(cls: type[LayerSpec]) -> dict[str, str]:
    """Say where a layer comes from: its module, and the installed distribution and version, "" where there is none."""
    from importlib.metadata import packages_distributions, version  # noqa: PLC0415

    module = cls.__module__
    offering = [e for e in _entry_points() if e.name == cls.registered_type and e.module == module and e.dist]
    if offering and offering[0].dist:
        distribution, installed = offering[0].dist.name, offering[0].dist.version
    else:
        distribution = next(iter(packages_distributions().get(module.partition(".")[0], [])), "")
        installed = version(distribution) if distribution else ""
    return {"type": cls.registered_type, "module": module, "distribution": distribution, "version": installed}
