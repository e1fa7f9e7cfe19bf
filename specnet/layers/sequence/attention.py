"""Self-attention with several heads (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from specnet import kernels
from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.arrays.sums import sum_rows
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, MaskUse, TimeMask, TimeStep
from specnet.layers.sequence.base import check_mask, check_sequence, multiply

INPUTS = ("query", "key", "value")

MOST_SCORES = 2**22
"""About the most scores that `predict` holds at a time."""


class _Made(NamedTuple):
    """The arrays of a pass; `backward` needs all of them.

    Positions are the steps of all sequences, and a head has `key_size` columns.
    """

    x: Array  # (positions, features)
    weight: Array  # (features, 3 * heads * key_size): query, key and value beside each other
    projected: Array  # (positions, 3 * heads * key_size): x @ weight + bias
    attention: Array  # (batch, heads, time, time): how much each step takes of every other one; the sums are 1.
    # In `predict` it is for a few sequences at a time, whose number is its first axis.
    kept: Array  # dropout: 0, or 1 / (1 - rate), for each element of `attention`; empty without dropout
    joined: Array  # (positions, heads * key_size): what the heads found


class Attention(Layer):
    """y = joined @ output, where each head finds softmax(Q @ K.T / sqrt(key_size)) @ V for Q, K, V = x @ their weight.

    query, key, value: (features, heads * key_size), output: (heads * key_size, features), each with a bias or None.
    With `causal`, a step sees only itself and earlier steps. In training, `dropout` is the share of the softmax's
    results that become 0. Steps where `mask` is False are not seen; a step that sees none gets 0 from the heads.
    Inputs and outputs are (batch, time, features). Raises ShapeError.
    """

    mask_use: ClassVar[MaskUse] = "taken"

    query, key, value, output = ParameterView(), ParameterView(), ParameterView(), ParameterView()
    query_grad, key_grad = GradientView("query"), GradientView("key")
    value_grad, output_grad = GradientView("value"), GradientView("output")

    def __init__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike,
        output: npt.ArrayLike,
        query_bias: npt.ArrayLike | None = None,
        key_bias: npt.ArrayLike | None = None,
        value_bias: npt.ArrayLike | None = None,
        output_bias: npt.ArrayLike | None = None,
        *,
        heads: int = 1,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        given = {"query": query, "key": key, "value": value, "output": output}
        biases = {"query": query_bias, "key": key_bias, "value": value_bias, "output": output_bias}
        first = self.floats(query)
        self.parameters = {name: self.floats(array, first.dtype) for name, array in given.items()}
        self.parameters |= {
            f"{name}_bias": self.floats(bias, first.dtype) for name, bias in biases.items() if bias is not None
        }
        if first.ndim != 2 or 0 in first.shape or heads < 1 or first.shape[1] % heads:
            msg = f"{self.name}: expected a query of shape (features, heads * key_size), got {first.shape}"
            raise ShapeError(msg)
        if not 0 <= dropout < 1:
            msg = f"{self.name}: expected a dropout in [0, 1), got {dropout!r}"
            raise SpecnetError(msg)
        shapes = self._shapes(*first.shape, bias=True)
        for name, array in self.parameters.items():
            if array.shape != shapes[name]:
                msg = f"{self.name}: expected {name} of shape {shapes[name]}, got {array.shape}"
                raise ShapeError(msg)
        self.heads, self.causal, self.dropout = heads, causal, float(dropout)
        self.key_size = first.shape[1] // heads
        self._pass: _Made | None = None

    @staticmethod
    def _shapes(features: int, width: int, *, bias: bool) -> dict[str, ShapeTuple]:
        shapes: dict[str, ShapeTuple] = {**dict.fromkeys(INPUTS, (features, width)), "output": (width, features)}
        if bias:
            shapes |= {**{f"{name}_bias": (width,) for name in INPUTS}, "output_bias": (features,)}
        return shapes

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        check_sequence(input_shape)
        heads, features = fields["heads"], input_shape[1]
        if fields["key_size"] is None and features % heads:
            msg = f"the {features} features cannot be divided among {heads} heads; choose heads or set key_size"
            raise ShapeError(msg)
        key_size = fields["key_size"] or features // heads
        return cls._shapes(features, heads * key_size, bias=fields["bias"]), input_shape

    @classmethod
    def multiply_adds(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> int:
        shapes, _ = cls.infer({**fields, "bias": False}, input_shape)
        return input_shape[0] * sum(map(size_of, shapes.values()))

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        arguments: dict[str, Any] = {**parameters, **{name: fields[name] for name in ("heads", "causal", "dropout")}}
        return cls(**arguments)

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        array = self._check_input(x)
        self._pass = None
        batch, steps, features = array.shape
        positions, width = batch * steps, self.heads * self.key_size
        dtype = array.dtype
        made = _Made(
            array.reshape(positions, features),
            self.keep("weight", (features, 3 * width), dtype),
            self.keep("projected", (positions, 3 * width), dtype),
            self.keep("attention", (batch, self.heads, steps, steps), dtype),
            self._draw((batch, self.heads, steps, steps), dtype, training=training),
            self.keep("joined", (positions, width), dtype),
        )
        y = self._compute(made, mask, out)
        self._pass = made
        return y

    def predict(self, x: npt.ArrayLike, out: Array | None = None, mask: TimeMask | None = None) -> Array:
        array = self._check_input(x)
        batch, steps, features = array.shape
        positions, width = batch * steps, self.heads * self.key_size
        few = min(batch, max(MOST_SCORES // (self.heads * steps * steps), 1)) if steps else batch
        shapes = (features, 3 * width), (positions, 3 * width), (few, self.heads, steps, steps)
        weight, projected, attention = (np.empty(shape, array.dtype) for shape in shapes)
        joined = np.empty((positions, width), array.dtype)
        rows = array.reshape(positions, features)
        kept = np.empty(0, array.dtype)
        return self._compute(_Made(rows, weight, projected, attention, kept, joined), mask, out)

    def _compute(self, made: _Made, mask: TimeMask | None, out: Array | None) -> Array:
        steps = made.attention.shape[2]
        batch, width = len(made.x) // steps if steps else 0, self.heads * self.key_size
        for index, name in enumerate(INPUTS):
            made.weight[:, index * width : (index + 1) * width] = self.parameters[name]
        multiply(made.x, made.weight, made.projected)
        if "query_bias" in self.parameters:
            made.projected[...] += np.concatenate([self.parameters[f"{name}_bias"] for name in INPUTS])
        counts = np.empty((0, 0), made.x.dtype)
        if mask is not None:
            counts = np.ascontiguousarray(check_mask(mask, np.empty((batch, steps, 0)), self.name), made.x.dtype)
        few = max(len(made.attention), 1)
        for first in range(0, batch, few):
            rows = slice(first * steps, (first + few) * steps)
            part = made._replace(projected=made.projected[rows], joined=made.joined[rows])
            part = part._replace(attention=made.attention[: min(few, batch - first)])
            self._attend(part, counts[first : first + few])
        y = np.empty((batch, steps, made.x.shape[1]), made.x.dtype) if out is None else out
        found = y.reshape(made.x.shape)
        multiply(made.joined, self.parameters["output"], found)
        if "output_bias" in self.parameters and not kernels.add_bias(found, self.parameters["output_bias"]):
            found += self.parameters["output_bias"]
        return y

    def _attend(self, made: _Made, counts: Array) -> None:
        """Compute what the heads find, `made.joined`, from their queries, keys and values."""
        if kernels.attention(made.projected, counts, made.kept, made.attention, made.joined, self.heads, self.causal):
            return
        q, k, v = self._by_head(made.projected, made)
        scores = np.matmul(q, k.swapaxes(2, 3), out=made.attention)
        scores *= scores.dtype.type(1 / np.sqrt(self.key_size))
        if counts.size:
            np.copyto(scores, -np.inf, where=(counts == 0)[:, np.newaxis, np.newaxis])
        if self.causal:
            np.copyto(scores, -np.inf, where=np.triu(np.ones(scores.shape[2:], np.bool_), 1))
        largest = scores.max(axis=3, keepdims=True, initial=np.finfo(scores.dtype).min)
        np.exp(scores - largest, out=scores)
        sums = scores.sum(axis=3, keepdims=True)
        np.divide(scores, sums, out=scores, where=sums > 0)
        weights = scores * made.kept if made.kept.size else scores
        self._by_head(made.joined, made)[0][...] = weights @ v

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        made, d_projected = self._fill_gradients(dy)
        batch, _, steps, _ = made.attention.shape
        dx = np.empty((batch, steps, made.x.shape[1]), d_projected.dtype) if out is None else out
        multiply(d_projected, made.weight.T, dx.reshape(made.x.shape))
        return dx

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        self._fill_gradients(dy)

    def _fill_gradients(self, dy: npt.ArrayLike) -> tuple[_Made, Array]:
        """Fill the gradients of the parameters; return the pass and ∂loss/∂(x @ weight + bias)."""
        made = self.cached(self._pass)
        batch, _, steps, _ = made.attention.shape
        rows = self.incoming(dy, (batch, steps, made.x.shape[1]), made.x.dtype).reshape(made.x.shape)
        d_joined = self.keep("d_joined", made.joined.shape, made.joined.dtype)
        multiply(made.joined.T, rows, self.gradient("output"))
        multiply(rows, self.parameters["output"].T, d_joined)
        d_projected = self.keep("d_projected", made.projected.shape, made.projected.dtype)
        self._attend_backward(made, d_joined, d_projected)
        d_weight = self.keep("d_weight", made.weight.shape, made.weight.dtype)
        multiply(made.x.T, d_projected, d_weight)
        width = self.heads * self.key_size
        for index, name in enumerate(INPUTS):
            self.gradient(name)[...] = d_weight[:, index * width : (index + 1) * width]
        if "query_bias" in self.parameters:
            sum_rows(rows, self.gradient("output_bias"))
            sums = np.empty(3 * width, rows.dtype)
            sum_rows(d_projected, sums)
            for index, name in enumerate(INPUTS):
                self.gradient(f"{name}_bias")[...] = sums[index * width : (index + 1) * width]
        return made, d_projected

    def _attend_backward(self, made: _Made, d_joined: Array, d_projected: Array) -> None:
        """Compute the gradients of queries, keys and values."""
        if kernels.attention_backward(made.projected, made.kept, made.attention, d_joined, d_projected, self.heads):
            return
        q, k, v = self._by_head(made.projected, made)
        dq, dk, dv = self._by_head(d_projected, made)
        d_found = self._by_head(d_joined, made)[0]
        weights = made.attention * made.kept if made.kept.size else made.attention
        dv[...] = weights.swapaxes(2, 3) @ d_found
        d_scores = d_found @ v.swapaxes(2, 3)
        if made.kept.size:
            d_scores *= made.kept
        d_scores -= np.sum(d_scores * made.attention, axis=3, keepdims=True)  # each score lowers the other results
        d_scores *= made.attention
        d_scores *= d_scores.dtype.type(1 / np.sqrt(self.key_size))
        dq[...] = d_scores @ k
        dk[...] = d_scores.swapaxes(2, 3) @ q

    def _by_head(self, rows: Array, made: _Made) -> Array:
        """Return views (parts, batch, heads, time, key_size) of the columns of rows."""
        batch, heads, steps, _ = made.attention.shape
        parts = rows.shape[1] // (heads * self.key_size)
        return rows.reshape(batch, steps, parts, heads, self.key_size).transpose(2, 0, 3, 1, 4)

    def _draw(self, shape: ShapeTuple, dtype: np.dtype[Any], *, training: bool) -> Array:
        if not training or not self.dropout:
            return np.empty(0, dtype)
        words = self.draws.words(self.name, shape[0], size_of(shape[1:]))
        kept = (words >= round(self.dropout * 2**32)).reshape(shape)
        return np.multiply(kept, 1 / (1 - self.dropout), dtype=dtype)

    def _check_input(self, x: npt.ArrayLike) -> Array:
        query = self.parameters["query"]
        array = self.floats(x, query.dtype)
        if array.ndim != 3 or array.shape[2] != len(query):
            hint = "; a single sequence needs a batch axis: x[np.newaxis]" if array.ndim == 2 else ""
            msg = f"{self.name}: expected an array of shape (batch, time, {len(query)}), got {array.shape}{hint}"
            raise ShapeError(msg)
        return array

    def time_step(self, batch: int) -> TimeStep:
        if not self.causal:
            msg = f"{self.name}: sees later steps (causal is false), so the model cannot take one step at a time"
            raise SpecnetError(msg)
        width, taken = self.heads * self.key_size, 0
        seen = np.empty((batch, 8, 3 * width), self.parameters["query"].dtype)  # what earlier steps were projected to

        def step(x: npt.NDArray[Any]) -> Array:
            nonlocal seen, taken
            if taken == seen.shape[1]:
                seen = np.concatenate([seen, np.empty_like(seen)], axis=1)
            for index, name in enumerate(INPUTS):
                bias = self.parameters.get(f"{name}_bias", 0)
                seen[:, taken, index * width : (index + 1) * width] = x @ self.parameters[name] + bias
            taken += 1
            parts = seen[:, :taken].reshape(batch, taken, 3, self.heads, self.key_size)
            query, keys, values = parts[:, -1, 0], parts[:, :, 1], parts[:, :, 2]
            scores = np.einsum("bhk,bthk->bht", query, keys) / x.dtype.type(np.sqrt(self.key_size))
            scores = np.exp(scores - scores.max(axis=2, keepdims=True))
            scores /= scores.sum(axis=2, keepdims=True)
            joined = np.einsum("bht,bthk->bhk", scores, values).reshape(batch, width)
            return joined @ self.parameters["output"] + self.parameters.get("output_bias", 0)

        return step
