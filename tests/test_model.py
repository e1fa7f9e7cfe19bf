"""Test the built model: its arrays, its inputs and outputs, and its copies."""

import copy
import pickle
import re
import threading

import numpy as np
import pytest

import specnet
from specnet.layers import Affine
from specnet.spec import registry
from tests.support import arrays_of, assert_gradients_match_without_input_gradient, model_of, same_arrays

MLP = ({"type": "affine", "name": "hidden", "units": 8}, {"type": "relu"}, {"type": "affine", "units": 3})


def test_arrays_are_accessible_by_name():
    model = model_of(*MLP)
    names = ["hidden.weight", "hidden.bias", "affine_2.weight", "affine_2.bias"]
    assert list(model.parameters) == names
    assert dict(model.gradients) == {}
    assert dict(model.buffers) == {}
    model.backward(model.forward(np.ones((2, 5))))
    assert list(model.gradients) == names
    assert all(model.gradients[n].shape == model.parameters[n].shape for n in names)
    assert (model.input_shape, model.output_shape, model.parameter_count) == ((5,), (3,), 5 * 8 + 8 + 8 * 3 + 3)
    with pytest.raises(TypeError):
        model.parameters["hidden.weight"] = np.zeros((5, 8))
    with pytest.raises(TypeError):
        model.gradients["hidden.weight"] = np.zeros((5, 8))


def test_parameters_are_live_views_of_one_vector():
    model = model_of(*MLP)
    x = np.ones((2, 5))
    before = model.forward(x)
    model.parameters["affine_2.bias"][...] += 1
    assert np.allclose(model.forward(x), before + 1)
    assert model.layers[0].weight is model.parameters["hidden.weight"]
    assert all(np.shares_memory(value, model.store.value_vector) for value in model.parameters.values())
    model.backward(before)
    assert model["hidden"].weight_grad is model.gradients["hidden.weight"]
    assert all(np.shares_memory(value, model.store.gradient_vector) for value in model.gradients.values())


@pytest.mark.parametrize("names", [1, 3])
def test_backward_without_input_gradient_computes_the_same_parameter_gradients(names):
    model = model_of({"type": "relu"}, *MLP[:names])
    x, dy = np.linspace(-1, 1, 10).reshape(2, 5), np.ones((2, *model.output_shape))
    assert_gradients_match_without_input_gradient(model, x, dy)


def test_a_model_without_parameters():
    model = model_of({"type": "flatten"}, {"type": "dropout"}, input_shape=(2, 3))
    x = np.arange(12.0).reshape(2, 2, 3)
    y = model.forward(x)
    assert y.tolist() == x.reshape(2, 6).tolist()
    assert not np.shares_memory(x, y)
    assert not np.shares_memory(x, model.predict(x))
    assert model.backward(y).tolist() == x.tolist()
    assert model.backward(y, input_gradient=False) is None
    assert dict(model.gradients) == {}


@pytest.mark.parametrize("first", [{"type": "flatten"}, {"type": "dropout"}, {"type": "relu"}])
def test_outputs_and_gradients_share_no_memory_with_inputs(first):
    model = model_of(first, {"type": "affine", "units": 4}, first)
    x = np.ones((3, 5))
    y, p = model.forward(x), model.predict(x)
    dx = model.backward(y)
    for a, b in [(y, x), (p, x), (y, p), (dx, y)]:
        assert not np.shares_memory(a, b)
    copies = y.copy(), dx.copy()
    model.backward(model.forward(-x))
    assert np.array_equal(copies[0], y)
    assert np.array_equal(copies[1], dx)


@pytest.mark.parametrize(
    ("x", "message_pattern"),
    [
        (np.ones((2, 4)), r"\(batch, 5\), got \(2, 4\)"),
        (np.ones(5), r"got \(5,\).*batch axis"),
        (np.float64(3), r"got \(\)"),
        (np.ones((2, 5), complex), "complex"),
        ([["1"] * 5], "<U1"),
        ([[1, 2], [3]], "hidden"),
        (None, "object"),
    ],
)
def test_invalid_inputs_raise_shape_error(x, message_pattern):
    model = model_of(*MLP)
    for call in (model.forward, model.predict):
        with pytest.raises(specnet.ShapeError, match=message_pattern) as caught:
            call(x)
        assert "hidden" in str(caught.value)


def test_inputs_are_converted_to_the_dtype_of_the_model():
    model = model_of(*MLP, dtype="float32")
    x = np.arange(10).reshape(2, 5)
    expected = model.forward(x.astype(np.float32))
    assert expected.dtype == np.float32
    readonly = x.astype(np.float32)
    readonly.flags.writeable = False
    for inputs in (x, x.tolist(), x.astype(">f8"), x.astype(np.float16), np.asfortranarray(x), readonly):
        assert np.array_equal(model.forward(inputs), expected)
    assert np.array_equal(model.forward(x > 4), model.forward((x > 4).astype(np.float32)))


def test_backward_needs_a_forward_of_the_same_batch():
    model = model_of(*MLP)
    with pytest.raises(specnet.SpecnetError, match="backward before forward"):
        model.backward(np.ones((1, 3)))
    model.forward(np.ones((2, 5)))
    with pytest.raises(specnet.ShapeError, match=re.escape("(2, 3)") + ".*" + re.escape("(1, 3)")):
        model.backward(np.ones((1, 3)))
    with pytest.raises(specnet.ShapeError):
        model.forward(np.ones((2, 7)))
    model.backward(np.ones((2, 3)))  # the rejected call has kept the cache of the earlier forward


def test_backward_after_a_failed_forward_is_an_error():
    model = model_of(*MLP)
    model.forward(np.ones((2, 5)))
    bias, model.layers[2]._bias = model.layers[2]._bias, "no array"
    with pytest.raises(TypeError):
        model.forward(np.ones((2, 5)))
    model.layers[2]._bias = bias
    with pytest.raises(specnet.SpecnetError, match="backward before forward"):
        model.backward(np.ones((2, 3)))


def test_predict_in_batches_equals_predict_at_once():
    model = model_of(*MLP)
    x = np.random.default_rng(0).normal(size=(25, 5))
    expected = model.predict(x)
    for size in (1, 7, 25, 100):
        assert np.allclose(model.predict(x, batch_size=size), expected, rtol=1e-13)
    for size in (0, -1, 2.5, "3"):
        with pytest.raises(specnet.SpecnetError, match="batch_size"):
            model.predict(x, batch_size=size)


def test_predict_is_thread_safe():
    model = model_of(*MLP, dtype="float32")
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=(n, 5)).astype(np.float32) for n in (1, 2, 30, 200)]
    expected = [model.predict(x) for x in batches]
    mismatches = []

    def work(x, y):
        mismatches.extend(1 for _ in range(300) if not np.array_equal(model.predict(x), y))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mismatches


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), copy.copy])
def test_copies_share_no_arrays(duplicate):
    model = model_of(*MLP, {"type": "batch_norm"}, {"type": "dropout"})
    x = np.arange(10.0).reshape(2, 5)
    assert dict(duplicate(model).gradients) == {}
    model.backward(model.forward(x, training=True))
    copied = duplicate(model)
    before = arrays_of(model)
    assert same_arrays(arrays_of(copied), before)
    assert copied.spec == model.spec
    assert np.array_equal(copied.forward(x, training=True), model.forward(x, training=True))
    before = arrays_of(model)
    for array in (*copied.parameters.values(), *copied.buffers.values(), *copied.gradients.values()):
        array.fill(0)
    assert same_arrays(arrays_of(model), before)
    copied.parameters["hidden.weight"][...] = 1
    assert copied.layers[0].weight[0, 0] == 1


def test_dropout_masks_differ_per_forward_and_repeat_per_step():
    model = model_of({"type": "dropout", "rate": 0.5}, input_shape=(50,))
    x = np.ones((4, 50))
    first, second = model.forward(x, training=True), model.forward(x, training=True)
    assert not np.array_equal(first, second)
    model.draws.step = 0
    assert np.array_equal(model.forward(x, training=True), first)
    assert np.array_equal(model.forward(x), x)


def test_repr_calls_and_error_messages():
    model = model_of(*MLP)
    assert "67" not in repr(model)
    assert "(5,) -> (8,)" in repr(model)
    assert np.array_equal(model(np.ones((1, 5))), model.forward(np.ones((1, 5))))
    with pytest.raises(KeyError, match="hidden"):
        model["other"]
    with pytest.raises(AttributeError, match=r"specnet\.train"):
        model.fit  # noqa: B018
    with pytest.raises(specnet.SpecnetError, match="load_spec"):
        specnet.build({"input_shape": [3]})
    with pytest.raises(specnet.SpecError, match="seed"):
        specnet.build(model.spec, seed=-1)


def test_the_two_layer_network_of_the_tutorial(root):
    model = specnet.build(specnet.load_spec(root / "examples/blog_two_layer/two_layer.model.json"))
    y = model.forward([[1, 2]])
    assert y.tolist() == [[93, 211]]
    assert model.backward(y).tolist() == [[12385, 16108]]
    assert model.gradients["first.weight"].tolist() == [[937, 1241, 1545], [1874, 2482, 3090]]
    assert model.gradients["first.bias"].tolist() == [937, 1241, 1545]


def test_every_shape_is_inferred_once_per_build_and_per_load(tmp_path, monkeypatch):
    inferred = []
    infer = Affine.infer.__func__

    def count(cls, fields, input_shape):
        inferred.append(fields["units"])
        return infer(cls, fields, input_shape)

    monkeypatch.setattr(Affine, "infer", classmethod(count))
    block = {"type": "sequential", "layers": [{"type": "affine", "units": 4}]}
    spec = specnet.ModelSpec(input_shape=(3,), layers=[block, {"type": "affine", "units": 5}])
    assert inferred == [4, 5]
    model = specnet.build(spec)
    assert inferred == [4, 5] * 2
    specnet.save(tmp_path / "m.h5", model)
    inferred.clear()
    specnet.load(tmp_path / "m.h5")
    assert inferred == [4, 5]


def test_a_layer_can_require_to_be_the_first_one():
    class Calendar(specnet.layers.Relu):
        @classmethod
        def must_be_first(cls, fields):
            return "it reads the dates of the inputs"

    class CalendarSpec(specnet.LayerSpec):
        layer = Calendar

    specnet.register_layer("calendar")(CalendarSpec)
    try:
        specnet.ModelSpec(input_shape=(3,), layers=[{"type": "calendar"}, {"type": "relu"}])
        message = r"layers\[1\]: calendar must be .*first layer: it reads the dates of the inputs"
        with pytest.raises(specnet.SpecError, match=message):
            specnet.ModelSpec(input_shape=(3,), layers=[{"type": "relu"}, {"type": "calendar"}])
    finally:
        registry._registered.pop("calendar")
