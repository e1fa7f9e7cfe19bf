"""The network built from a document: `build` infers the shapes, allocates two vectors and draws the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats, as_integers, batch_of
from specnet.arrays.frames import column_names, in_order, trained_names
from specnet.arrays.parameters import Array, Parameters, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.binding import bind_layers
from specnet.chain import Chain
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, TimeMask
from specnet.plan import ModelPlan
from specnet.stepper import Stepper

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

_EQUIVALENTS = {
    "fit": "specnet.fit(model, x, y, loss=...) or specnet.train(experiment)",
    "save": "specnet.save(path, model)",
    "load": "specnet.load(path)",
    "summary": "`specnet summary DOC` or print(model)",
    "evaluate": "a loss of specnet.training.losses on model.predict(x)",
    "state_dict": "model.parameters, a mapping of names to live arrays",
    "load_state_dict": "model.parameters[name][...] = values",
}
"""Method names of other libraries, and what replaces them here."""


class Model:
    """A built network with `forward`, `backward` and `predict`, and its arrays by name.

    `spec` is its document and `layers` are its layers. `parameters`, `gradients` and `buffers` map names such as
    "hidden.weight", in document order, to live arrays. `draws` holds the step and row for which dropout draws.
    `run_state` is the state of a training run, from its checkpoint; None for a model that no run has saved.
    """

    def __init__(
        self, plan: ModelPlan, store: Parameters, layers: Sequence[Layer], document: Callable[[], ModelSpec]
    ) -> None:
        self.plan = plan
        self._get_spec = document
        self.store = store
        self.layers = tuple(layers)
        self.dtype = np.dtype(plan.dtype)
        self.input_dtype = np.dtype(plan.input_dtype)
        self.input_shape: ShapeTuple = plan.input_shape
        self.output_shape: ShapeTuple = plan.layers[-1].output_shape
        self.parameter_count = store.size
        self.draws = Draws(plan.seed)
        self.run_state: dict[str, Any] | None = None
        self._chain = Chain(layers)
        self._marks_padding = plan.layers[0].marks_padding
        self.masks_outputs = self._marks_padding and plan.keeps_time
        """Whether time steps of the outputs may be padding, which losses and metrics leave out; see output_mask."""
        self._has_gradients = False
        self._batch: int | None = None  # rows of the last complete forward; None before it
        self._buffers = bind_layers(self.layers, plan, store, self.draws)

    def move_gradients(self, vector: Array) -> None:
        """Move the gradients into `vector`, (parameter_count + 1,), before an optimizer is made, which keeps views."""
        self.store.move_gradients(vector)
        bind_layers(self.layers, self.plan, self.store, self.draws)

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's document."""
        return self._get_spec()

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Trained arrays by full name. They are live: to change one, write into it in place."""
        return MappingProxyType(self.store.values)

    @property
    def gradients(self) -> Mapping[str, Array]:
        """∂loss/∂parameter by full name, of the last `backward` or the loaded file; empty before either."""
        return MappingProxyType(self.store.gradients if self._has_gradients else {})

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """Live arrays of untrained state, such as a running mean, by full name."""
        return MappingProxyType(self._buffers)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Return the output (batch, *output_shape) for x (batch, *input_shape), and cache what `backward` needs.

        The model refers to x until `backward`. Each call with `training` increments `draws.step`, so that dropout draws
        new elements. A last axis of length 1 may be missing in x. Raises ShapeError.
        """
        x = self._input(x)
        self._batch = None
        y = self._chain.forward(x, training, mask=self._mask_for_layers(x))
        self._batch = len(y)
        if training:
            self.draws.step += 1
        return y

    def backward(self, dy: npt.ArrayLike, input_gradient: bool = True) -> Array | None:
        """Fill `gradients` from the upstream gradient dy, ∂loss/∂output, and return ∂loss/∂x.

        Returns None without `input_gradient`, which saves work, and for integer inputs, which have no gradient. Raises
        SpecnetError if no forward precedes, and ShapeError if dy does not have the shape of the last output.
        """
        dy = self._output_gradient(dy)
        if not input_gradient:
            self.train_backward(dy)
            return None
        self._has_gradients = False
        dx = self._chain.backward(dy)
        self._has_gradients = True
        return dx

    def train_forward(self, x: npt.NDArray[Any], out: Array) -> Array:
        """Compute `forward(x, training=True)` without checks or a new `draws.step`, if possible into `out`."""
        self._batch = None
        y = self._chain.forward(x, training=True, out=out, mask=self._mask_for_layers(x))
        self._batch = len(y)
        return y

    def train_backward(self, dy: Array) -> None:
        """Compute `backward(dy, input_gradient=False)` without checks, for dy of the outputs of `train_forward`."""
        self._has_gradients = False
        self._chain.parameter_backward(dy)
        self._has_gradients = True

    def predict(self, x: npt.ArrayLike, batch_size: int | None = None) -> Array:
        """Return the same as `forward` outside training; thread-safe, because nothing is cached.

        Of a data frame, the columns are taken that the model was trained on, if it knows their names. NaN in an input
        makes the outputs of its row NaN, as in numpy; only files (`specnet predict`) are checked for it.
        `batch_size` is the number of rows per pass. It saves memory, and may change the last bits of an output, because
        BLAS sums in an order that depends on the number of rows. Raises ShapeError.
        """
        x = self._input(x)
        if batch_size is None:
            return self._chain.predict(x, mask=self._mask_for_layers(x))
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            msg = f"predict: expected batch_size to be a positive integer or None, got {batch_size!r}"
            raise SpecnetError(msg)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            rows = x[start : start + batch_size]
            y[start : start + batch_size] = self._chain.predict(rows, mask=self._mask_for_layers(rows))
        return y

    def mask_of(self, x: npt.ArrayLike) -> TimeMask | None:
        """Return which steps of x, sequences for the model, count: (batch, time), False for padding.

        None if no layer marks padding: the first layer must be a mask, or an embedding with mask_index. Raises
        ShapeError.
        """
        return self.layers[0].mask_of(self._input(x)) if self._marks_padding else None

    def output_mask(self, x: npt.ArrayLike) -> TimeMask | None:
        """Return `mask_of(x)` if the outputs still are sequences, (batch, time, …), otherwise None."""
        return self.mask_of(x) if self.masks_outputs else None

    def stepper(self, batch: int = 1) -> Stepper:
        """Return an object that takes sequences one time step at a time, and keeps the state between them.

        Raises SpecnetError if a layer needs all steps at once: attention without `causal`, a reversed recurrent layer,
        convolutions, pools, flatten.
        """
        return Stepper(self.layers, self.plan, batch)

    def _mask_for_layers(self, x: npt.NDArray[Any]) -> TimeMask | None:
        """Return the mask of checked inputs; None also if every step counts."""
        mask = self.layers[0].mask_of(x) if self._marks_padding else None
        return None if mask is None or mask.all() else mask

    def _input(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        if type(x) is np.ndarray and x.dtype is self.input_dtype and x.ndim and x.shape[1:] == self.input_shape:
            return x
        first, expected = self.layers[0].name, batch_of(self.input_shape)
        if column_names(x):
            x = in_order(x, trained_names(self.run_state), first)
        is_integer = self.input_dtype.kind == "i"
        array = as_integers(x, first, expected) if is_integer else as_floats(x, self.dtype, first, expected)
        array = array[..., np.newaxis] if array.ndim > 1 and (*array.shape[1:], 1) == self.input_shape else array
        if array.ndim == 0 or array.shape[1:] != self.input_shape:
            hint = "; a single input needs a batch axis: x[np.newaxis]" if array.shape == self.input_shape else ""
            msg = f"{first}: expected an array of shape {expected}, got {array.shape}{hint}"
            raise ShapeError(msg)
        return array

    def _output_gradient(self, dy: npt.ArrayLike) -> Array:
        last = self.layers[-1].name
        if self._batch is None:
            msg = f"{last}: backward before forward; call model.forward(x) first"
            raise SpecnetError(msg)
        expected = (self._batch, *self.output_shape)
        if type(dy) is np.ndarray and dy.dtype is self.dtype and dy.shape == expected:
            return dy
        array = as_floats(dy, self.dtype, last, str(expected))
        if array.shape != expected:
            msg = f"{last}: expected a gradient of shape {expected}, the shape of the outputs, got {array.shape}"
            raise ShapeError(msg)
        return array

    @property
    def has_gradients(self) -> bool:
        """Whether `gradients` is filled, by a backward or from the loaded file."""
        return self._has_gradients

    def forget_forward(self) -> None:
        """Require another forward before the next backward, because other data has passed through the layers."""
        self._batch = None

    def adopt_gradients(self) -> None:
        """Mark the gradient arrays as filled, for example after a load from a file."""
        self._has_gradients = True

    def __call__(self, x: npt.ArrayLike, training: bool = False) -> Array:
        return self.forward(x, training)

    def __getitem__(self, name: str) -> Layer:
        """Return a layer by name; a layer inside a composite by its full name, "block.hidden". Raises KeyError."""
        outer, *inner = name.split(".")
        try:
            layer: Any = next(layer for layer in self.layers if layer.name == outer)
            for part in inner:
                layer = layer[part]
        except (StopIteration, KeyError, TypeError):
            known = [full for top in self.plan.layers for full in top.names()]
            msg = f"no layer {name!r}; valid: {', '.join(known)}"
            raise KeyError(msg) from None
        return layer

    def __repr__(self) -> str:
        return f"<Model {self.plan.about(self.parameter_count)}>"

    def _repr_html_(self) -> str:
        """Return an HTML table of the layers for a notebook."""
        return self.spec._repr_html_()

    def __getattr__(self, name: str) -> NoReturn:
        hint = f"; use {_EQUIVALENTS[name]}" if name in _EQUIVALENTS else ""
        msg = f"Model has no attribute {name!r}{hint}"
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        gradients = dict(self.gradients) if self._has_gradients else None
        draws = (self.draws.seed, self.draws.step, self.draws.first_row)
        return _restored, (self.spec, dict(self.parameters), dict(self.buffers), gradients, draws, self.run_state)


def build(spec: ModelSpec, seed: int | None = None) -> Model:
    """Build the network of a document and draw its initial weights; `seed` replaces the document's seed.

    Raises SpecnetError for anything but a ModelSpec, and SpecError for an out-of-range seed.
    """
    # Imported here because loading a checkpoint does not need it, and Pydantic is slower to import than numpy.
    from specnet.spec.model_spec import ModelSpec  # noqa: PLC0415 - this module is imported without Pydantic

    if not isinstance(spec, ModelSpec):
        msg = f"build: expected a ModelSpec, got {type(spec).__name__}; make one with load_spec(path) or ModelSpec(...)"
        raise SpecnetError(msg)
    if seed is not None:
        spec = spec.with_seed(seed)
    plan = spec.plan()
    model = assemble(plan, lambda: spec)
    for name, parameter in spec.parameter_specs(plan).items():
        model.parameters[name][...] = parameter.draw(spec.seed, name, model.parameters[name].shape)
    return model


def assemble(plan: ModelPlan, document: Callable[[], ModelSpec], values: Mapping[str, Array] | None = None) -> Model:
    """Build a network from a plan without drawing weights.

    The parameters are `values`, kept by reference, or zeros that the caller overwrites. `document` returns the document
    of `plan`; it is called at the first use of `Model.spec`.
    """
    store = Parameters(plan.parameter_shapes(), plan.dtype, values)
    layers = [p.make({name: store.values[f"{p.name}.{name}"] for name in p.parameters}) for p in plan.layers]
    return Model(plan, store, layers, document)


def _restored(
    spec: ModelSpec,
    values: Mapping[str, Array],
    buffers: Mapping[str, npt.NDArray[Any]],
    gradients: Mapping[str, Array] | None,
    draws: tuple[int, int, int],
    run_state: dict[str, Any] | None,
) -> Model:
    """Rebuild a copied or unpickled model, with new arrays in new vectors."""
    model = assemble(spec.plan(), lambda: spec)
    for arrays, copies in ((model.parameters, values), (model.buffers, buffers), (model.store.gradients, gradients)):
        for name, array in (copies or {}).items():
            arrays[name][...] = array
    if gradients is not None:
        model.adopt_gradients()
    model.draws.seed, model.draws.step, model.draws.first_row = draws
    model.run_state = run_state
    return model
