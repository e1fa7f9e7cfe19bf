"""Registry of the layer types: built in, registered by a decorator, or published by an installed package."""

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

_lazy_modules: dict[str, str] = {}
"""Type -> module that registers it: the built-in layers, imported when a document names them."""


def announce_layers(modules: Mapping[str, str]) -> None:
    """Record the module that registers each of these types; it is imported when the type is looked up."""
    _lazy_modules.update(modules)


def _load_module_of(type_name: str) -> None:
    if type_name in _lazy_modules and type_name not in _registered:
        import_module(_lazy_modules[type_name])


def register_layer(type_name: str) -> Callable[[type[Spec]], type[Spec]]:
    """Return a decorator that registers a LayerSpec class, so that documents can use `"type": type_name`.

    Raises SpecnetError if another class has the name.
    """
    if not isinstance(type_name, str) or not _TYPE_NAME.fullmatch(type_name):
        msg = f"register_layer: expected a type name, letters, digits, _ and -, got {type_name!r}"
        raise SpecnetError(msg)

    def register(cls: type[Spec]) -> type[Spec]:
        if not (isinstance(cls, type) and issubclass(cls, LayerSpec)):
            msg = f"register_layer({type_name!r}): expected a subclass of LayerSpec, got {cls!r}"
            raise SpecnetError(msg)
        if not isinstance(getattr(cls, "layer", None), type):
            msg = f"register_layer({type_name!r}): {cls.__qualname__} has no layer class; set layer = ..."
            raise SpecnetError(msg)
        if cls.__module__ != _lazy_modules.get(type_name):
            _load_module_of(type_name)
        other = _registered.get(type_name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = f"layer type {type_name!r} is taken by {other.__module__}.{other.__qualname__}; choose another name"
            raise SpecnetError(msg)
        if _registered.get(cls.registered_type) is cls and cls.registered_type != type_name:
            registered = f"{cls.__qualname__} is already registered as layer type {cls.registered_type!r}"
            msg = f"{registered}; make a subclass for {type_name!r}"
            raise SpecnetError(msg)
        cls.registered_type = type_name
        _registered[type_name] = cls
        return cls

    return register


def layer_types() -> Mapping[str, type[LayerSpec]]:
    """Return the layer types registered so far, the built-in ones first: name -> LayerSpec class."""
    for name in _lazy_modules:
        _load_module_of(name)
    custom = [name for name in _registered if name not in _lazy_modules]
    return {name: _registered[name] for name in [*_lazy_modules, *custom]}


def find_layer(type_name: str) -> type[LayerSpec] | None:
    """Return the class of a layer type, or None; searches installed packages only if the name is not registered."""
    _load_module_of(type_name)
    if type_name not in _registered:
        _load_plugin(type_name)
    return _registered.get(type_name)


def load_plugins() -> list[SpecnetError]:
    """Register the layers of all installed packages; return one error for each layer that cannot be registered."""
    failures = []
    for name in sorted({entry.name for entry in _entry_points()}):
        try:
            _load_plugin(name)
        except SpecnetError as error:
            failures.append(error)
    return failures


def _load_plugin(type_name: str) -> None:
    providers = {(entry.value, _package(entry)): entry for entry in _entry_points() if entry.name == type_name}
    if len(providers) > 1:
        packages = " and ".join(sorted(package for _, package in providers))
        msg = f"layer type {type_name!r} is provided by {packages}; uninstall all but one"
        raise SpecnetError(msg)
    for (_, package), entry in providers.items():
        try:
            loaded = entry.load()
        except Exception as error:
            reason = str(error) if isinstance(error, SpecnetError) else f"it fails to import: {error}"
            msg = f"layer type {type_name!r} of the package {package}: {reason}"
            raise SpecnetError(msg) from error
        if not (isinstance(loaded, type) and issubclass(loaded, LayerSpec)):
            msg = f"layer type {type_name!r} of the package {package}: {entry.value} is not a subclass of LayerSpec"
            raise SpecnetError(msg)
        if loaded.registered_type not in ("", type_name):
            msg = (
                f"the entry point {type_name!r} of the package {package} provides the layer type "
                f"{loaded.registered_type!r}; give both the same name"
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
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, rarely needed

    return entry_points(group=ENTRY_POINT_GROUP)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def origin_of(cls: type[LayerSpec]) -> dict[str, str]:
    """Return the origin of a layer: type, module, installed distribution and its version; "" if not installed."""
    from importlib.metadata import packages_distributions, version  # noqa: PLC0415

    module = cls.__module__
    providers = [e for e in _entry_points() if e.name == cls.registered_type and e.module == module and e.dist]
    if providers and providers[0].dist:
        distribution, installed_version = providers[0].dist.name, providers[0].dist.version
    else:
        distribution = next(iter(packages_distributions().get(module.partition(".")[0], [])), "")
        installed_version = version(distribution) if distribution else ""
    return {"type": cls.registered_type, "module": module, "distribution": distribution, "version": installed_version}
