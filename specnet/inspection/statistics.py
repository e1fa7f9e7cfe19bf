"""Descriptive statistics of an array, computed in pieces, so that memory use does not grow with the array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 2**20  # elements
HUGE = 1e150  # the square of a larger number may overflow float64


@dataclass(frozen=True)
class ArrayStatistics:
    """Statistics of the finite elements: L2 norm, mean, standard deviation, minimum (low) and maximum (high).

    `zeros` is the fraction of elements that are 0, `not_finite` the number of NaNs and infinities.
    """

    shape: tuple[int, ...]
    norm: float
    mean: float
    std: float
    low: float
    high: float
    zeros: float
    not_finite: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def array_statistics(array: npt.NDArray[Any]) -> ArrayStatistics:
    """Compute the statistics of an array. Without finite elements, all but `zeros` and `not_finite` are 0."""
    flat = array.reshape(-1)
    count = zeros = 0
    mean = deviations = squares = 0.0
    low, high = bounds(flat)
    # Scale huge values, because their squares would overflow float64.
    factor = max(abs(low), abs(high)) if max(abs(low), abs(high)) > HUGE else 1.0
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.float64)
        zeros += int(piece.size - np.count_nonzero(piece))
        if not np.isfinite(piece).all():
            piece = piece[np.isfinite(piece)]
        if not piece.size:
            continue
        piece /= factor
        squares += float(piece @ piece)
        # Combine the means and the sums of squared deviations of two parts (Chan, Golub and LeVeque 1979).
        piece_mean = float(piece.mean())
        piece -= piece_mean
        total = count + piece.size
        deviations += float(piece @ piece) + (piece_mean - mean) * (piece_mean - mean) * count * piece.size / total
        mean += (piece_mean - mean) * piece.size / total
        count = total
    std = factor * math.sqrt(deviations / count) if count else 0.0
    zero_fraction = zeros / flat.size if flat.size else 0.0
    norm = factor * math.sqrt(squares)
    return ArrayStatistics(array.shape, norm, factor * mean, std, low, high, zero_fraction, flat.size - count)


def bounds(flat: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest finite element; 0 and 0 without finite elements."""
    low, high = math.inf, -math.inf
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        if not np.isfinite(piece).all():
            piece = piece[np.isfinite(piece)]
        if piece.size:
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    return (low, high) if low <= high else (0.0, 0.0)


@dataclass(frozen=True)
class Histogram:
    """The number of finite elements in each of equally wide bins between `low` and `high`."""

    low: float
    high: float
    counts: tuple[int, ...]


def histogram(array: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """Count the finite elements of an array in bins between its minimum and its maximum."""
    flat = array.reshape(-1)
    low, high = bounds(flat)
    # A bin must be wider than the spacing of floats of this size.
    min_width = 4 * bins * float(np.spacing(max(abs(low), abs(high))))
    if not high / 2 - low / 2 > min_width:
        low, high = low - max(0.5, min_width), high + max(0.5, min_width)
    counts = np.zeros(bins, np.int64)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.float64)
        position = (piece[np.isfinite(piece)] / 2 - low / 2) / (high / 2 - low / 2)  # halves do not overflow
        counts += np.bincount(np.clip((position * bins).astype(np.int64), 0, bins - 1), minlength=bins)
    return Histogram(low, high, tuple(counts.tolist()))
