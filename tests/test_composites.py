"""Test composite layers: names, error paths, arrays, files; and the layers embedding and standardize."""

import copy
import json
import pickle

import h5py
import numpy as np
import pytest

import specnet
from specnet import ModelSpec, SpecError
from specnet.layers import Affine, Concat, Dropout, Embedding, Relu, Residual, Sequential, Standardize, Tanh
from tests.support import arrays_of, assert_gradients_match_without_input_gradient, model_of, same_arrays

BLOCK = {
    "type": "residual",
    "name": "block",
    "layers": [{"type": "affine", "name": "hidden", "units": 5}, {"type": "relu"}, {"type": "affine", "units": 5}],
    "shortcut": [{"type": "affine", "units": 5, "bias": False}],
}

EMBEDDING = {"type": "embedding", "vocabulary": 3, "dimension": 2}


def problems(*layers, **settings):
    """Return the problems of a document with these layers, as (path, message)."""
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_text(json.dumps({"input_shape": [5], "layers": layers, **settings}, indent=1))
    return [(p.path, p.message) for p in caught.value.problems]


# ---------------------------------------------------------------- names


def test_arrays_of_inner_layers_have_dotted_names(tmp_path):
    model = model_of(BLOCK, {"type": "sequential", "layers": [{"type": "batch_norm"}, BLOCK]})
    assert list(model.parameters) == [
        "block.hidden.weight",
        "block.hidden.bias",
        "block.affine_2.weight",
        "block.affine_2.bias",
        "block.affine_3.weight",
        "sequential_1.batch_norm_1.scale",
        "sequential_1.batch_norm_1.shift",
        "sequential_1.block.hidden.weight",
        "sequential_1.block.hidden.bias",
        "sequential_1.block.affine_2.weight",
        "sequential_1.block.affine_2.bias",
        "sequential_1.block.affine_3.weight",
    ]
    assert next(iter(model.buffers)) == "sequential_1.batch_norm_1.running_mean"
    assert [layer.name for layer in model.layers] == ["block", "sequential_1"]
    hidden = model["sequential_1.block.hidden"]
    assert hidden is model["sequential_1"]["block"]["hidden"]
    assert hidden.name == "sequential_1.block.hidden"
    assert hidden.weight is model.parameters["sequential_1.block.hidden.weight"]
    model.backward(model.forward(np.ones((2, 5)), training=True))
    assert hidden.weight_grad is model.gradients["sequential_1.block.hidden.weight"]
    assert list(model["block"].gradients) == [n.removeprefix("block.") for n in list(model.parameters)[:5]]
    with pytest.raises(KeyError, match=r"block\.nonsense"):
        model["block.nonsense"]
    with pytest.raises(KeyError):
        model["block.hidden.weight"]
    specnet.save(tmp_path / "m.h5", model)
    with h5py.File(tmp_path / "m.h5") as file:
        dataset = file["/layers/sequential_1/layers/block/layers/hidden/parameters/weight"]
        assert np.array_equal(dataset, hidden.weight)
        assert file["/layers/sequential_1/layers/batch_norm_1/buffers/count"][()] == 1
    loaded = specnet.load(tmp_path / "m.h5")
    assert same_arrays(arrays_of(loaded), arrays_of(model))
    assert loaded.spec == model.spec


def test_initial_weights_depend_only_on_the_full_name_of_the_layer():
    only_layer = model_of(BLOCK)
    second_layer = model_of({"type": "affine", "units": 5}, BLOCK)
    renamed = model_of({**BLOCK, "name": "other"})
    assert np.array_equal(only_layer.parameters["block.hidden.weight"], second_layer.parameters["block.hidden.weight"])
    assert not np.array_equal(only_layer.parameters["block.hidden.weight"], renamed.parameters["other.hidden.weight"])


def test_names_are_unique_over_all_lists_of_a_composite():
    spec = ModelSpec(
        input_shape=[5],
        layers=[
            {"type": "concat", "branches": [[{"type": "relu"}, {"type": "relu", "name": "x"}], [], [{"type": "relu"}]]},
            BLOCK,
            {"type": "residual", "layers": [{"type": "tanh"}]},
        ],
    )
    assert [name for name, _, _ in spec.walk()] == [
        "concat_1",
        "concat_1.relu_1",
        "concat_1.x",
        "concat_1.relu_3",
        "block",
        "block.hidden",
        "block.relu_1",
        "block.affine_2",
        "block.affine_3",
        "residual_2",
        "residual_2.tanh_1",
    ]
    duplicate = {
        "type": "residual",
        "layers": [{"type": "relu", "name": "a"}],
        "shortcut": [{"type": "tanh", "name": "a"}],
    }
    assert problems({"type": "relu", "name": "a"}, duplicate) == [
        (
            "layers[1].shortcut[0].name",
            'the name "a" is taken by its sibling layers[0] of this residual; names must be unique among siblings',
        )
    ]
    ((path, message),) = problems(
        {"type": "concat", "branches": [[{"type": "relu", "name": "tanh_1"}], [{"type": "tanh"}]]}
    )
    assert path == "layers[0].branches[1][0]"
    assert 'automatic name "tanh_1" is taken by its sibling branches[0][0] of this concat' in message


def test_the_default_initializer_depends_on_the_layers_of_the_same_list():
    inside = {"type": "sequential", "layers": [{"type": "affine", "units": 3}]}
    spec = ModelSpec(input_shape=[5], layers=[{"type": "affine", "units": 5}, inside, {"type": "relu"}])
    assert [s.weight_init for _, s, _ in spec.walk() if s.type == "affine"] == ["glorot_uniform", "glorot_uniform"]
    inside = {"type": "sequential", "layers": [{"type": "affine", "units": 3}, {"type": "dropout"}, {"type": "relu"}]}
    spec = ModelSpec(input_shape=[5], layers=[inside])
    assert spec.layers[0].layers[0].weight_init == "he_normal"


def test_composites_built_from_objects_equal_those_from_json():
    from specnet.layers import AffineSpec, ConcatSpec, ReluSpec, ResidualSpec, SequentialSpec

    from_objects = ModelSpec(
        input_shape=(5,),
        layers=(
            SequentialSpec(layers=(AffineSpec(units=5), ReluSpec())),
            ResidualSpec(layers=[{"type": "relu"}]),
            ConcatSpec(branches=[[], [AffineSpec(units=2)]]),
        ),
    )
    from_json = ModelSpec(
        input_shape=[5],
        layers=[
            {"type": "sequential", "layers": [{"type": "affine", "units": 5}, {"type": "relu"}]},
            {"type": "residual", "layers": [{"type": "relu"}]},
            {"type": "concat", "branches": [[], [{"type": "affine", "units": 2}]]},
        ],
    )
    assert from_objects == from_json
    assert from_objects.layers[0].layers[0].weight_init == "he_normal"
    assert pickle.loads(pickle.dumps(from_objects)) == from_objects


# ---------------------------------------------------------------- errors


def test_all_errors_of_inner_layers_are_reported_with_their_paths():
    errors = problems(
        {"type": "residual", "layers": [{"type": "affine", "units": "5"}, {"type": "relo"}], "shortcut": 3, "extra": 1},
        {"type": "concat", "branches": [[], [{"type": "affine", "unitz": 3}], 3, [4]]},
        {"type": "sequential"},
        {"type": "sequential", "layers": []},
        {"type": "concat", "branches": []},
        {"type": "concat", "branches": {}},
        {"type": "residual", "layers": [{"type": "sequential", "layers": [{"type": "dropout", "rate": 1}]}]},
    )
    assert [path for path, _ in errors] == [
        "layers[0].layers[0].units",
        "layers[0].layers[1].type",
        "layers[0].shortcut",
        "layers[0].extra",
        "layers[1].branches[1][0].units",
        "layers[1].branches[1][0].unitz",
        "layers[1].branches[2]",
        "layers[1].branches[3][0]",
        "layers[2].layers",
        "layers[3].layers",
        "layers[4].branches",
        "layers[5].branches",
        "layers[6].layers[0].layers[0].rate",
    ]
    assert 'did you mean "relu"' in errors[1][1]
    assert 'did you mean "units"' in errors[5][1]


@pytest.mark.parametrize(
    ("layers", "path", "message_pattern"),
    [
        (
            [{"type": "tanh", "name": "t"}, {"type": "residual", "layers": [{"type": "affine", "units": 3}]}],
            "layers[1]",
            r'return shape (3,), the shortcut (5,).*; its input comes from "t"',
        ),
        (
            [{"type": "concat", "branches": [[], [{"type": "reshape", "shape": [5, 1]}]]}],
            "layers[0]",
            r"branches[0] returns shape (5,), branches[1] (5, 1)",
        ),
        (
            [{"type": "sequential", "layers": [{"type": "tanh"}, {"type": "reshape", "shape": [4]}]}],
            "layers[0].layers[1]",
            r'(5,), 5 elements; (4,) has 4; its input comes from "tanh_1"',
        ),
        (
            [{"type": "sequential", "layers": [{"type": "affine", "units": 2, "bias_init": "orthogonal"}]}],
            "layers[0].layers[0].bias_init",
            "needs a matrix",
        ),
        (
            [{"type": "sequential", "layers": [{"type": "affine", "units": 2**30}]}],
            "layers[0].layers[0].units",
            "2^31 = 2147483648 elements, got 6442450944 parameters",
        ),
        (
            [{"type": "concat", "branches": [[{"type": "leaky_relu", "negative_slope": 1e39}]]}],
            "layers[0].branches[0][0].negative_slope",
            "float32 can hold",
        ),
        ([{"type": "tanh"}, EMBEDDING], "layers[1]", "be the first layer"),
        (
            [
                {"type": "tanh"},
                {"type": "sequential", "layers": [{"type": "embedding", "vocabulary": 3, "dimension": 2}]},
            ],
            "layers[1].layers[0]",
            "be the first layer",
        ),
        (
            [{"type": "residual", "layers": [EMBEDDING]}],
            "layers[0]",
            "inputs have one type",
        ),
        (
            [{"type": "tanh"}, {"type": "standardize"}],
            "layers[1]",
            "must be the model's first layer: without values it is fitted",
        ),
        ([{"type": "sequential", "layers": [{"type": "standardize"}]}], "layers[0].layers[0]", "first layer"),
        ([{"type": "standardize", "mean": 1}], "layers[0]", "std is missing"),
        (
            [{"type": "standardize", "mean": 1, "std": [1, 2]}],
            "layers[0]",
            "std has 2 numbers, the input has shape (5,)",
        ),
        ([{"type": "standardize", "mean": 1, "std": [1, 2, 3, 0, -1]}], "layers[0].std[3]", "positive number"),
        ([{"type": "standardize", "mean": "1", "std": 1}], "layers[0].mean", "1 without quotes"),
        ([{"type": "standardize", "mean": [1, 2, 3, 4, 1e39], "std": 1}], "layers[0].mean[4]", "float32 can hold"),
        ([{"type": "embedding", "vocabulary": 2**31, "dimension": 2}], "layers[0].vocabulary", "4294967296 parameters"),
    ],
)
def test_incompatible_shapes_and_values_are_reported_with_their_path(layers, path, message_pattern):
    import re

    errors = problems(*layers)
    assert errors[0][0] == path
    pattern = ".*".join(re.escape(part) for part in message_pattern.split(".*"))
    assert re.search(pattern, errors[0][1]), errors[0][1]


def nested(levels):
    """Return a document whose composites are nested to this many levels."""
    entry = {"type": "affine", "units": 5}
    for level in range(levels):
        kind = ("sequential", "residual")[level % 2]
        entry = {"type": kind, "layers": [entry]}
    return {"input_shape": [5], "layers": [entry]}


def test_composites_nest_to_64_levels(tmp_path):
    spec = ModelSpec(**nested(64))
    assert ModelSpec.from_text(spec.to_json()) == spec
    model = specnet.build(spec)
    model.backward(model.forward(np.ones((2, 5))))
    specnet.save(tmp_path / "deep.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "deep.h5")), arrays_of(model))
    assert same_arrays(arrays_of(copy.deepcopy(model)), arrays_of(model))
    assert same_arrays(arrays_of(pickle.loads(pickle.dumps(model))), arrays_of(model))
    assert "30 parameters" in repr(spec)


@pytest.mark.parametrize("levels", [65, 80, 100_000])
def test_deeper_nesting_is_rejected_with_its_path(levels):
    with pytest.raises(SpecError) as caught:
        ModelSpec(**nested(levels))
    (problem,) = caught.value.problems
    assert problem.code == "too_deep"
    assert problem.path == "layers[0]" + ".layers[0]" * 64
    if levels < 100:
        with pytest.raises(SpecError) as caught:
            ModelSpec.from_text(json.dumps(nested(levels)))
        assert caught.value.problems[0].path == problem.path
    else:
        with pytest.raises(SpecError, match="nesting"):
            ModelSpec.from_text('{"layers": [' * levels)


def test_the_depth_of_existing_spec_objects_is_limited_too():
    from specnet.layers import ReluSpec, SequentialSpec

    layer = ReluSpec()
    for _ in range(64):
        layer = SequentialSpec(layers=(layer,))
    ModelSpec(input_shape=(3,), layers=(layer,))
    with pytest.raises(SpecError, match="64 levels"):
        SequentialSpec(layers=(layer,))


# ---------------------------------------------------------------- values and gradients


def test_a_residual_adds_and_a_concat_joins():
    rng = np.random.default_rng(0)
    w, v, x = rng.normal(size=(3, 3)), rng.normal(size=(3, 2)), rng.normal(size=(4, 3))
    residual = Residual([Affine(w), Tanh()])
    assert np.allclose(residual.forward(x), np.tanh(x @ w) + x, rtol=1e-14)
    assert np.allclose(Residual([Affine(w)], [Affine(2 * w)]).forward(x), x @ w * 3, rtol=1e-13)
    concat = Concat([[Affine(v)], [], [Affine(w), Relu()]])
    expected = np.concatenate([x @ v, x, np.maximum(x @ w, 0)], axis=1)
    assert np.allclose(concat.forward(x), expected, rtol=1e-14)
    dy = rng.normal(size=(4, 8))
    dx = dy[:, :2] @ v.T + dy[:, 2:5] + (dy[:, 5:] * (x @ w > 0)) @ w.T
    assert np.allclose(concat.backward(dy), dx, rtol=1e-12)
    assert np.allclose(concat["affine_1"].weight_grad, x.T @ dy[:, :2], rtol=1e-12)


def test_composites_work_without_a_model_and_can_be_copied():
    chain = Sequential([Affine([[1.0, 2.0]]), Relu(), Residual([Affine([[1.0, 0.0], [0.0, 1.0]])])])
    assert list(chain.layers) == ["affine_1", "relu_1", "residual_1"]
    assert list(chain.parameters) == ["affine_1.weight", "residual_1.affine_1.weight"]
    assert chain.forward([[3]]).tolist() == [[6.0, 12.0]]
    for duplicate in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        duplicate["affine_1"].weight[...] = 0
        assert duplicate.forward([[3]]).tolist() == [[0.0, 0.0]]
    assert chain.backward([[1, 1]]).tolist() == [[6.0]]
    assert chain.gradients["affine_1.weight"].tolist() == [[6.0, 6.0]]
    with pytest.raises(specnet.SpecnetError, match="same layer object is used twice"):
        Sequential([relu := Relu(), relu])
    with pytest.raises(specnet.ShapeError, match="make them equal"):
        Residual([Affine([[1.0, 2.0]])]).forward([[3]])
    with pytest.raises(specnet.ShapeError, match="cannot be joined"):
        Concat([[], [specnet.layers.Reshape((1, 1))]]).forward([[3]])


def test_backward_after_a_failed_forward_of_a_composite_is_an_error():
    residual = Residual([Affine(np.ones((3, 3)))])
    residual.forward(np.ones((2, 3)))
    with pytest.raises(specnet.ShapeError):
        residual.forward(np.ones((2, 4)))
    with pytest.raises(specnet.SpecnetError, match="backward before forward"):
        residual.backward(np.ones((2, 3)))


def test_parameter_gradients_without_the_input_gradient():
    model = model_of(BLOCK, {"type": "concat", "branches": [[], [BLOCK], [{"type": "tanh"}]]})
    x, dy = np.linspace(-1, 1, 10).reshape(2, 5), np.ones((2, 15))
    assert_gradients_match_without_input_gradient(model, x, dy)


def test_each_inner_dropout_draws_its_own_mask():
    drop = {"type": "dropout", "rate": 0.5}
    model = model_of({"type": "concat", "branches": [[drop], [drop]]}, input_shape=(64,))
    y = model.forward(np.ones((2, 64)), training=True)
    assert not np.array_equal(y[:, :64], y[:, 64:])
    model.draws.step = 0
    assert np.array_equal(model.forward(np.ones((2, 64)), training=True), y)
    single = Dropout(0.5)
    single.name, single.draws = "concat_1.dropout_2", type(model.draws)(model.draws.seed)
    assert np.array_equal(single.forward(np.ones((2, 64)), training=True), y[:, 64:])


# ---------------------------------------------------------------- embedding, standardize


def test_an_embedding_takes_integers(tmp_path):
    entry = {"type": "embedding", "vocabulary": 5, "dimension": 2}
    model = model_of(entry, {"type": "flatten"}, {"type": "affine", "units": 2}, input_shape=(3,), dtype="float32")
    assert (model.input_dtype, model.dtype) == (np.int64, np.float32)
    weight = model.parameters["embedding_1.weight"]
    assert abs(weight.std() - 1) < 0.6
    x = np.array([[0, 1, 4], [4, 4, 0]])
    expected = weight[x].reshape(2, 6) @ model.parameters["affine_1.weight"]
    for inputs in (x, x.tolist(), x.astype(np.uint8), x.astype(float)):
        assert np.allclose(model.forward(inputs), expected, rtol=1e-5)
    dy = np.arange(4.0).reshape(2, 2)
    assert model.backward(dy) is None
    gradient = np.zeros((5, 2))
    np.add.at(gradient, x, (dy @ model.parameters["affine_1.weight"].T).reshape(2, 3, 2))
    assert np.allclose(model.gradients["embedding_1.weight"], gradient, rtol=1e-5)
    specnet.save(tmp_path / "m.h5", model)
    loaded = specnet.load(tmp_path / "m.h5")
    assert loaded.input_dtype == np.int64
    assert loaded.predict(x).tobytes() == model.predict(x).tobytes()
    for invalid, message_pattern in (
        ([[0, 1, 5]], "from 0 to 4, got 5"),
        ([[0, -1, 2]], "from 0 to 4, got -1"),
        ([[0, 0.5, 2]], "integers of shape .*got 0.5"),
        ([[0, np.nan, 2]], "got nan"),
        ([["a", "b", "c"]], "integers"),
        ([[1, 2]], r"\(batch, 3\), got \(1, 2\)"),
    ):
        for call in (model.forward, model.predict):
            with pytest.raises(specnet.ShapeError, match=f"embedding_1: .*{message_pattern}"):
                call(invalid)


def test_an_embedding_without_a_model():
    layer = Embedding([[1, 2], [3, 4], [5, 6]])
    assert layer.forward([2, 0, 2]).tolist() == [[5, 6], [1, 2], [5, 6]]
    assert layer.backward([[1, 1], [2, 2], [10, 10]]) is None
    assert layer.weight_grad.tolist() == [[2, 2], [0, 0], [11, 11]]
    layer.forward(np.zeros((0, 4), int))
    layer.backward(np.zeros((0, 4, 2)))
    assert not layer.weight_grad.any()


def test_standardize_with_given_mean_and_std():
    model = model_of({"type": "tanh"}, {"type": "standardize", "mean": [1, 2, 3, 4, 5], "std": 2})
    x = np.linspace(-1, 1, 10).reshape(2, 5)
    assert np.allclose(model.forward(x), (np.tanh(x) - [1, 2, 3, 4, 5]) / 2)
    assert {name: array.shape for name, array in model.buffers.items()} == {
        "standardize_1.mean": (5,),
        "standardize_1.std": (5,),
    }
    assert Standardize(1, 2).forward([[5.0]]).tolist() == [[2.0]]
    for arguments in ((None, 1), (1, None), (1, 0), (1, [1, -1])):
        with pytest.raises(specnet.SpecnetError, match="std"):
            Standardize(*arguments)


def test_standardize_fitted_from_data(tmp_path):
    model = model_of({"type": "standardize", "name": "inputs"}, {"type": "affine", "units": 2}, input_shape=(3,))
    x = np.random.default_rng(0).normal(1e4, [1, 20, 0], (1000, 3))
    for call in (model.forward, model.predict):
        with pytest.raises(specnet.SpecnetError, match=r"inputs: not fitted yet.*model\['inputs'\]\.fit"):
            call(x)
    specnet.save(tmp_path / "unfitted.h5", model)
    with pytest.raises(specnet.SpecnetError, match="not fitted"):
        specnet.load(tmp_path / "unfitted.h5").predict(x)
    model["inputs"].fit([x[:1], x[1:700], x[:0], x[700:]])
    assert np.allclose(model.buffers["inputs.mean"], x.mean(axis=0), rtol=1e-13)
    assert np.allclose(model.buffers["inputs.std"], [*x[:, :2].std(axis=0), 1], rtol=1e-10)
    z = model["inputs"].predict(x)
    assert np.allclose(z.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(z.std(axis=0), [1, 1, 0])
    specnet.save(tmp_path / "m.h5", model)
    assert specnet.load(tmp_path / "m.h5").predict(x).tobytes() == model.predict(x).tobytes()
    with pytest.raises(specnet.SpecnetError, match="no rows"):
        model["inputs"].fit([])


def test_a_run_fits_standardize_before_its_first_step_and_resumes(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal([100, -5], [10, 0.1], (64, 2))
    np.savez(tmp_path / "d.npz", x=x, y=(x[:, :1] > 100).astype(int)[:, 0])
    experiment = {
        "model": {
            "input_shape": [2],
            "layers": [{"type": "standardize"}, {"type": "residual", "layers": [{"type": "affine", "units": 2}]}],
        },
        "data": {"train": {"path": str(tmp_path / "d.npz")}, "validation": {"fraction": 0.25}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16},
    }
    uninterrupted = specnet.train(experiment, out=tmp_path / "whole")
    fitted_mean = specnet.load(uninterrupted.checkpoint_path).buffers["standardize_1.mean"]
    assert not np.allclose(fitted_mean, x.mean(axis=0), rtol=1e-6)  # it is fitted without the validation rows
    assert np.allclose(fitted_mean, x.mean(axis=0), rtol=0.05)
    assert uninterrupted.history["val_accuracy"]
    specnet.train(experiment, out=tmp_path / "parts", overrides={"training.epochs": "1"})
    resumed = specnet.train(experiment, out=tmp_path / "parts", resume=True)
    assert same_arrays(arrays_of(resumed.model), arrays_of(uninterrupted.model))


def test_a_run_with_integer_inputs(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 6, (200, 4))
    y = (x == 3).any(axis=1).astype(int)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    experiment = {
        "model": {
            "input_shape": [4],
            "layers": [
                {"type": "embedding", "vocabulary": 6, "dimension": 3},
                {"type": "flatten"},
                {"type": "affine", "units": 2},
            ],
        },
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {
            "loss": "softmax_cross_entropy", "optimizer": {"type": "adam", "learning_rate": 0.05}, "epochs": 20
        },
    }  # fmt: skip
    result = specnet.train(experiment, out=tmp_path / "run")
    assert result.history["accuracy"][-1] > 0.95
    experiment["model"]["layers"][0]["vocabulary"] = 4
    with pytest.raises(
        specnet.DataError, match=r"d\.npz: inputs: row \d+, column \d: expected an integer from 0 to 3, got [45]"
    ):
        specnet.train(experiment, out=tmp_path / "other")


# ---------------------------------------------------------------- limits


def doubled(levels, entry):
    """Return a composite that holds the same object twice at each level: few objects, but 2^levels layers."""
    for _ in range(levels):
        entry = {"type": "sequential", "layers": [entry, entry]}
    return entry


@pytest.mark.full
def test_layers_are_counted_over_the_whole_document(full):
    relus = [{"type": "relu"}] * 20_000
    two = [{"type": "sequential", "layers": relus}] * 2
    for layers in ([doubled(40, {"type": "relu"})], [{"type": "concat", "branches": [[]] * 40_000}], *[two] * full):
        with pytest.raises(SpecError, match="at most 32768 layers in all"):
            ModelSpec(input_shape=(3,), layers=layers)
    spec = specnet.layers.ReluSpec()
    with pytest.raises(SpecError, match="at most 32768 layers in all"):
        for _ in range(40):
            spec = specnet.layers.SequentialSpec(layers=(spec, spec))
        ModelSpec(input_shape=(3,), layers=(spec,))


def test_a_document_with_many_errors_is_rejected_with_1000_problems():
    entry = [{"type": "affine", "units": "3"}] * 20_000
    for _ in range(50):
        entry = [{"type": "sequential", "layers": entry}]
    with pytest.raises(SpecError) as caught:
        ModelSpec(input_shape=(3,), layers=entry)
    assert len(caught.value.problems) == 1000


def test_full_names_are_limited_to_1024_characters(tmp_path):
    entry = {"type": "affine", "name": "x", "units": 3}
    for _ in range(4):
        entry = {"type": "sequential", "name": "n" * 254, "layers": [entry]}
    model = specnet.build(ModelSpec(input_shape=(3,), layers=[entry]))
    model.run_state = {f"optimizer/first_moment/{name}": array for name, array in model.parameters.items()}
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))
    entry = {"type": "sequential", "name": "n" * 254, "layers": [entry]}
    with pytest.raises(SpecError, match="full name of at most 1024 characters"):
        ModelSpec(input_shape=(3,), layers=[entry])


def test_an_empty_branch_in_the_last_layer_is_allowed(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((8, 4)), y=np.zeros(8, int))
    experiment = {
        "model": {
            "input_shape": [4],
            "layers": [{"type": "affine", "units": 2}, {"type": "concat", "branches": [[]]}],
        },
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    assert specnet.train(experiment, out=tmp_path / "run").finished


def test_unregistered_spec_classes_are_rejected():
    class Wide(specnet.layers.AffineSpec):
        extra: int = 3

    with pytest.raises(SpecError, match="expected a layer"):
        ModelSpec(input_shape=(3,), layers=[Wide(units=3)])


def test_misplaced_layers_are_reported_even_if_shapes_are_unknown():
    errors = problems({"type": "affine", "units": "3"}, EMBEDDING, {"type": "standardize"})
    assert [path for path, _ in errors] == ["layers[0].units", "layers[1]", "layers[2]"]


def test_a_deep_document_near_the_recursion_limit_raises_spec_error():
    import sys

    def call_at_depth(levels):
        return call_at_depth(levels - 1) if levels else ModelSpec.from_text(json.dumps(nested(64)))

    with pytest.raises(SpecError, match="nested too deeply"):
        call_at_depth(sys.getrecursionlimit() - 200)
    with pytest.raises(SpecError):
        specnet.train({"model": {"input_shape": [3], "layers": nested(5000)["layers"]}})


# ---------------------------------------------------------------- layers without a model


def test_a_constant_feature_becomes_zero():
    layer = Standardize()
    layer.fit([np.full((4096, 3), 0.1), np.full((17, 3), 0.1)])
    assert layer.predict(np.full((1, 3), 0.1)).tolist() == [[0.0] * 3]
    assert layer.buffers["std"].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "rows", [[["a"]], [[1, np.nan]], [[1.0], [np.inf]], [[1e200], [-1e200]], [1, [2]], 3, np.ones((2, 2), complex)]
)
def test_a_failed_fit_leaves_the_layer_unfitted(rows):
    layer = Standardize()
    with pytest.raises(specnet.SpecnetError), np.errstate(all="ignore"):
        layer.fit([rows])
    assert not layer.fitted
    model = model_of({"type": "standardize"}, input_shape=(3,))
    for width in (2, 4):
        with pytest.raises(specnet.ShapeError, match="expected rows of 3 features"):
            model["standardize_1"].fit([np.ones((2, width))])
    for arguments in ((np.nan, 1), (0, np.inf), ("a", 1), ([1, 2], [1, 2, 3])):
        with pytest.raises(specnet.SpecnetError):
            Standardize(*arguments)


def test_composites_without_a_model_reject_invalid_layers_and_names():
    affine = Affine(np.ones((2, 2)))
    for construct in (
        lambda: Sequential([affine, Affine(np.ones((2, 2)))], names=["x", "x"]),
        lambda: Sequential([affine], names=["x.y"]),
        lambda: Sequential([affine], names=[]),
        lambda: Sequential([affine, Sequential([affine])]),
        lambda: Sequential([1]),
        lambda: Sequential([]),
    ):
        with pytest.raises(specnet.SpecnetError):
            construct()
    identity = Concat([[], []])
    assert identity.forward(np.ones((1, 2), int)).dtype == np.float64
    assert identity.backward(np.full((1, 4), 0.5)).tolist() == [[1.0, 1.0]]
    dropouts = Sequential([Dropout(0.5), Dropout(0.5)])
    kept_share = np.mean(dropouts.forward(np.ones((100, 100)), training=True) != 0)
    assert abs(kept_share - 0.25) < 0.02
    chain = Sequential([Standardize()])
    chain["standardize_1"].fit([[1.0], [3.0]])
    assert chain.buffers["standardize_1.mean"].tolist() == [2.0]


def test_all_errors_in_a_composite_are_reported_together():
    overflowing = {"type": "elu", "alpha": 1e300}
    errors = problems(
        {
            "type": "residual",
            "extra": 1,
            "layers": [
                {"type": "sequential", "layers": [overflowing, {"type": "reshape", "shape": [7]}, {"type": "relo"}]}
            ],
            "shortcut": [overflowing],
        },
        {"type": "tanh", "foo": 1},
    )
    assert [path for path, _ in errors] == [
        "layers[0].extra",
        "layers[0].layers[0].layers[0].alpha",
        "layers[0].layers[0].layers[1]",
        "layers[0].layers[0].layers[2].type",
        "layers[0].shortcut[0].alpha",
        "layers[1].foo",
    ]
    errors = problems({"type": "concat", "more": 1, "branches": [[], [overflowing]]}, {"type": "reshape", "shape": [4]})
    assert [path for path, _ in errors] == ["layers[0].more", "layers[0].branches[1][0].alpha", "layers[1]"]
    assert "(10,), 10 elements; (4,) has 4" in errors[-1][1]  # shapes are inferred through layers with other errors
    with pytest.raises(SpecError):
        specnet.layers.SequentialSpec(layers=[{"type": "relo"}])
    assert [path for path, _ in problems({"type": "relo"}, {"type": "reshape", "shape": [4]})] == ["layers[0].type"]
    errors = problems({"type": "concat", "branches": [3, [overflowing]]}, {"type": "reshape", "shape": [4]})
    assert [path for path, _ in errors] == ["layers[0].branches[0]"]  # the content of the concat is not checked further


def test_an_invalid_part_of_a_composite_hides_no_error_in_its_other_parts():
    branches = [[{"type": "relu", "name": "a"}], 7, [{"type": "tanh", "name": "a"}]]
    layers = [
        {"type": "affine", "units": 3},
        {"type": "sequential", "extra": 1, "layers": [{"type": "embedding", "vocabulary": 3, "dimension": 2}]},
        {"type": "concat", "branches": branches},
    ]
    with pytest.raises(SpecError) as caught:
        ModelSpec(input_shape=(3,), layers=layers)
    assert [(problem.path, problem.code) for problem in caught.value.problems] == [
        ("layers[1].extra", "unknown_key"),
        ("layers[1].layers[0]", "misplaced"),
        ("layers[2].branches[1]", "wrong_type"),
        ("layers[2].branches[2][0].name", "duplicate_name"),
    ]
