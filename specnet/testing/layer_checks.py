"""Conformance checks of layers, for the tests of this project and of custom layers.

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
from specnet.layers.sigmoid import Tanh
from specnet.layerspec import LayerSpec
from specnet.model import Model, build
from specnet.spec.model_spec import ModelSpec
from specnet.testing.gradients import build_sample, check_gradients, relative_error, sample_inputs


def check_layer(spec: LayerSpec | Mapping[str, Any], input_shape: Sequence[int], *, tolerance: float = 1e-6) -> None:
    """Check a registered layer, given as a document, on inputs of this shape (without the batch axis).

    Checks numerical gradients of inputs and parameters, shapes and dtypes (float32, float64 and an empty batch), array
    ownership, determinism, `predict` compared with `forward`, the order of calls, the layer inside a longer network,
    and the round trips through JSON and HDF5. Raises AssertionError, which names the violated rule, and SpecError for
    an invalid document.
    """
    for dtype in ("float64", "float32"):
        case = _Case(ModelSpec.model_validate({"input_shape": list(input_shape), "dtype": dtype, "layers": [spec]}))
        for check in _CHECKS:
            check(case)
        if dtype == "float64":
            case.check_gradients(tolerance)


class _Case:
    """A network of one layer, and assertions for the checks."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.label = f"check_layer({spec.layers[0].type}, {spec.input_shape}, {spec.dtype})"

    def model(self) -> Model:
        return build_sample(self.spec)

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            text = f"{self.label}: {message}"
            raise AssertionError(text)

    def require_same_bits(self, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None, message: str) -> None:
        """Require equal shape, dtype and bytes."""
        is_same = a is b or (
            a is not None and b is not None and (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()
        )
        self.require(is_same, message)

    def require_raises(self, call: Callable[[], object], error: type[SpecnetError], message: str) -> None:
        try:
            call()
        except error:
            return
        except Exception as other:
            text = f"{self.label}: {message}; it raises {type(other).__name__}: {other}"
            raise AssertionError(text) from other
        text = f"{self.label}: {message}"
        raise AssertionError(text)

    def check_gradients(self, tolerance: float) -> None:
        for training in (False, True):
            model = self.model()
            x = sample_inputs(model, 4, seed=1)
            dy = np.random.default_rng(2).normal(size=(4, *model.output_shape))
            for result in check_gradients(model, x, dy, training=training, at_most=200, tolerance=tolerance):
                self.require(
                    result.error <= tolerance,
                    f"the gradient of {result.name} differs from the numerical gradient by a relative error of "
                    f"{result.error:.2g}, more than {tolerance:g}{' (training)' if training else ''}",
                )


def _check_shapes(case: _Case) -> None:
    model = case.model()
    dtype, expected = model.dtype, model.output_shape
    for batch in (0, 1, 3):
        x = sample_inputs(model, batch)
        for method, y in (("forward", model.forward(x, training=True)), ("predict", model.predict(x))):
            case.require(y.shape == (batch, *expected), f"{method} returns shape {y.shape}, not {(batch, *expected)}")
            case.require(y.dtype == dtype, f"{method} returns dtype {y.dtype}, not {dtype}")
        dx = model.backward(model.forward(x))
        if dx is None:
            case.require(
                model.input_dtype.kind == "i", "backward returns None, which is allowed only for integer inputs"
            )
        else:
            case.require(dx.shape == x.shape, f"backward returns shape {dx.shape}, not the inputs' shape {x.shape}")
            case.require(dx.dtype == dtype, f"backward returns dtype {dx.dtype}, not {dtype}")


def _check_determinism(case: _Case) -> None:
    first, second = case.model(), case.model()
    x = sample_inputs(first, 5)
    y = first.forward(x, training=True)
    case.require_same_bits(
        y, second.forward(x, training=True), "two networks with the same seed differ in their outputs"
    )
    dx = first.backward(y)
    case.require_same_bits(dx, second.backward(y), "two networks with the same seed differ in their gradients")
    case.require_same_bits(dx, first.backward(y), "a second backward returns other values than the first")
    for name, gradient in first.gradients.items():
        case.require_same_bits(gradient, second.gradients[name], f"the gradient of {name} changes in a second backward")


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
    case.require(not written, f"predict sets attributes of the layer, so it is not thread-safe: {written}")
    case.require_same_bits(model.predict(x), y, "predict differs from forward outside training")
    model.forward(x)
    model.predict(sample_inputs(model, 6, seed=9))
    for name, array in arrays.items():
        case.require_same_bits(array, before[name], f"predict changes {name}")
    case.require_same_bits(
        model.backward(y), dx, "predict changes the result of a backward that follows an earlier forward"
    )
    single_rows = np.concatenate([model.predict(x[row : row + 1]) for row in range(len(x))])
    close = np.allclose(single_rows, y, rtol=1e-4 if model.dtype == np.float32 else 1e-10, atol=1e-6)
    case.require(bool(close), "a row's prediction depends on the other rows of the batch")


def _check_ownership(case: _Case) -> None:
    for training in (False, True):
        _check_arrays(case, case.model(), training)


def _check_arrays(case: _Case, model: Model, training: bool) -> None:
    layer = model.layers[0]
    x, other = sample_inputs(model, 4), sample_inputs(model, 4, seed=5)
    dy = np.random.default_rng(3).normal(size=(4, *model.output_shape)).astype(model.dtype)
    x_before, dy_before = x.copy(), dy.copy()
    y = layer.forward(x, training=training)
    dx = layer.backward(dy)
    case.require(not np.shares_memory(x, y), "forward returns a view of its input")
    case.require(dx is None or not np.shares_memory(dx, dy), "backward returns a view of its argument")
    first_y, first_dx = y.copy(), None if dx is None else dx.copy()
    for result in (y, dx):
        if result is not None:
            result.fill(np.nan)
    second_dx = layer.backward(dy)
    message = "writing into a result changes a later result: the layer still uses that array"
    case.require_same_bits(second_dx, first_dx, message)
    y, predicted = layer.forward(x), layer.predict(x)
    case.require(not np.shares_memory(x, predicted), "predict returns a view of its input")
    case.require_same_bits(x, x_before, "the layer writes into its input")
    case.require_same_bits(dy, dy_before, "backward writes into its argument")
    case.require(training or y.tobytes() == first_y.tobytes(), "a second forward returns other values than the first")
    y_before, predicted_before = y.copy(), predicted.copy()
    layer.forward(other, training=training)
    layer.backward(-dy)
    layer.predict(other)
    case.require_same_bits(y, y_before, "a later call changes an earlier result of forward")
    case.require_same_bits(predicted, predicted_before, "a later call changes an earlier result of predict")
    case.require_same_bits(second_dx, first_dx, "a later call changes an earlier result of backward")


def _check_calls(case: _Case) -> None:
    layer = (model := case.model()).layers[0]
    x = sample_inputs(model, 2)
    dy = np.ones((2, *model.output_shape), model.dtype)
    case.require_raises(lambda: layer.backward(dy), SpecnetError, "backward before forward does not raise SpecnetError")
    layer.forward(x)
    wrong_dy = np.ones((3, *model.output_shape, 7), model.dtype)
    case.require_raises(
        lambda: layer.backward(wrong_dy), ShapeError, "a gradient of another shape does not raise ShapeError"
    )
    case.require_raises(lambda: layer.forward([["a", "b"]]), ShapeError, "text as input does not raise ShapeError")
    for method, argument in ((layer.forward, x), (layer.predict, x), (layer.backward, dy)):
        if "out" not in inspect.signature(method).parameters:
            continue
        expected = method(argument)
        if expected is not None:
            out = np.full_like(expected, np.nan)
            result = method(argument, out=out)  # type: ignore[call-arg]  # the signature above has `out`
            case.require_same_bits(np.array(result), expected, f"{method.__name__} returns other values with `out`")


def _check_longer_network(case: _Case) -> None:
    """Check that between two other layers, whose arrays are reused, the layer computes the same as alone."""
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
        expected = Tanh().predict(y)
        case.require_same_bits(model.predict(x), expected, "predict returns other values inside a longer network")
        forward_y = model.forward(x)
        case.require_same_bits(forward_y, expected, "forward returns other values inside a longer network")
        alone.forward(inside)
        model.backward(np.ones_like(forward_y))
        alone.backward(1 - np.square(expected))
        for name, gradient in alone.gradients.items():
            close = relative_error(model.gradients[name], gradient) < (1e-4 if model.dtype == np.float32 else 1e-9)
            case.require(close, f"the gradient of {name} differs inside a longer network")


def _check_round_trips(case: _Case) -> None:
    spec, model = case.spec, case.model()
    spec_read = ModelSpec.from_text(spec.to_json())
    case.require(spec_read == spec, "the document changes when it is written and read again")
    built, built_from_text = build(spec), build(spec_read)
    for name, value in built.parameters.items():
        message = f"{name} has other initial values after the document is written and read again"
        case.require_same_bits(value, built_from_text.parameters[name], message)
    model.backward(model.forward(sample_inputs(model, 4), training=True))
    layer = model.layers[0]
    for name, array in layer.buffers.items():
        bound = model.buffers[f"{layer.name}.{name}"]
        case.require(
            array is bound, f"the layer rebinds its buffer {name}; write into it in place: self.buffers[...][...]"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.h5"
        save(path, model)
        loaded = load(path)
    for kind in ("parameters", "gradients", "buffers"):
        saved_arrays, loaded_arrays = getattr(model, kind), getattr(loaded, kind)
        names = list(loaded_arrays)
        case.require(list(saved_arrays) == names, f"a checkpoint contains other {kind}: {names}")
        for name, array in saved_arrays.items():
            case.require_same_bits(array, loaded_arrays[name], f"{kind[:-1]} {name} changes when saved and loaded")
    x = sample_inputs(model, 4, seed=6)
    case.require_same_bits(model.predict(x), loaded.predict(x), "a loaded network predicts other values")


_CHECKS = (
    _check_shapes,
    _check_ownership,
    _check_determinism,
    _check_prediction,
    _check_calls,
    _check_longer_network,
    _check_round_trips,
)
