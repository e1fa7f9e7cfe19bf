"""What layers over one or two axes share: they compute with images, of which a sequence has one row."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError
from specnet.layer import Layer, MaskUse
from specnet.layers.spatial.windows import AXES


class Spatial(Layer):
    """Base class of layers over sequences (1 axis) or images (2 axes), with the channels on the last axis."""

    axes: ClassVar[int]
    mask_use: ClassVar[MaskUse] = "refused"

    def __init__(self) -> None:
        super().__init__()
        self._y_shape: ShapeTuple = ()

    def _as_images(self, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None, channels: int | None = None) -> Array:
        """Return x as contiguous images (batch, height, width, channels). Raises ShapeError."""
        array = self.floats(x, dtype)
        if array.ndim != self.axes + 2 or (channels is not None and array.shape[-1] != channels):
            expected = f"(batch, {', '.join(AXES[self.axes])}, {'channels' if channels is None else channels})"
            hint = "; a single input needs a batch axis: x[np.newaxis]" if array.ndim == self.axes + 1 else ""
            msg = f"{self.name}: expected an array of shape {expected}, got {array.shape}{hint}"
            raise ShapeError(msg)
        images = self._with_rows(array)
        return images if images.flags.c_contiguous and images.flags.aligned else np.array(images)

    def _gradient_as_images(self, dy: npt.ArrayLike, dtype: np.dtype[Any]) -> Array:
        """Return the upstream gradient as contiguous images. Raises ShapeError."""
        return self._with_rows(np.ascontiguousarray(self.incoming(dy, self._y_shape, dtype)))

    def _with_rows(self, array: Array) -> Array:
        return array if self.axes == 2 else array[:, np.newaxis]

    def _without_rows(self, images: Array) -> Array:
        """Return images as the layer's outputs: those of a layer over sequences lose their one row."""
        return images if self.axes == 2 else images[:, 0]
