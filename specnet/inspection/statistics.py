"""Numbers that describe an array, computed in pieces: memory stays small however large the array is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 2**20
HUGE = 1e150


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


def array_statistics(array: npt.NDArray[Any]) -> ArrayStatistics:
    """Describe an array; all but `zeros` and `not_finite` are 0 where nothing in it is finite."""
    flat = array.reshape(-1)
    count = zeros = 0
    mean = spread = squares = 0.0
    low, high = bounds(flat)
    # Squares of float64's largest numbers would overflow.
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
        # Means and spreads of two parts, put together (Chan, Golub and LeVeque 1979).
        own = float(piece.mean())
        piece -= own
        total = count + piece.size
        spread += float(piece @ piece) + (own - mean) * (own - mean) * count * piece.size / total
        mean += (own - mean) * piece.size / total
        count = total
    std = factor * math.sqrt(spread / count) if count else 0.0
    share = zeros / flat.size if flat.size else 0.0
    norm = factor * math.sqrt(squares)
    return ArrayStatistics(array.shape, norm, factor * mean, std, low, high, share, flat.size - count)


def bounds(flat: npt.NDArray[Any]) -> tuple[float, float]:
    """Give the least and the greatest finite element, twice 0 where there is none."""
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
    """How many finite elements lie in each of equally wide bins between `low` and `high`."""

    low: float
    high: float
    counts: tuple[int, ...]


def histogram(array: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """Count an array's elements by size, between its least and its greatest."""
    flat = array.reshape(-1)
    low, high = bounds(flat)
    # Bins have to be wider than the gap between two numbers of this size.
    least = 4 * bins * float(np.spacing(max(abs(low), abs(high))))
    if not high / 2 - low / 2 > least:
        low, high = low - max(0.5, least), high + max(0.5, least)
    counts = np.zeros(bins, np.int64)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.float64)
        share = (piece[np.isfinite(piece)] / 2 - low / 2) / (high / 2 - low / 2)  # halves cannot overflow
        counts += np.bincount(np.clip((share * bins).astype(np.int64), 0, bins - 1), minlength=bins)
    return Histogram(low, high, tuple(counts.tolist()))
