"""Numbers that describe an array, computed in pieces: memory stays small however large the array is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 2**20


@dataclass(frozen=True)
class ArrayStatistics:
    """Norm (root of the sum of squares), mean, std (of all elements), least and greatest, of the finite elements.

    `zeros` is the share of elements that are 0, `not_finite` the number of NaNs and infinities.
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


def describe(array: npt.NDArray[Any]) -> ArrayStatistics:
    """Describe an array; all but `zeros` and `not_finite` are 0 where nothing in it is finite."""
    flat = array.reshape(-1)
    count = zeros = 0
    mean = spread = squares = 0.0
    low, high = math.inf, -math.inf
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.float64)
        zeros += int(piece.size - np.count_nonzero(piece))
        if not np.isfinite(piece).all():
            piece = piece[np.isfinite(piece)]
        if not piece.size:
            continue
        squares += float(piece @ piece)
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        # Means and spreads of two parts, put together (Chan, Golub and LeVeque 1979).
        own = float(piece.mean())
        piece -= own
        total = count + piece.size
        spread += float(piece @ piece) + (own - mean) ** 2 * count * piece.size / total
        mean += (own - mean) * piece.size / total
        count = total
    if not count:
        low = high = 0.0
    std = math.sqrt(spread / count) if count else 0.0
    share = zeros / flat.size if flat.size else 0.0
    return ArrayStatistics(array.shape, math.sqrt(squares), mean, std, low, high, share, flat.size - count)


@dataclass(frozen=True)
class Histogram:
    """How many finite elements lie in each of equally wide bins between `low` and `high`."""

    low: float
    high: float
    counts: tuple[int, ...]


def histogram(array: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """Count an array's elements by size, between its least and its greatest."""
    found = describe(array)
    low, high = found.low, found.high
    if not high > low:  # all the same
        low, high = low - 0.5, high + 0.5
    counts = np.zeros(bins, np.int64)
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.float64)
        counts += np.histogram(piece[np.isfinite(piece)], bins, (low, high))[0]
    return Histogram(low, high, tuple(counts.tolist()))
