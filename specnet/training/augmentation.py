"""Augmentation: random changes of the training rows, each drawn by a function of seed, step and row.

So neither resuming nor the number of processes or accumulated batches changes what a row becomes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.document.base import Document
from specnet.document.tagged_union import Tagged
from specnet.fields import PositiveInteger

Words = npt.NDArray[np.uint32]
"""Random words (rows, words)."""


Change = Callable[[Array, Words], Array]
"""Returns changed rows as a new array."""


class AugmentationSpec(Document):
    """Base class of the augmentations."""

    words: ClassVar[int]
    """Random words for each row."""

    @abstractmethod
    def build(self, input_shape: ShapeTuple) -> Change:
        """Return the function that changes rows of this shape."""

    @abstractmethod
    def fault(self, input_shape: ShapeTuple) -> tuple[str, str]:
        """Return what does not fit inputs of 2 or 3 axes: the key and the message, both empty if everything fits."""


class RandomCropSpec(AugmentationSpec):
    """Pads images on each side with zeros, sequences at both ends, and cuts the original size out at a random place."""

    words: ClassVar[int] = 2
    type: Literal["random_crop"] = "random_crop"
    padding: PositiveInteger = 4
    """Zeros on each side; less than height and width."""

    def build(self, input_shape: ShapeTuple) -> Change:
        return _Move(input_shape, self.padding)

    def fault(self, input_shape: ShapeTuple) -> tuple[str, str]:
        return "padding", _too_far(input_shape, self.padding)


class ShiftSpec(AugmentationSpec):
    """Moves images by a random number of pixels in both directions, and sequences along their length; fills with 0."""

    words: ClassVar[int] = 2
    type: Literal["shift"] = "shift"
    pixels: PositiveInteger = 2
    """Greatest distance in each direction; less than height and width."""

    def build(self, input_shape: ShapeTuple) -> Change:
        return _Move(input_shape, self.pixels)

    def fault(self, input_shape: ShapeTuple) -> tuple[str, str]:
        return "pixels", _too_far(input_shape, self.pixels)


class FlipSpec(AugmentationSpec):
    """Mirrors images with probability 0.5."""

    words: ClassVar[int] = 1
    type: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"
    """Whether left and right are exchanged ("horizontal"), or top and bottom ("vertical")."""

    def build(self, input_shape: ShapeTuple) -> Change:
        axis = 2 if self.axis == "horizontal" else 1
        reverse = np.arange(input_shape[axis - 1])[::-1]

        def flip(x: Array, words: Words) -> Array:
            flipped, y = np.flatnonzero(words[:, 0] >> 31), x.copy()
            y[flipped] = x[flipped].take(reverse, axis)
            return y

        return flip

    def fault(self, input_shape: ShapeTuple) -> tuple[str, str]:
        if len(input_shape) == 3:
            return "", ""
        return "", f"flip needs images, input_shape [height, width, channels], got {list(input_shape)}; remove it"


def _too_far(input_shape: ShapeTuple, distance: int) -> str:
    shortest = min(input_shape[:-1])
    return f"expected less than {shortest}, got {distance}: nothing of a row may remain" if distance >= shortest else ""


class _Move:
    """Moves each row by a random distance of up to `distance` along all axes but the last; fills with 0.

    The rows are copied into an array with margins of zeros, which is kept; a result is a window of it.
    """

    def __init__(self, input_shape: ShapeTuple, distance: int) -> None:
        self.height, self.width, self.channels = (
            input_shape if len(input_shape) == 3 else (input_shape[0], 1, input_shape[1])
        )
        self.margins = distance, distance if len(input_shape) == 3 else 0
        self._padded: Array | None = None

    def __call__(self, x: Array, words: Words) -> Array:
        (vertical, horizontal), count, padded = self.margins, len(x), self._padded
        if padded is None or len(padded) < count:
            shape = (self.height + 2 * vertical, self.width + 2 * horizontal, self.channels)
            padded = self._padded = np.zeros((count, *shape), x.dtype)
        inside = slice(vertical, vertical + self.height), slice(horizontal, horizontal + self.width)
        padded[:count, *inside] = x.reshape(count, self.height, self.width, self.channels)
        row, line, pixel, item = padded.strides
        windows = as_strided(
            padded,
            (count, 2 * vertical + 1, 2 * horizontal + 1, self.height, self.width * self.channels),
            (row, line, pixel, line, item),
            writeable=False,
        )
        down, right = (_below(2 * margin + 1, words[:, axis]) for axis, margin in enumerate(self.margins))
        return windows[np.arange(count), down, right].reshape(x.shape)


def _below(count: int, words: Words) -> npt.NDArray[np.int64]:
    """Return an integer from 0 to count - 1 for each word."""
    return (words.astype(np.int64) * count) >> 32


class Augmenter:
    """Applies the augmentations of a run to the rows of a step, in the order of the document."""

    def __init__(self, specs: Sequence[AugmentationSpec], input_shape: ShapeTuple, draws: Draws) -> None:
        self._changes = [(f"augment {index}", spec.words, spec.build(input_shape)) for index, spec in enumerate(specs)]
        self._draws = draws

    def __call__(self, x: Array, parts: Sequence[tuple[int, int]]) -> Array:
        """Return changed rows; x holds the rows of the step in the ranges `parts`. Draws for the step of the model."""
        for name, width, change in self._changes:
            words = [self._words(name, first, stop - first, width) for first, stop in parts]
            x = change(x, words[0] if len(words) == 1 else np.concatenate(words))
        return x

    def _words(self, name: str, first: int, rows: int, width: int) -> Words:
        self._draws.first_row = first
        words = self._draws.words(name, rows, width)
        self._draws.first_row = 0
        return words


AUGMENTATIONS: dict[str, type[AugmentationSpec]] = {
    "random_crop": RandomCropSpec,
    "flip": FlipSpec,
    "shift": ShiftSpec,
}


AugmentChoice = Annotated[AugmentationSpec, Tagged("augmentation", lambda: AUGMENTATIONS, shorthand=True)]
