"""From a document to a network: `build` folds the shapes, allocates two vectors and draws the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_floats, as_integers, batch_of
from specnet.arrays.parameters import Array, Parameters, ShapeTuple
from specnet.arrays.randomness import Draws
from specnet.chain import Chain
from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer
from specnet.plan import LayerPlan, ModelPlan

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

_ELSEWHERE = {
    "fit": "specnet.fit(model, x, y, loss=...) or specnet.train(experiment)",
    "save": "specnet.save(path, model)",
    "load": "specnet.load(path)",
    "summary": "`specnet summary DOC` or print(model)",
    "evaluate": "a loss of specnet.training.losses on model.predict(x)",
    "state_dict": "model.parameters, a mapping of names to live arrays",
    "load_state_dict": "model.parameters[name][...] = values",
}


class Model:
    """A built network: `forward`, `backward`, `predict`, and its arrays by name.

    `spec` is its document; `layers` its layers; `parameters`, `gradients` and `buffers` map names such as
    "hidden.weight", in document order, to live arrays. `draws` says which step and row dropout draws for.
    `run_state` holds what a training run keeps in its checkpoints, None for a model that no run has saved.
    """

    def __init__(
        self, plan: ModelPlan, store: Parameters, layers: Sequence[Layer], document: Callable[[], ModelSpec]
    ) -> None:
        self.plan = plan
        self._document = document
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
        self._has_gradients = False
        self._batch: int | None = None  # of the last whole forward
        self._buffers = self._bind()

    def _bind(self) -> dict[str, npt.NDArray[Any]]:
        """Make the layers parts of this model; give the buffers, brought to the shapes and dtypes announced."""
        expected = self.plan.buffer_shapes()
        buffers: dict[str, npt.NDArray[Any]] = {}
        for layer, planned in zip(self.layers, self.plan.layers, strict=True):
            _check_arrays(layer, planned, self.store)
            mine = {}
            for name in planned.buffers:
                shape, dtype = expected[f"{planned.name}.{name}"]
                own = layer.buffers[name]
                fits = (own.shape, own.dtype) == (shape, dtype)  # then it stays the very array that the layer made
                mine[name] = own if fits else np.array(np.broadcast_to(own, shape), dtype)
            gradients = {name: self.store.gradients[f"{planned.name}.{name}"] for name in planned.parameters}
            layer.bind(planned.name, self.draws, gradients, mine)
            buffers |= {f"{planned.name}.{name}": array for name, array in mine.items()}
        return buffers

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's document."""
        return self._document()

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Trained arrays by full name; live: write into them in place."""
        return MappingProxyType(self.store.values)

    @property
    def gradients(self) -> Mapping[str, Array]:
        """∂loss/∂parameter by full name, of the last `backward` or of the loaded file; empty where there is none."""
        return MappingProxyType(self.store.gradients if self._has_gradients else {})

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays that are state but not trained (a running mean), by full name; live."""
        return MappingProxyType(self._buffers)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Compute (batch, *output_shape) from x, (batch, *input_shape), and cache what `backward` needs.

        x is kept by reference until then. Each call with `training` counts `draws.step` on, so that dropout draws
        anew. Raises ShapeError.
        """
        x = self._input(x)
        self._batch = None
        y = self._chain.forward(x, training)
        self._batch = len(y)
        if training:
            self.draws.step += 1
        return y

    def backward(self, dy: npt.ArrayLike, input_gradient: bool = True) -> Array | None:
        """From ∂loss/∂outputs fill `gradients` and give ∂loss/∂x; None, and less work, without `input_gradient`.

        None also where the inputs are integers, which have no gradient. Raises SpecnetError before a forward,
        ShapeError where dy has not the shape of the last outputs.
        """
        dy = self._output_gradient(dy)
        self._has_gradients = False
        dx = None
        if input_gradient:
            dx = self._chain.backward(dy)
        else:
            self._chain.parameter_backward(dy)
        self._has_gradients = True
        return dx

    def train_forward(self, x: npt.NDArray[Any]) -> Array:
        """Do what `forward(x, training=True)` does for rows that are known to fit, as a loop's are: no checks."""
        self._batch = None
        y = self._chain.forward(x, training=True)
        self._batch = len(y)
        return y

    def train_backward(self, dy: Array) -> None:
        """Do what `backward(dy, input_gradient=False)` does for the gradient of a loss of `train_forward`'s outputs."""
        self._has_gradients = False
        self._chain.parameter_backward(dy)
        self._has_gradients = True

    def predict(self, x: npt.ArrayLike, batch_size: int | None = None) -> Array:
        """Compute what `forward` does outside training; caches nothing, and several threads may call it.

        With `batch_size`, so many rows at a time: less memory, and the last bits of an output may differ, as BLAS
        sums in an order that depends on the number of rows. Raises ShapeError.
        """
        x = self._input(x)
        if batch_size is None:
            return self._chain.predict(x)
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            msg = f"predict: expected batch_size to be a positive integer or None, got {batch_size!r}"
            raise SpecnetError(msg)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            y[start : start + batch_size] = self._chain.predict(x[start : start + batch_size])
        return y

    def _input(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        if type(x) is np.ndarray and x.dtype is self.input_dtype and x.ndim and x.shape[1:] == self.input_shape:
            return x
        who, expected = self.layers[0].name, batch_of(self.input_shape)
        array: npt.NDArray[Any]
        if self.input_dtype.kind == "i":
            array = as_integers(x, who, expected)
        else:
            array = as_floats(x, self.dtype, who, expected)
        if array.ndim == 0 or array.shape[1:] != self.input_shape:
            hint = "; a single input needs a batch axis: x[np.newaxis]" if array.shape == self.input_shape else ""
            msg = f"{who}: expected an array of shape {expected}, got {array.shape}{hint}"
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
            msg = f"{last}: expected a gradient of shape {expected}, as the outputs, got {array.shape}"
            raise ShapeError(msg)
        return array

    @property
    def has_gradients(self) -> bool:
        """Whether a backward has run, or the loaded file held gradients."""
        return self._has_gradients

    def forget_forward(self) -> None:
        """Let no backward follow before another forward: something else has run through the layers since the last."""
        self._batch = None

    def adopt_gradients(self) -> None:
        """Declare that the arrays behind `gradients` hold the gradients of a backward (of a loaded file, say)."""
        self._has_gradients = True

    def __call__(self, x: npt.ArrayLike, training: bool = False) -> Array:
        return self.forward(x, training)

    def __getitem__(self, name: str) -> Layer:
        """Give a layer by name; one inside a composite by its full name, "block.hidden"."""
        outer, *inner = name.split(".")
        try:
            layer: Any = next(layer for layer in self.layers if layer.name == outer)
            for part in inner:
                layer = layer[part]
        except (StopIteration, KeyError, TypeError):
            there = [full for top in self.plan.layers for full in top.names()]
            msg = f"no layer {name!r}; there are {', '.join(there)}"
            raise KeyError(msg) from None
        found: Layer = layer
        return found

    def __repr__(self) -> str:
        return f"<Model {self.plan.about(self.parameter_count)}>"

    def _repr_html_(self) -> str:
        """Show a table of the layers in a notebook."""
        return self.spec._repr_html_()

    def __getattr__(self, name: str) -> NoReturn:
        hint = f"; use {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        msg = f"Model has no attribute {name!r}{hint}"
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        gradients = dict(self.gradients) if self._has_gradients else None
        return _restored, (
            self.spec,
            dict(self.parameters),
            dict(self.buffers),
            gradients,
            (self.draws.seed, self.draws.step, self.draws.first_row),
            self.run_state,
        )


def build(spec: ModelSpec, seed: int | None = None) -> Model:
    """Make the network of a document and draw its initial weights; `seed` replaces the document's.

    Raises SpecnetError for anything but a ModelSpec, SpecError for a seed out of range.
    """
    # Imported here: a checkpoint is loaded without it, and Pydantic takes longer to import than numpy.
    from specnet.spec.model_spec import ModelSpec  # noqa: PLC0415 - what this module is there to avoid

    if not isinstance(spec, ModelSpec):
        msg = f"build: expected a ModelSpec, got {type(spec).__name__}; make one with load_spec(path) or ModelSpec(...)"
        raise SpecnetError(msg)
    if seed is not None:
        spec = spec.with_seed(seed)
    plan = spec.plan()
    model = assemble(plan, lambda: spec)
    for name, parameter in spec.parameter_specs(plan).items():
        value = model.parameters[name]
        value[...] = parameter.draw(spec.seed, name, value.shape)
    return model


def assemble(plan: ModelPlan, document: Callable[[], ModelSpec], values: Mapping[str, Array] | None = None) -> Model:
    """Make a network without drawing weights: they are `values`, kept by reference, or zeros to be written over.

    `document` returns the document of `plan`; it is called when somebody asks for `Model.spec`.
    """
    store = Parameters(plan.parameter_shapes(), plan.dtype, values)
    layers = [p.make({name: store.values[f"{p.name}.{name}"] for name in p.parameters}) for p in plan.layers]
    return Model(plan, store, layers, document)


def _check_arrays(layer: Layer, planned: LayerPlan, store: Parameters) -> None:
    """Hold that a layer's constructor made what its document announced. Raises SpecnetError, for the layer's author."""
    who = f"{planned.name} ({type(layer).__name__})"
    for kind, made, announced in (
        ("parameters", layer.parameters, planned.parameters),
        ("buffers", layer.buffers, planned.buffers),
    ):
        if made.keys() != announced.keys():
            msg = f"{who}: its document announces the {kind} {[*announced]}, its constructor sets self.{kind} {[*made]}"
            raise SpecnetError(msg)
    for name, array in layer.parameters.items():
        if array is not store.values[f"{planned.name}.{name}"]:
            msg = f"{who}: its constructor has to keep the array that it is given for {name}, not a copy"
            raise SpecnetError(msg)


def _restored(
    spec: ModelSpec,
    values: Mapping[str, Array],
    buffers: Mapping[str, npt.NDArray[Any]],
    gradients: Mapping[str, Array] | None,
    draws: tuple[int, int, int],
    run_state: dict[str, Any] | None,
) -> Model:
    """Rebuild a copied or unpickled model: arrays of its own, in vectors of its own."""
    model = assemble(spec.plan(), lambda: spec)
    for name, value in values.items():
        model.parameters[name][...] = value
    for name, buffer in buffers.items():
        model.buffers[name][...] = buffer
    if gradients is not None:
        for name, gradient in gradients.items():
            model.store.gradients[name][...] = gradient
        model.adopt_gradients()
    model.draws.seed, model.draws.step, model.draws.first_row = draws
    model.run_state = run_state
    return model
