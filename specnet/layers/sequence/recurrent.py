"""What the recurrent layers share: order of the steps, masks, products over all steps at once, and the walk over time.

The arrays of a pass have the time first, (time, batch, …), in the order in which the layer goes through the steps, so
that a step's rows lie behind each other. A subclass computes one step, forward and backward.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import size_of
from specnet.arrays.parameters import Array, GradientView, ParameterView, ShapeTuple
from specnet.arrays.sums import sum_rows
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, MaskUse, TimeMask, TimeStep
from specnet.layers.sequence.base import Keep, Pass, check_mask, check_sequence, multiply, new_array


class Recurrent(Layer):
    """Base class of the recurrent layers.

    weight: (features, gates * units), recurrent_weight: (units, gates * units), bias: (gates * units,) or None; the
    columns of a gate are adjacent. Inputs are (batch, time, features), outputs (batch, time, units) with
    `return_sequences`, otherwise the last state, (batch, units). With `reverse`, the steps are taken from the last to
    the first; outputs stand at their steps. `truncate` cuts the gradient between every `truncate` steps. Padding, where
    `mask` is False, passes the state on.
    """

    gates: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = ("return_sequences", "reverse", "truncate")
    """The keys of a document that are arguments of the constructor."""
    mask_use: ClassVar[MaskUse] = "taken"
    states: ClassVar[tuple[str, ...]] = ("h",)
    """What a step passes on to the next: arrays of (steps + 1, batch, units), the first before any step."""
    records: ClassVar[Mapping[str, int]] = {"gates": 1}
    """What a step writes for `backward`: arrays of (steps, batch, width * units), name -> width."""

    weight = ParameterView()
    recurrent_weight = ParameterView()
    bias = ParameterView()
    weight_grad = GradientView("weight")
    recurrent_weight_grad = GradientView("recurrent_weight")
    bias_grad = GradientView("bias")

    def __init__(
        self,
        weight: npt.ArrayLike,
        recurrent_weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        return_sequences: bool = False,
        reverse: bool = False,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        self._weight = self.parameters["weight"] = self.floats(weight)
        dtype = self._weight.dtype
        self._recurrent = self.parameters["recurrent_weight"] = self.floats(recurrent_weight, dtype)
        self.units = len(self._recurrent)
        width = self.gates * self.units
        self._bias: Array | None = None
        if bias is not None:
            self._bias = self.parameters["bias"] = self.floats(bias, dtype)
        self._check_shape("weight", (len(self._weight), width))
        self._check_shape("recurrent_weight", (self.units, width))
        self._check_shape("bias", (width,))
        if truncate is not None and truncate < 1:
            msg = f"{self.name}: expected truncate to be a positive number of steps, got {truncate!r}"
            raise SpecnetError(msg)
        self.return_sequences, self.reverse, self.truncate = return_sequences, reverse, truncate
        self._pass: Pass | None = None
        self._y_shape: ShapeTuple = ()

    def _check_shape(self, name: str, shape: ShapeTuple) -> None:
        array = self.parameters.get(name)
        if array is not None and (array.shape != shape or 0 in shape):
            msg = f"{self.name}: expected a {name} of shape {shape}, got {array.shape}"
            raise ShapeError(msg)

    @classmethod
    def infer(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> tuple[dict[str, ShapeTuple], ShapeTuple]:
        check_sequence(input_shape)
        units = fields["units"]
        width = cls.gates * units
        shapes: dict[str, ShapeTuple] = {"weight": (input_shape[1], width), "recurrent_weight": (units, width)}
        if fields["bias"]:
            shapes["bias"] = (width,)
        return shapes, (input_shape[0], units) if fields["return_sequences"] else (units,)

    @classmethod
    def multiply_adds(cls, fields: Mapping[str, Any], input_shape: ShapeTuple) -> int:
        units: int = fields["units"]
        return size_of(input_shape[:1]) * (input_shape[-1] + units) * cls.gates * units

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Array]) -> Self:
        arguments: dict[str, Any] = {**parameters, **{name: fields[name] for name in cls.options}}
        return cls(**arguments)

    def forward(
        self, x: npt.ArrayLike, training: bool = False, out: Array | None = None, mask: TimeMask | None = None
    ) -> Array:
        self._pass = None  # a pass that fails leaves no valid cache
        made = self._prepare(self._check_input(x), mask, self.keep)
        made.arrays = self._allocate(len(made.x), made, self.keep)
        if not self.compiled(made):
            self.walk(made)
        y = self._result(made, out)
        self._pass, self._y_shape = made, y.shape
        return y

    def predict(self, x: npt.ArrayLike, out: Array | None = None, mask: TimeMask | None = None) -> Array:
        made = self._prepare(self._check_input(x), mask, new_array)
        made.arrays = self._allocate(0, made, new_array, steps_of_h=len(made.x) * self.return_sequences)
        if not self.compiled(made):
            made.arrays = self._allocate(len(made.x), made, new_array)
            self.walk(made)
        return self._result(made, out)

    def _prepare(self, x: Array, mask: TimeMask | None, keep: Keep) -> Pass:
        """Put sequences, (batch, time, features), and their mask into the order of the pass."""
        batch, steps, features = x.shape
        counts = np.empty(0, x.dtype)
        if mask is not None:
            counts = np.ascontiguousarray(self._in_order(check_mask(mask, x, self.name)), x.dtype)
        ordered = self._in_order(x)
        if not ordered.flags.c_contiguous:
            ordered = keep("x", (steps, batch, features), x.dtype)
            ordered[...] = self._in_order(x)
        return Pass(ordered, counts)

    def _allocate(self, steps: int, made: Pass, keep: Keep, steps_of_h: int | None = None) -> dict[str, Array]:
        """Return the arrays of a pass that keeps `steps` steps; with 0, compiled steps overwrite what came before."""
        batch, dtype = made.x.shape[1], made.x.dtype
        arrays = {}
        for name in self.states:
            count = steps if steps_of_h is None or name != "h" else steps_of_h
            arrays[name] = keep(name, (count + 1, batch, self.units), dtype)
            arrays[name][0] = 0
        for name, width in self.records.items():
            arrays[name] = keep(name, (max(steps, 1), batch, width * self.units), dtype)
        return arrays

    def compiled(self, made: Pass) -> bool:
        """Compute the whole pass by a kernel; return False if there is none for it."""
        return False

    def walk(self, made: Pass) -> None:
        """Compute the whole pass by numpy: one product with the weight for all steps, then step by step."""
        inputs = made.arrays["gates"]
        steps, batch, width = inputs.shape
        multiply(made.x.reshape(steps * batch, made.x.shape[2]), self._weight, inputs.reshape(steps * batch, width))
        if self._bias is not None:
            inputs += self._bias
        made.arrays["products"] = np.empty((batch, width), inputs.dtype)
        for t in range(steps):
            self.step(made.arrays, t)
            if made.counts.size:
                padding = made.counts[t] == 0
                for name in self.states:
                    made.arrays[name][t + 1, padding] = made.arrays[name][t, padding]

    @abstractmethod
    def step(self, arrays: Mapping[str, Array], t: int) -> None:
        """Compute the states t + 1 from the states t.

        arrays["gates"][t] holds x @ weight + bias, and then the gates; arrays["products"] is room for h @ weight.
        """

    def split(self, gates: Array) -> list[Array]:
        """Return the columns of each gate."""
        return [gates[..., n * self.units : (n + 1) * self.units] for n in range(self.gates)]

    def present(self, bias: Array | None) -> Array:
        """Return a bias for a kernel, which takes an empty array for none."""
        return np.empty(0, self._weight.dtype) if bias is None else bias

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        made, d_inputs = self._fill_gradients(dy)
        steps, batch, features = made.x.shape
        dx = self.keep("dx", made.x.shape, made.x.dtype)
        multiply(d_inputs, self._weight.T, dx.reshape(steps * batch, features))
        result = np.empty((batch, steps, features), dx.dtype) if out is None else out
        self._in_order(result)[...] = dx
        return result

    def parameter_backward(self, dy: npt.ArrayLike) -> None:
        self._fill_gradients(dy)

    def _fill_gradients(self, dy: npt.ArrayLike) -> tuple[Pass, Array]:
        """Fill the gradients of the parameters; return the pass and ∂loss/∂(x @ weight + bias) of all steps as rows."""
        made = self.cached(self._pass)
        dy = self.incoming(dy, self._y_shape, self._weight.dtype)
        steps, batch, features = made.x.shape
        dh = self.keep("dh", (steps, batch, self.units), dy.dtype)
        if self.return_sequences:
            dh[...] = self._in_order(dy)
        else:
            dh[:-1] = 0
            dh[-1:] = dy
        rows = steps * batch, self.gates * self.units
        d_inputs, d_recurrent = (array.reshape(rows) for array in self.walk_back(made, dh))
        multiply(made.x.reshape(steps * batch, features).T, d_inputs, self.gradient("weight"))
        self.fill_recurrent_gradient(made, d_recurrent)
        if self._bias is not None:
            sum_rows(d_inputs, self.gradient("bias"))
        return made, d_inputs

    @abstractmethod
    def walk_back(self, made: Pass, dh: Array) -> tuple[Array, Array]:
        """Return the gradients of x @ weight + bias and of h @ recurrent_weight, (steps, batch, gates * units) each.

        `dh`, (steps, batch, units), is the gradient that reaches each state after a step from the outputs. The layer
        adds what reaches it from the following steps.
        """

    def hand_on(self, made: Pass, t: int, dh: Array, before: Array, cuts: npt.NDArray[np.bool_]) -> None:
        """Add `before`, the gradient of state t through step t, to what reaches that state from the outputs.

        Where step t is padding, its state is the state before, and so is its gradient.
        """
        if t == 0:
            return
        if cuts.size:
            before[cuts[t]] = 0
        if made.counts.size:
            padding = made.counts[t] == 0
            before[padding] = dh[t, padding]
        dh[t - 1] += before

    def fill_recurrent_gradient(self, made: Pass, d_recurrent: Array) -> None:
        """Fill the gradient of recurrent_weight from that of h @ recurrent_weight, as rows."""
        before = made.arrays["h"][:-1].reshape(len(d_recurrent), self.units)
        multiply(before.T, d_recurrent, self.gradient("recurrent_weight"))

    def find_cuts(self, made: Pass) -> npt.NDArray[np.bool_]:
        """Return from which steps no gradient passes to the one before, (steps, batch); empty without `truncate`.

        The cuts of a sequence lie between its steps that count.
        """
        if self.truncate is None:
            return np.empty(0, np.bool_)
        steps, batch, _ = made.x.shape
        counts = made.counts != 0 if made.counts.size else np.ones((steps, batch), np.bool_)
        return counts & ((np.cumsum(counts, axis=0) - 1) % self.truncate == 0)

    def _in_order(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of (batch, time, …) with the time first, in the order in which the layer takes the steps."""
        return np.swapaxes(array[:, ::-1] if self.reverse else array, 0, 1)

    def _result(self, made: Pass, out: Array | None) -> Array:
        h, (steps, batch) = made.arrays["h"], made.x.shape[:2]
        shape = (batch, steps, self.units) if self.return_sequences else (batch, self.units)
        y = np.empty(shape, h.dtype) if out is None else out
        if self.return_sequences:
            self._in_order(y)[...] = h[1:]
        else:
            y[...] = h[-1]
        return y

    def _check_input(self, x: npt.ArrayLike) -> Array:
        array = self.floats(x, self._weight.dtype)
        features = len(self._weight)
        if array.ndim != 3 or array.shape[2] != features:
            hint = "; a single sequence needs a batch axis: x[np.newaxis]" if array.ndim == 2 else ""
            msg = f"{self.name}: expected an array of shape (batch, time, {features}), got {array.shape}{hint}"
            raise ShapeError(msg)
        return array

    def time_step(self, batch: int) -> TimeStep:
        if self.reverse:
            msg = f"{self.name}: begins with the last step (reverse), so the model cannot take one step at a time"
            raise SpecnetError(msg)
        made = Pass(np.empty((1, batch, len(self._weight)), self._weight.dtype), np.empty(0, self._weight.dtype))
        arrays = made.arrays = self._allocate(0, made, new_array)

        def step(x: npt.NDArray[Any]) -> Array:
            made.x = np.ascontiguousarray(x)[np.newaxis]
            made.arrays = arrays
            if not self.compiled(made):
                made.arrays = self._allocate(1, made, new_array)
                for name in self.states:
                    made.arrays[name][0] = arrays[name]
                self.walk(made)
                for name in self.states:
                    arrays[name][0] = made.arrays[name][1]
            return arrays["h"][0].copy()

        return step
