"""Data frames (pandas, polars) as inputs: their column names, and their columns in the order of a model's training."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specnet.errors import DataError, ShapeError

NAMES = "features/names"
"""Where a model's `run_state` holds the names of its input columns, as a JSON array."""


def canonical(name: str) -> str:
    """Return a name without blanks at its ends, in Unicode's composed form: equal for names that look equal."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).strip()


def column_names(x: Any) -> tuple[str, ...]:
    """Return the canonical column names of a data frame; none for what is no data frame, or has no text as names."""
    columns = () if isinstance(x, np.ndarray) else getattr(x, "columns", ())
    if len(getattr(x, "shape", ())) != 2 or not all(isinstance(name, str) for name in columns):
        return ()
    return tuple(map(canonical, columns))


def trained_names(run_state: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the input columns that a model was trained on, none if unknown. Raises DataError for malformed ones."""
    text = (run_state or {}).get(NAMES)
    if text is None:
        return ()
    try:
        names = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        msg = "the column names in the checkpoint are not valid: expected a JSON array of strings, not empty"
        raise DataError(msg)
    return tuple(map(canonical, names))


def in_order(x: Any, names: Sequence[str], who: str) -> Any:
    """Return the columns `names` of a data frame, in this order; return anything else unchanged.

    Raises ShapeError, with the columns that are not there; `who` names the caller.
    """
    present = column_names(x) if names else ()
    if not present:
        return x
    if len(set(present)) < len(present):
        msg = f"{who}: two columns of the data frame have the same name: {', '.join(present)}"
        raise ShapeError(msg)
    if present == tuple(names):
        return x
    missing = [name for name in names if name not in present]
    if missing:
        listed = ", ".join(f'"{name}"' for name in missing[:8]) + (", …" if len(missing) > 8 else "")
        found = ", ".join(present)
        msg = f"{who}: the model was trained on columns that are not in the data frame: {listed}; got {found}"
        raise ShapeError(msg)
    return x[[list(x.columns)[present.index(name)] for name in names]]
