"""The state of a run in a checkpoint: the names and types of its entries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from specnet.arrays.frames import NAMES
from specnet.data.streaming import AnyDataset
from specnet.training.metrics import METRICS

_TYPES: dict[str, tuple[type[Any], int | None]] = {
    "experiment": (str, None),
    "data_sha256": (str, None),
    "machine": (str, None),
    "step": (int, 0),
    "epoch": (int, 0),
    "batch": (int, 0),
    "sums/weight": (float, 0),
    "sums/loss": (float, None),
    **{f"sums/{name}": (np.ndarray, None) for name in METRICS},
    "early/best": (float, None),
    "early/epoch": (int, 0),
    "best/value": (float, None),
    "best/epoch": (int, 0),
    "optimizer/steps": (int, 0),
}


_ORDERED = (("epoch", "step"), ("batch", "step"), ("best/epoch", "epoch"), ("early/epoch", "epoch"))


REQUIRED_STATE = {"experiment", "data_sha256", "step", "epoch", "batch", "sums/weight", "sums/loss", "optimizer/steps"}


def feature_state(data: AnyDataset) -> dict[str, Any]:
    """Return the names and ranges of the inputs, with which predictions are checked."""
    low, high = data.features()
    names = {NAMES: json.dumps(data.names)} if data.names else {}
    return {"features/low": low, "features/high": high, **names}


def below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries of a run's state whose names start with a prefix ("optimizer/"), by name without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def state_faults(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values that no run can have written, as a forged file can hold anything."""
    for key, value in state.items():
        expected_type, minimum = _TYPES.get(key, (object, None))
        if not isinstance(value, expected_type) or (minimum is not None and not minimum <= value < 2**53):
            yield f"{key} is {value!r:.60}"
            return  # the checks below rely on these types
    if any(state.get(key, 0) > state[limit] for key, limit in _ORDERED):
        counts = ", ".join(
            f"{key} {state[key]}" for key in ("step", "epoch", "best/epoch", "early/epoch") if key in state
        )
        yield f"its counts do not fit together: {counts}"
    sums = [value for value in below(state, "sums/").values() if not isinstance(value, str)]
    if not all(np.isfinite(value).all() for value in sums):
        yield "its sums are not finite"
    history = below(state, "history/")
    if bool(history) != bool(state["epoch"]) or (history and "epoch" not in history):
        yield "its history belongs to another run"
    for key, value in history.items():
        if not isinstance(value, np.ndarray) or value.shape != (state["epoch"],):
            yield f"history/{key} is not an array of one value per epoch"
