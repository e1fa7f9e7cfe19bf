"""Windows over a long series as rows: views of the series, of which only the rows of a block are copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from specnet import kernels
from specnet.arrays.conversion import batch_of
from specnet.data.conform import (
    check_target_values,
    refuse_lost_digits,
    require_numbers,
    store_values,
    target_numbers,
    with_axes,
)
from specnet.data.dataset import Conversion, Dataset
from specnet.data.labels import TargetRules
from specnet.data.raw import RawArray, RawRows
from specnet.errors import DataError
from specnet.spec.model_spec import ModelSpec


class Windows(NamedTuple):
    """The steps of a window, and how many steps after it are its target; 0: the target is that of its last step."""

    length: int
    horizon: int = 1

    @property
    def reach(self) -> int:
        """Steps from the first one of a window to the last one of its target."""
        return self.length + self.horizon

    def count(self, steps: int, *, targets: bool = True) -> int:
        """Return the number of windows in a series, with `targets` of those whose targets are in it too."""
        return steps - (self.reach if targets else self.length) + 1


@dataclass(frozen=True)
class WindowedDataset(Dataset):
    """Windows over a series: `stored` and `targets` are views of the series, and `rows` are copies.

    `series` are the steps of `stored`, (steps, …).
    """

    series: RawArray = field(default_factory=lambda: np.empty(0))
    windows: Windows = field(default_factory=lambda: Windows(1))

    def rows(self, indices: RawArray | slice) -> Dataset:
        """Return some rows, copied."""
        stored, targets = (np.ascontiguousarray(array[indices]) for array in (self.stored, self.targets))
        return Dataset(stored, targets, None, self.names, conversion=self.conversion)

    def _gather(self, rows: RawArray, out: RawArray) -> None:
        steps = (rows[:, np.newaxis] + np.arange(self.windows.length)).reshape(-1)
        flat = out.reshape(len(steps), *self.series.shape[1:])
        if not kernels.gather(self.series, steps, flat):
            self.series.take(steps, 0, flat, "clip")

    def split(self, fraction: float, source: str) -> tuple[WindowedDataset, WindowedDataset]:
        """Return the windows to train on, and those of the last part of the series. Raises DataError."""
        stop, first = last_part(len(self), self.windows, fraction, source)
        return self._part(0, stop), self._part(first, len(self))

    def _part(self, first: int, stop: int) -> WindowedDataset:
        series = self.series[first : stop + self.windows.length - 1]
        stored, targets = self.stored[first:stop], self.targets[first:stop]
        return WindowedDataset(
            stored, targets, None, self.names, conversion=self.conversion, series=series, windows=self.windows
        )


def last_part(count: int, windows: Windows, fraction: float, source: str) -> tuple[int, int]:
    """Return the stop of the training windows and the first validation window, of `count` windows.

    The targets of validation windows are the last `fraction` of the steps; no training window, its target included,
    has one of these steps. Raises DataError if no window would be left to train on.
    """
    steps = count + windows.reach - 1
    ahead = max(windows.horizon, 1)
    part = max(round(steps * fraction), ahead)
    first = count - (part - ahead) - 1
    stop = steps - part - windows.reach + 1
    if first < 0 or stop < 1:
        msg = (
            f"{source}: of {steps} steps, the last {part} are for validation, and the others hold no window of "
            f"{windows.length} steps with its target; hold out fewer, or make the window shorter"
        )
        raise DataError(msg)
    return stop, first


def cut_windows(
    rows: RawRows, spec: ModelSpec, windows: Windows, source: str, scale: float | None, *, targets: bool
) -> tuple[RawArray, RawArray, Conversion | None]:
    """Return the inputs of a series, (steps, …), a view of their windows, (windows, time, …), and their conversion.

    With `targets`, only windows whose targets are in the series count. Raises DataError.
    """
    require_numbers(rows.inputs, source, rows.names)
    raw, count = _fit_series(rows.inputs, spec, windows, source), windows.count(len(rows.inputs), targets=targets)
    if count < 1:
        ahead = f" and a target of {windows.horizon} more" if targets and windows.horizon else ""
        msg = f"{source}: {len(raw)} steps are too few for a window of {windows.length}{ahead}; use a longer series"
        raise DataError(msg)
    names: Sequence[str] = rows.names if raw.ndim == 2 else ()
    series, conversion = store_values(raw, spec, source, scale, names=names)
    refuse_lost_digits(raw, series.dtype, source, names)
    series = series[: count + windows.length - 1]
    return series, np.moveaxis(sliding_window_view(series, windows.length, 0), -1, 1), conversion


def cut_targets(
    raw: RawArray, spec: ModelSpec, loss: TargetRules, windows: Windows, steps: int, source: str
) -> RawArray:
    """Convert the target values of a series of `steps`, and return a view of the targets of all its windows.

    Classes: (windows,); numbers: (windows, *output_shape), for k target columns an output_shape of (horizon * k,),
    (horizon, k) or, for a single step, the shape of its values. Raises DataError.
    """
    source = f"{source}: targets"
    if raw.ndim == 0 or len(raw) != steps:
        msg = f"{source}: expected {steps} steps, like the inputs, got {len(raw) if raw.ndim else 'a single value'}"
        raise DataError(msg)
    numbers = target_numbers(raw, spec, loss, source)
    if loss.takes_classes():
        return _class_windows(numbers, spec, loss, windows, source)
    ahead, width = max(windows.horizon, 1), math.prod(raw.shape[1:])
    allowed = {(ahead * width,), (ahead, width), *([raw.shape[1:]] if ahead == 1 else [])}
    if spec.output_shape not in allowed:
        of_columns = f" of {width} columns" if width > 1 else ""
        msg = (
            f"{source}: {ahead} steps{of_columns} are {ahead * width} numbers, and the model's outputs have shape "
            f"{batch_of(spec.output_shape)}; set the units of its last layer to {ahead * width}, or set horizon"
        )
        raise DataError(msg)
    values = check_target_values(numbers, spec, loss, source)
    first = windows.length if windows.horizon else windows.length - 1
    flat = sliding_window_view(values.reshape(-1), ahead * width)[first * width :: width]
    return flat.reshape(len(flat), *spec.output_shape)


def _class_windows(raw: RawArray, spec: ModelSpec, loss: TargetRules, windows: Windows, source: str) -> RawArray:
    raw = raw[:, 0] if raw.ndim == 2 and raw.shape[1] == 1 else raw
    if raw.ndim != 1 or len(spec.output_shape) != 1:
        msg = f"{source}: expected a class for each window, got {raw.shape} for outputs of shape {spec.output_shape}"
        raise DataError(msg)
    if windows.horizon > 1:
        msg = f"{source}: a window has one class, that of its last step (horizon 0) or of the next (1); set horizon"
        raise DataError(msg)
    return check_target_values(raw, spec, loss, source)[windows.reach - 1 :]


def _fit_series(raw: RawArray, spec: ModelSpec, windows: Windows, source: str) -> RawArray:
    """Return a series whose windows have the model's input shape; a last axis of length 1 is added or left out."""
    shape = spec.input_shape[1:]
    raw = with_axes(raw, shape)
    if raw.shape[1:] != shape or windows.length != spec.input_shape[0]:
        got = (windows.length, *raw.shape[1:])
        msg = (
            f"{source}: inputs: the model expects shape {batch_of(spec.input_shape)}, got windows of shape {got}; "
            f"set input_shape to {list(got)}, or choose other inputs"
        )
        raise DataError(msg)
    return raw


def windowed(
    rows: RawRows, spec: ModelSpec, loss: TargetRules, windows: Windows, source: str, target_source: str, scale: Any
) -> WindowedDataset:
    """Return the windows over a series, and their targets, for a model and its loss. Raises DataError."""
    assert rows.targets is not None
    series, stored, conversion = cut_windows(rows, spec, windows, source, scale, targets=True)
    targets = cut_targets(rows.targets, spec, loss, windows, len(rows.inputs), target_source)
    return WindowedDataset(stored, targets, None, rows.names, conversion=conversion, series=series, windows=windows)
