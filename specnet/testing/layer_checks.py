"""What a layer has to hold, checked: for the tests of this project and for those of a layer of your own.

check_layer({"type": "swish", "beta": 2.0}, input_shape=(5,))
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.checkpoint import load, save
from specnet.errors import ShapeError, SpecnetError
from specnet.layerspec import LayerSpec
from specnet.model import Model, build
from specnet.spec.model_spec import ModelSpec
from specnet.testing.gradients import build_sample, check_gradients, relative_error, sample_inputs


def check_layer(spec: LayerSpec | Mapping[str, Any], input_shape: Sequence[int], *, tolerance: float = 1e-6) -> None:
    """Check a registered layer, given as a document, on inputs of this shape (without the batch axis).

    Numerical gradients of inputs and parameters, shapes and dtypes (float32 and float64, an empty batch), ownership of
    arrays, determinism, `predict` against `forward`, the order of calls, its place in a longer network, and the round
    trips through JSON and HDF5. Raises AssertionError, which says what does not hold, and SpecError for a document that
    is not valid.
    """
    for dtype in ("float64", "float32"):
        case = _Case(ModelSpec.model_validate({"input_shape": list(input_shape), "dtype": dtype, "layers": [spec]}))
        for check in _CHECKS:
            check(case)
        if dtype == "float64":
            case.check_gradients(tolerance)


class _Case:
    """One layer in a network of its own, and what each check needs."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.who = f"check_layer({spec.layers[0].type}, {spec.input_shape}, {spec.dtype})"

    def model(self) -> Model:
        return build_sample(self.spec)

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            text = f"{self.who}: {message}"
            raise AssertionError(text)

    def same(self, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None, message: str) -> None:
        """Require the same bits."""
        alike = a is b or (
            a is not None and b is not None and (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()
        )
        self.require(alike, message)

    def refused(self, call: Callable[[], object], error: type[SpecnetError], message: str) -> None:
        try:
            call()
        except error:
            return
        except Exception as other:
            text = f"{self.who}: {message}; it raises {type(other).__name__}: {other}"
            raise AssertionError(text) from other
        text = f"{self.who}: {message}"
        raise AssertionError(text)

    def check_gradients(self, tolerance: float) -> None:
        for training in (False, True):
            model = self.model()
            x = sample_inputs(model, 4, seed=1)
            dy = np.random.default_rng(2).normal(size=(4, *model.output_shape))
            for found in check_gradients(model, x, dy, training=training, at_most=200, tolerance=tolerance):
                self.require(
                    found.error <= tolerance,
                    f"the gradient of {found.name} differs from the numerical one by {found.error:.2g} of its size, "
                    f"more than {tolerance:g}{' (training)' if training else ''}",
                )


def _check_shapes(case: _Case) -> None:
    model = case.model()
    dtype, expected = model.dtype, model.output_shape
    for batch in (0, 1, 3):
        x = sample_inputs(model, batch)
        for what, y in (("forward", model.forward(x, training=True)), ("predict", model.predict(x))):
            case.require(y.shape == (batch, *expected), f"{what} gives shape {y.shape}, not {(batch, *expected)}")
            case.require(y.dtype == dtype, f"{what} gives {y.dtype}")
        dx = model.backward(model.forward(x))
        if dx is None:
            case.require(model.input_dtype.kind == "i", "backward gives None, which is for integer inputs alone")
        else:
            case.require(dx.shape == x.shape, f"backward gives shape {dx.shape} for inputs of shape {x.shape}")
            case.require(dx.dtype == dtype, f"backward gives {dx.dtype}")


def _check_determinism(case: _Case) -> None:
    first, second = case.model(), case.model()
    x = sample_inputs(first, 5)
    y = first.forward(x, training=True)
    case.same(y, second.forward(x, training=True), "two networks of one seed differ in their outputs")
    dx = first.backward(y)
    case.same(dx, second.backward(y), "two networks of one seed differ in their gradients")
    case.same(dx, first.backward(y), "a second backward gives something else than the first")
    for name, gradient in first.gradients.items():
        case.same(gradient, second.gradients[name], f"the gradient of {name} is another after a second backward")


def _check_prediction(case: _Case) -> None:
    model = case.model()
    x = sample_inputs(model, 6)
    y = model.forward(x)
    dx = model.backward(y)
    arrays = {**model.parameters, **model.buffers}
    before = {name: array.copy() for name, array in arrays.items()}
    attributes = dict(vars(model.layers[0]))
    model.layers[0].predict(x.copy())
    written = [name for name, value in vars(model.layers[0]).items() if attributes.get(name) is not value]
    case.require(not written, f"predict writes on the layer, which is no longer safe from threads: {written}")
    case.same(model.predict(x), y, "predict differs from forward outside training")
    model.forward(x)
    model.predict(sample_inputs(model, 6, seed=9))
    for name, array in arrays.items():
        case.same(array, before[name], f"predict changes {name}")
    case.same(model.backward(y), dx, "predict disturbs the backward of the forward before it")
    alone = np.concatenate([model.predict(x[row : row + 1]) for row in range(len(x))])
    close = np.allclose(alone, y, rtol=1e-4 if model.dtype == np.float32 else 1e-10, atol=1e-6)
    case.require(bool(close), "a row's prediction depends on the other rows of the batch")


def _check_ownership(case: _Case) -> None:
    for training in (False, True):
        _check_arrays(case, case.model(), training)


def _check_arrays(case: _Case, model: Model, training: bool) -> None:
    layer = model.layers[0]
    x, other = sample_inputs(model, 4), sample_inputs(model, 4, seed=5)
    dy = np.random.default_rng(3).normal(size=(4, *model.output_shape)).astype(model.dtype)
    given = x.copy(), dy.copy()
    y = layer.forward(x, training=training)
    dx = layer.backward(dy)
    case.require(not np.shares_memory(x, y), "forward gives a view of its input")
    case.require(dx is None or not np.shares_memory(dx, dy), "backward gives a view of what it was given")
    first = y.copy(), None if dx is None else dx.copy()
    for result in (y, dx):
        if result is not None:
            result.fill(np.nan)
    again = layer.backward(dy)
    case.same(again, first[1], "writing into a result changes a later one: it is an array the layer needs")
    y, predicted = layer.forward(x), layer.predict(x)
    case.require(not np.shares_memory(x, predicted), "predict gives a view of its input")
    case.same(x, given[0], "the layer writes into its input")
    case.same(dy, given[1], "backward writes into the gradient it was given")
    case.require(training or y.tobytes() == first[0].tobytes(), "a second forward gives something else than the first")
    kept = y.copy(), predicted.copy()
    layer.forward(other, training=training)
    layer.backward(-dy)
    layer.predict(other)
    case.same(y, kept[0], "a later call changes an earlier result of forward")
    case.same(predicted, kept[1], "a later call changes an earlier result of predict")
    case.same(again, first[1], "a later call changes an earlier result of backward")


def _check_calls(case: _Case) -> None:
    layer = (model := case.model()).layers[0]
    x = sample_inputs(model, 2)
    dy = np.ones((2, *model.output_shape), model.dtype)
    case.refused(lambda: layer.backward(dy), SpecnetError, "backward before forward is not refused")
    layer.forward(x)
    wrong = np.ones((3, *model.output_shape, 7), model.dtype)
    case.refused(lambda: layer.backward(wrong), ShapeError, "a gradient of another shape is not a ShapeError")
    case.refused(lambda: layer.forward([["a", "b"]]), ShapeError, "text is not a ShapeError")
    for method, given in ((layer.forward, x), (layer.predict, x), (layer.backward, dy)):
        if "out" not in inspect.signature(method).parameters:
            continue
        plain = method(given)
        if plain is not None:
            out = np.full_like(plain, np.nan)
            result = method(given, out=out)  # type: ignore[call-arg]  # it has one
            case.same(np.array(result), plain, f"{method.__name__} gives something else with `out`")


def _check_company(case: _Case) -> None:
    """Between two other layers, whose arrays are used again, the numbers are those of the layer alone."""
    alone = case.model()
    layers = [{"type": "leaky_relu", "name": "before_it"}, *case.spec.layers, {"type": "tanh", "name": "after_it"}]
    if alone.input_dtype.kind == "i" or case.spec.layers[0].must_be_first:
        layers = layers[1:]
    document = {"input_shape": list(case.spec.input_shape), "dtype": case.spec.dtype, "layers": layers}
    model = build_sample(ModelSpec.model_validate(document))
    for name, value in alone.parameters.items():
        model.parameters[name][...] = value
    for name, value in alone.buffers.items():
        model.buffers[name][...] = value
    for seed in (1, 2, 3):
        x = sample_inputs(model, 4, seed)
        inside = model.layers[0].predict(x) if layers[0] is not case.spec.layers[0] else x
        y = alone.predict(inside)
        case.same(model.predict(x), np.tanh(y), "in a longer network the layer predicts something else")
        found = model.forward(x)
        case.same(found, np.tanh(y), "in a longer network forward gives something else")
        alone.forward(inside)
        model.backward(np.ones_like(found))
        alone.backward(1 - np.square(np.tanh(y)))
        for name, gradient in alone.gradients.items():
            close = relative_error(model.gradients[name], gradient) < (1e-4 if model.dtype == np.float32 else 1e-9)
            case.require(close, f"in a longer network the gradient of {name} is another")


def _check_round_trips(case: _Case) -> None:
    spec, model = case.spec, case.model()
    again = ModelSpec.from_text(spec.to_json())
    case.require(again == spec, "its document, written and read again, is another one")
    fresh, other = build(spec), build(again)
    for name, value in fresh.parameters.items():
        case.same(value, other.parameters[name], f"{name} begins with other values when the document is read again")
    model.backward(model.forward(sample_inputs(model, 4), training=True))
    layer = model.layers[0]
    for name, array in layer.buffers.items():
        kept = model.buffers[f"{layer.name}.{name}"]
        case.require(
            array is kept, f"the layer rebinds its buffer {name}; write into it in place: self.buffers[...][...]"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.h5"
        save(path, model)
        loaded = load(path)
    for kind in ("parameters", "gradients", "buffers"):
        ours, theirs = getattr(model, kind), getattr(loaded, kind)
        case.require(list(ours) == list(theirs), f"a checkpoint holds other {kind}: {list(theirs)}")
        for name, array in ours.items():
            case.same(array, theirs[name], f"{kind[:-1]} {name} is another after saving and loading")
    x = sample_inputs(model, 4, seed=6)
    case.same(model.predict(x), loaded.predict(x), "a loaded network predicts something else")


_CHECKS = (
    _check_shapes,
    _check_ownership,
    _check_determinism,
    _check_prediction,
    _check_calls,
    _check_company,
    _check_round_trips,
)
