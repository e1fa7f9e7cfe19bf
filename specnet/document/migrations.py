"""Conversion of documents from older format versions to the current version.

A migration takes the whole document of version n, as a private copy that it may change, and returns the document of
version n + 1. The tables are empty while each format has only one version.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from specnet.document.messages import mismatch, problem

Migration = Callable[[dict[str, Any]], dict[str, Any]]


MIGRATIONS: dict[str, dict[int, Migration]] = {"specnet-model": {}, "specnet-experiment": {}}
"""The migrations of each format, by the version that they take."""


VERSIONS = {"specnet-model": 1, "specnet-experiment": 1}
"""The version of each format that this specnet writes."""


def format_of(family: str) -> str:
    """Return the `format` of documents that this specnet writes, for example "specnet-model/1"."""
    return f"{family}/{VERSIONS[family]}"


def migrated(document: Any, family: str) -> Any:
    """Return a document of an older version converted to the current version, and anything else unchanged.

    A version without a migration is returned unchanged too. Raises PydanticCustomError if a migration fails because the
    document does not have the form of its version.
    """
    version = _version(document, family)
    while version is not None and version < VERSIONS[family]:
        migration = MIGRATIONS[family].get(version)
        if migration is None:
            return document  # check_format reports the version
        try:
            document = migration(copy.deepcopy(dict(document)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            message = f"cannot convert this document from {family}/{version} to {family}/{version + 1}: {error!r}"
            raise problem(message, "migration") from None
        version += 1
        document["format"] = f"{family}/{version}"
    return document


def _version(document: Any, family: str) -> int | None:
    format_text = document.get("format") if isinstance(document, Mapping) else None
    match = re.fullmatch(rf"{family}/(0|[1-9][0-9]{{0,5}})", format_text) if isinstance(format_text, str) else None
    return int(match[1]) if match else None


def check_format(value: Any, family: str) -> str:
    """Return the value of a `format` key after migration; reject another format, a newer version and an older one."""
    current = format_of(family)
    if isinstance(value, str) and value == current:
        return current
    version = _version({"format": value}, family)
    if version is None:
        raise mismatch(f'"{current}"', value)
    if version > VERSIONS[family]:
        message = f'expected "{current}", got "{value}" of a newer specnet; install a newer specnet'
        raise problem(message, "newer_format")
    message = f'expected "{current}", got "{value}", which cannot be converted; read it with an older specnet'
    raise problem(message, "older_format")
