"""Warnings about inputs far outside the range of the rows that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from specnet.data.raw import RawArray
from specnet.model import Model

FAR = 3
"""Range widths outside the training range from which on an input is out of range."""


class OutOfRange(NamedTuple):
    """Out-of-range rows: their number, and of the first one its index, its inputs and the mask of its inputs."""

    rows: int = 0
    first: int = 0
    x: RawArray | None = None
    far: RawArray | None = None

    def add(self, model: Model, x: RawArray, start: int) -> OutOfRange:
        """Return the sum with those of the inputs x, which begin at row `start`."""
        far = _far_values(model, x)
        if far is None or not far.any():
            return self
        count = int(far.any(axis=1).sum())
        if self.rows:
            return self._replace(rows=self.rows + count)
        row = int(far.any(axis=1).argmax())
        return OutOfRange(count, start + row, x[row].copy(), far[row].copy())

    def notes(self, model: Model, total: int, names: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield a warning, if there are any such rows among `total` ones: their number, and the first."""
        if self.x is None or self.far is None:
            return
        state = model.run_state or {}
        column = int(self.far.argmax())
        input_name = names[column] if len(names) == self.x.size else f"input {column + 1}"
        value = self.x.reshape(-1)[column]
        low, high = (state[f"features/{key}"].reshape(-1)[column] for key in ("low", "high"))
        yield (
            f"{self.rows} of {total} rows have inputs far outside the range of the training rows: "
            f"row {self.first + 1}, {input_name} is {value:g}, was {low:g} to {high:g} in training; "
            "predictions for these rows are unreliable"
        )


def _far_values(model: Model, x: RawArray) -> RawArray | None:
    """Return a boolean mask (rows, inputs) of inputs more than FAR range widths outside the training range.

    None if the training range is unknown.
    """
    state = model.run_state or {}
    low, high = state.get("features/low"), state.get("features/high")
    if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or {low.shape, high.shape} != {x.shape[1:]}:
        return None
    width = FAR * np.where(high > low, high - low, np.maximum(np.abs(low), 1))
    return ((x < low - width) | (x > high + width)).reshape(len(x), -1)
