"""How documents of older format versions become documents of this one.

A migration takes the whole document of version n, as JSON values of its own to change, and gives that of n + 1. The
list is empty as long as there has been one version of each format.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from specnet.document.messages import mismatch, problem

Migration = Callable[[dict[str, Any]], dict[str, Any]]


MIGRATIONS: dict[str, dict[int, Migration]] = {"specnet-model": {}, "specnet-experiment": {}}
"""Per format, the version that a migration takes."""


VERSIONS = {"specnet-model": 1, "specnet-experiment": 1}
"""The versions that this specnet writes."""


def format_of(family: str) -> str:
    """Give the `format` of the documents that this specnet writes: "specnet-model/1"."""
    return f"{family}/{VERSIONS[family]}"


def migrated(document: Any, family: str) -> Any:
    """Bring a document of an older version to the current one; give anything else as it is.

    Raises a fault that validation places where a version is too old, or a document not of its version's form.
    """
    version = _version(document, family)
    while version is not None and version < VERSIONS[family]:
        migration = MIGRATIONS[family].get(version)
        if migration is None:
            return document  # check_format says so
        try:
            document = migration(copy.deepcopy(dict(document)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"this document of {family}/{version} cannot be brought to {family}/{version + 1}: {error!r}"
            raise problem(told, "migration") from None
        version += 1
        document["format"] = f"{family}/{version}"
    return document


def _version(document: Any, family: str) -> int | None:
    written = document.get("format") if isinstance(document, Mapping) else None
    found = re.fullmatch(rf"{family}/(0|[1-9][0-9]{{0,5}})", written) if isinstance(written, str) else None
    return int(found[1]) if found else None


def check_format(value: Any, family: str) -> str:
    """Validate a `format` key after migration: this very name and version, with a word for a newer or older one."""
    current = format_of(family)
    if isinstance(value, str) and value == current:
        return current
    version = _version({"format": value}, family)
    if version is None:
        raise mismatch(f'"{current}"', value)
    if version > VERSIONS[family]:
        told = f'this specnet reads "{current}", the document is written for "{value}"; install a newer specnet'
        raise problem(told, "newer_format")
    told = f'this specnet reads "{current}" and cannot bring "{value}" to it; an older specnet reads it'
    raise problem(told, "older_format")
