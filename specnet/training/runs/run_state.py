"""The state of a run in a checkpoint: its names and types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from specnet.training.metrics import METRICS

_KINDS: dict[str, tuple[type[Any], int | None]] = {
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


def below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Give the part of a run's state whose names begin with a prefix, "optimizer/" say, by their rest."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def state_faults(state: Mapping[str, Any]) -> Iterator[str]:
    """Find values that no run can have written: a file that was forged can hold anything."""
    for key, value in state.items():
        kind, least = _KINDS.get(key, (object, None))
        if not isinstance(value, kind) or (least is not None and not least <= value < 2**53):
            yield f"{key} is {value!r:.60}"
            return  # what follows counts on these
    if any(state.get(key, 0) > state[most] for key, most in _ORDERED):
        told = ", ".join(
            f"{key} {state[key]}" for key in ("step", "epoch", "best/epoch", "early/epoch") if key in state
        )
        yield f"its counts do not fit together: {told}"
    sums = [value for value in below(state, "sums/").values() if not isinstance(value, str)]
    if not all(np.isfinite(value).all() for value in sums):
        yield "its sums are not finite"
    history = below(state, "history/")
    if bool(history) != bool(state["epoch"]) or (history and "epoch" not in history):
        yield "its history is of another run"
    for key, value in history.items():
        if not isinstance(value, np.ndarray) or value.shape != (state["epoch"],):
            yield f"history/{key} is no array of one value an epoch"
