"""From a document to a network: `build` folds the shapes, allocates two vectors and draws the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from specnet.errors import ShapeError, SpecnetError
from specnet.layer import Layer, as_floats, batch_of
from specnet.parameters import Array, Parameters, ShapeTuple
from specnet.plan import ModelPlan
from specnet.randomness import Draws

if TYPE_CHECKING:
    from specnet.spec import ModelSpec

KEPT_ROWS = 1024
"""Up to so many rows, the intermediate arrays of `predict` are kept for the next call of the thread."""

_ELSEWHERE = {
    "fit": "specnet.train(experiment), or the loop in examples/digits/loop.py",
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

    def __init__(self, plan: ModelPlan, store: Parameters, layers: Sequence[Layer]) -> None:
        self.plan = plan
        self.store = store
        self.layers = tuple(layers)
        self.dtype = np.dtype(plan.dtype)
        self.input_shape: ShapeTuple = plan.input_shape
        self.output_shape: ShapeTuple = plan.layers[-1].output_shape
        self.parameter_count = store.size
        self.draws = Draws(plan.seed)
        self.run_state: dict[str, Any] | None = None
        self._forwards = [_taking_out(layer.forward) for layer in layers]
        self._backwards = [_taking_out(layer.backward) for layer in layers]
        self._predicts = [_taking_out(layer.predict) for layer in layers]
        self._trained = [index for index, layer in enumerate(layers) if layer.parameters]
        self._has_gradients = False
        self._batch: int | None = None  # of the last whole forward
        self._buffers_for: int | None = None
        self._outputs: list[Array | None] = []
        self._input_gradients: list[Array | None] = []
        self._scratch = threading.local()
        for layer, planned in zip(layers, plan.layers, strict=True):
            layer.name = planned.name
            layer.draws = self.draws

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's document."""
        return self.plan.spec()

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
        return MappingProxyType(
            {f"{layer.name}.{name}": array for layer in self.layers for name, array in layer.buffers.items()}
        )

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Compute (batch, *output_shape) from x, (batch, *input_shape), and cache what `backward` needs.

        x is kept by reference until then. Each call with `training` counts `draws.step` on, so that dropout draws
        anew. Raises ShapeError.
        """
        y = self._input(x)
        if self._buffers_for != len(y):
            self._make_buffers(len(y))
        self._batch = None
        for forward, out in zip(self._forwards, self._outputs, strict=True):
            y = forward(y, training, out)
        self._batch = len(y)
        if training:
            self.draws.step += 1
        return y

    def backward(self, dy: npt.ArrayLike, input_gradient: bool = True) -> Array | None:
        """From ∂loss/∂outputs fill `gradients` and give ∂loss/∂x; None, and less work, without `input_gradient`.

        Raises SpecnetError before a forward, ShapeError where dy has not the shape of the last outputs.
        """
        dy = self._output_gradient(dy)
        self._has_gradients = False
        layers, buffers = self.layers, self._input_gradients
        first = 0 if input_gradient else self._trained[0] if self._trained else len(layers)
        for index in range(len(layers) - 1, first - (1 if input_gradient else 0), -1):
            dy = self._backwards[index](dy, buffers[index])
        if not input_gradient and self._trained:
            layers[first].parameter_backward(dy)
        self._has_gradients = True
        return dy if input_gradient else None

    def predict(self, x: npt.ArrayLike, batch_size: int | None = None) -> Array:
        """Compute what `forward` does outside training; caches nothing, and several threads may call it.

        With `batch_size`, so many rows at a time: less memory, and the last bits of an output may differ, as BLAS
        sums in an order that depends on the number of rows. Raises ShapeError.
        """
        x = self._input(x)
        if batch_size is None:
            return self._predict(x)
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            msg = f"predict: expected batch_size to be a positive integer or None, got {batch_size!r}"
            raise SpecnetError(msg)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            y[start : start + batch_size] = self._predict(x[start : start + batch_size])
        return y

    def _predict(self, x: Array) -> Array:
        kept = getattr(self._scratch, "outputs", None)
        if kept is None or kept[0] != len(x):
            kept = len(x), self._allocate_outputs(len(x))
            if len(x) <= KEPT_ROWS:
                self._scratch.outputs = kept
        for predict, out in zip(self._predicts, kept[1], strict=True):
            x = predict(x, out)
        return x

    def _make_buffers(self, batch: int) -> None:
        self._batch = None
        self._outputs = self._allocate_outputs(batch)
        inner = [np.empty((batch, *shape.input_shape), self.dtype) for shape in self.plan.layers[1:]]
        self._input_gradients = [None, *inner]
        self._buffers_for = batch

    def _allocate_outputs(self, batch: int) -> list[Array | None]:
        """Make the layers' outputs; the last one is new at every call, as it is the caller's."""
        return [*(np.empty((batch, *shape.output_shape), self.dtype) for shape in self.plan.layers[:-1]), None]

    def _input(self, x: npt.ArrayLike) -> Array:
        if type(x) is np.ndarray and x.dtype is self.dtype and x.ndim and x.shape[1:] == self.input_shape:
            return x
        array = as_floats(x, self.dtype, self.layers[0].name, batch_of(self.input_shape))
        if array.ndim == 0 or array.shape[1:] != self.input_shape:
            hint = "; a single input needs a batch axis: x[np.newaxis]" if array.shape == self.input_shape else ""
            expected = batch_of(self.input_shape)
            msg = f"{self.layers[0].name}: expected an array of shape {expected}, got {array.shape}{hint}"
            raise ShapeError(msg)
        return array

    def _output_gradient(self, dy: npt.ArrayLike) -> Array:
        last = self.layers[-1].name
        if self._batch is None:
            msg = f"{last}: backward before forward; call model.forward(x) first"
            raise SpecnetError(msg)
        expected = (self._batch, *self.output_shape)
        array = as_floats(dy, self.dtype, last, str(expected))
        if array.shape != expected:
            msg = f"{last}: expected a gradient of shape {expected}, as the outputs, got {array.shape}"
            raise ShapeError(msg)
        return array

    @property
    def has_gradients(self) -> bool:
        """Whether a backward has run, or the loaded file held gradients."""
        return self._has_gradients

    def adopt_gradients(self) -> None:
        """Declare that the arrays behind `gradients` hold the gradients of a backward (of a loaded file, say)."""
        self._has_gradients = True

    def __call__(self, x: npt.ArrayLike, training: bool = False) -> Array:
        return self.forward(x, training)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        msg = f"no layer {name!r}; there are {', '.join(layer.name for layer in self.layers)}"
        raise KeyError(msg)

    def __repr__(self) -> str:
        shapes = [str(shape) for shape in [self.input_shape, *(layer.output_shape for layer in self.plan.layers)]]
        arrow = " -> ".join(shapes if len(shapes) <= 8 else [*shapes[:4], "...", *shapes[-3:]])
        return f"<Model {self.plan.name!r}: {arrow}, {self.parameter_count:,} parameters, {self.plan.dtype}>"

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
    # Imported here: a checkpoint is loaded without them, and Pydantic takes longer to import than numpy.
    from specnet import initializers  # noqa: PLC0415
    from specnet.spec import ModelSpec  # noqa: PLC0415

    if not isinstance(spec, ModelSpec):
        msg = f"build: expected a ModelSpec, got {type(spec).__name__}; make one with load_spec(path) or ModelSpec(...)"
        raise SpecnetError(msg)
    if seed is not None:
        spec = spec.with_seed(seed)
    model = assemble(spec.plan())
    for name, parameter in spec.parameter_specs().items():
        model.parameters[name][...] = initializers.draw(parameter.initializer, spec.seed, name, parameter.shape)
    return model


def assemble(plan: ModelPlan, values: Mapping[str, Array] | None = None) -> Model:
    """Make a network without drawing weights: they are `values`, kept by reference, or zeros to be written over."""
    store = Parameters(plan.parameter_shapes(), plan.dtype, values)
    layers = []
    for planned in plan.layers:
        names = {name: f"{planned.name}.{name}" for name in planned.parameters}
        layer = planned.make({name: store.values[full] for name, full in names.items()})
        layer.bind_gradients({name: store.gradients[full] for name, full in names.items()})
        layers.append(layer)
    return Model(plan, store, layers)


def _taking_out(method: Callable[..., Array]) -> Callable[..., Array]:
    """Let a layer's method be called with `out` last, also where a custom layer does not know it."""
    if "out" in signature(method).parameters:
        return method
    return lambda *arguments: method(*arguments[:-1])


def _restored(
    spec: ModelSpec,
    values: Mapping[str, Array],
    buffers: Mapping[str, npt.NDArray[Any]],
    gradients: Mapping[str, Array] | None,
    draws: tuple[int, int, int],
    run_state: dict[str, Any] | None,
) -> Model:
    """Rebuild a copied or unpickled model: arrays of its own, in vectors of its own."""
    model = assemble(spec.plan())
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
