"""Standardization of inputs to mean 0 and standard deviation 1, with statistics stored in the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import FLOAT64, SMALLEST, as_floats, batch_of
from specnet.arrays.parameters import Array, ShapeTuple
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer
from specnet.layers.sequence.steps import Mask

BOTH = "expected both mean and std, or neither; got only one of them"


def fit_standardize(layers: Sequence[Layer], batches: Iterable[npt.ArrayLike]) -> None:
    """Fit a model's first layer to the model's inputs, if it is a Standardize that is not fitted yet.

    A mask may come before it; padding then does not count.
    """
    first = layers[0]
    if isinstance(first, Mask) and len(layers) > 1:
        mask, first = first, layers[1]
        batches = (x[mask.mask_of(x)] for x in map(np.asarray, batches))
    if isinstance(first, Standardize) and not first.fitted:
        first.fit(batches)


class Standardize(Layer):
    """y = (x - mean) / std, with one mean and one std for each feature of the last axis.

    Buffers mean, std: (features,), or single numbers for all features. Without them the layer is unfitted (its std is
    0) and raises SpecnetError until `fit` is called.
    """

    def __init__(self, mean: npt.ArrayLike | None = None, std: npt.ArrayLike | None = None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            msg = f"standardize: {BOTH}"
            raise SpecnetError(msg)
        values = [as_floats(0.0 if value is None else value, FLOAT64, self.name) for value in (mean, std)]
        try:
            arrays = np.broadcast_arrays(*values)
        except ValueError:
            msg = f"standardize: expected mean and std of the same shape, got {values[0].shape} and {values[1].shape}"
            raise ShapeError(msg) from None
        if not all(np.isfinite(value).all() for value in arrays):
            msg = f"standardize: expected finite numbers, got mean {mean!r}, std {std!r}"
            raise SpecnetError(msg)
        self.buffers = {"mean": np.array(arrays[0]), "std": np.array(arrays[1])}
        if std is not None and not (self.buffers["std"] > 0).all():
            msg = f"standardize: expected a positive std, got {std!r}"
            raise SpecnetError(msg)
        self._x_shape: ShapeTuple | None = None
        self._dtype = FLOAT64

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        if (fields["mean"] is None) != (fields["std"] is None):
            raise ShapeError(BOTH)
        for name in ("mean", "std"):
            value = fields[name]
            if isinstance(value, (list, tuple)) and len(value) != input_shape[-1]:
                msg = f"{name} has {len(value)} numbers, the input has shape {input_shape}: {input_shape[-1]} features"
                raise ShapeError(msg)
        return {}, input_shape

    @classmethod
    def infer_buffers(
        cls, fields: Mapping[str, Any], input_shape: ShapeTuple
    ) -> dict[str, tuple[ShapeTuple, npt.DTypeLike | None]]:
        return {"mean": (input_shape[-1:], None), "std": (input_shape[-1:], None)}

    @classmethod
    def must_be_first(cls, fields: Mapping[str, Any]) -> str:
        return (
            "" if fields["mean"] is not None else "without values it is fitted to the training inputs; set mean and std"
        )

    @property
    def fitted(self) -> bool:
        """Whether the layer has a mean and a std."""
        return bool(self.buffers["std"].all())

    def fit(self, batches: Iterable[npt.ArrayLike]) -> None:
        """Compute mean and std over the rows of all batches, in one float64 pass (Chan, Golub and LeVeque 1979).

        A constant feature gets std 1, so its output is 0. Raises SpecnetError if there are no rows or a value is not
        finite, and ShapeError for rows of another width; the layer is then unchanged.
        """
        shape = self.buffers["mean"].shape
        count = 0
        first: Array = np.zeros(shape)  # distances to the first row are exactly 0 for a constant feature
        mean: Array = first
        squares: Array = first  # sum of the squared distances to the mean
        for batch in batches:
            x = self.floats(batch, FLOAT64)
            if (shape or count) and x.shape[-1:] != first.shape:
                msg = f"{self.name}: expected rows of {first.size} features, got an array of shape {x.shape}"
                raise ShapeError(msg)
            rows = x.reshape(-1, x.shape[-1])
            if not len(rows):
                continue
            if not count:
                first, mean, squares = rows[0].copy(), np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
            distances = rows - first
            batch_mean = distances.mean(axis=0)
            delta, total = batch_mean - mean, count + len(rows)
            squares += np.square(distances - batch_mean).sum(axis=0) + np.square(delta) * (count * len(rows) / total)
            mean += delta * (len(rows) / total)
            count = total
        if not count:
            msg = f"{self.name}: expected rows to compute mean and std from, got no rows"
            raise SpecnetError(msg)
        std = np.sqrt(squares / count)
        std[std < SMALLEST] = 1.0
        self._store_statistics(mean + first, std)

    def _store_statistics(self, mean: Array, std: Array) -> None:
        fitted = {}
        for name, value in (("mean", mean), ("std", std)):
            with np.errstate(over="ignore"):
                fitted[name] = value.astype(self.buffers[name].dtype)
            if not np.isfinite(fitted[name]).all():
                msg = f"{self.name}: the {name} of the rows is not finite or is out of range for {fitted[name].dtype}"
                raise SpecnetError(msg)
        for name, value in fitted.items():
            if self.buffers[name].shape == value.shape:
                self.buffers[name][...] = value  # in place, because a model's buffers are never rebound
            else:
                self.buffers[name] = value

    @property
    def formulas(self) -> dict[str, str]:
        return {"y": "(x - mean) / std", "dx": "dy / std"}

    def forward(self, x: npt.ArrayLike, training: bool = False, out: Array | None = None) -> Array:
        y = self.predict(x, out)
        self._x_shape, self._dtype = y.shape, y.dtype
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        dy = self.incoming(dy, self.cached(self._x_shape), self._dtype)
        return np.divide(dy, self._read_buffer(dy.dtype, "std"), out)

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        x = self.floats(x)
        std = self._read_buffer(x.dtype, "std")
        if not std.all():
            msg = f"{self.name}: not fitted yet; train the model, or call model[{self.name!r}].fit([x]) first"
            raise SpecnetError(msg)
        if std.ndim and x.shape[-1:] != std.shape:
            msg = f"{self.name}: expected an array of shape {batch_of(std.shape)}, got {x.shape}"
            raise ShapeError(msg)
        mean, y = self._read_buffer(x.dtype, "mean"), np.empty(x.shape, x.dtype) if out is None else out
        if not kernels.standardize(x, y, mean, std):
            np.subtract(x, mean, y)
            np.divide(y, std, y)
        return y

    def _read_buffer(self, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
        return self.buffers[name].astype(dtype, copy=False)
