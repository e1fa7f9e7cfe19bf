"""The model document: what is filled in, what is refused and where, what identifies it."""

import hashlib
import json
import os
import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import ModelSpec, SpecError
from specnet.document.canonical import canonical_json
from specnet.layer import Layer
from specnet.spec.registry import layer_types
from specnet.testing import build_sample, sample_inputs

SMALL = {"input_shape": [4], "layers": [{"type": "affine", "units": 3}]}


def problems(document):
    """The problems of a document, given as text or value."""
    with pytest.raises(SpecError) as caught:
        if isinstance(document, str):
            ModelSpec.from_text(document, "m.json")
        else:
            ModelSpec(**document)
    return caught.value.problems


def only(document):
    """The one problem of a document."""
    found = problems(document)
    assert len(found) == 1, found
    return found[0]


def layers(*entries, **more):
    """A document with these layers."""
    return {"input_shape": [4], "layers": list(entries), **more}


# ---------------------------------------------------------------- the normal form


def test_names_and_defaults_are_filled_in():
    spec = ModelSpec(
        input_shape=(64,),
        layers=[
            {"type": "affine", "name": "hidden", "units": 32},
            {"type": "relu"},
            {"type": "affine", "units": 10},
        ],
    )
    assert [layer.name for layer in spec.layers] == ["hidden", "relu_1", "affine_2"]
    assert (spec.format, spec.name, spec.dtype, spec.seed) == ("specnet-model/1", "model", "float32", 0)
    assert spec.layers[0].weight_init == "he_normal"
    assert spec.layers[2].weight_init == "glorot_uniform"
    assert spec.layers[0].bias_init == "zeros"
    assert spec.layers[0].bias is True
    assert (spec.output_shape, spec.parameter_count) == ((10,), 64 * 32 + 32 + 32 * 10 + 10)


@pytest.mark.parametrize(
    ("following", "initializer"),
    [
        (["relu"], "he_normal"),
        (["leaky_relu"], "he_normal"),
        (["gelu"], "he_normal"),
        (["tanh"], "glorot_uniform"),
        (["sigmoid"], "glorot_uniform"),
        (["softmax"], "glorot_uniform"),
        ([], "glorot_uniform"),
        (["dropout", "flatten", "relu"], "he_normal"),
        (["dropout", "tanh"], "glorot_uniform"),
        (["dropout"], "glorot_uniform"),
        (["batch_norm", "dropout", "relu"], "he_normal"),
        (["layer_norm", "tanh"], "glorot_uniform"),
        (["prelu"], "he_normal"),
        (["affine", "relu"], "glorot_uniform"),
    ],
)
def test_the_default_initializer_looks_at_the_next_activation(following, initializer):
    entries = [{"type": kind, **({"units": 2} if kind == "affine" else {})} for kind in following]
    spec = ModelSpec(**layers({"type": "affine", "units": 3}, *entries))
    assert spec.layers[0].weight_init == initializer


def test_a_written_initializer_stays():
    spec = ModelSpec(**layers({"type": "affine", "units": 3, "weight_init": "glorot_uniform"}, {"type": "relu"}))
    assert spec.layers[0].weight_init == "glorot_uniform"


def test_the_normalized_document_is_the_same_model_bit_for_bit():
    short = ModelSpec(**layers({"type": "affine", "units": 3}, {"type": "relu"}, {"type": "dropout"}))
    full = ModelSpec.model_validate_json(short.model_dump_json())
    assert full == short
    assert full.identity == short.identity
    assert full.model_dump_json() == short.model_dump_json()
    assert ModelSpec(**short.model_dump()) == short
    assert pickle.loads(pickle.dumps(short)) == short
    a, b = specnet.build(short), specnet.build(full)
    assert all(np.array_equal(a.parameters[name], b.parameters[name]) for name in a.parameters)


def test_keys_are_written_in_the_order_of_the_schema():
    text = '{"labels": ["a","b"], "layers": [{"units": 2, "type": "affine"}], "$schema": "s", "input_shape": [4]}'
    spec = ModelSpec.from_text(text)
    written = json.loads(spec.model_dump_json())
    assert list(written) == ["$schema", "format", "name", "dtype", "seed", "input_shape", "layers", "labels"]
    assert list(written["layers"][0]) == ["type", "name", "units", "bias", "weight_init", "bias_init"]


def test_identity_is_the_hash_of_the_canonical_form_without_notes():
    plain = ModelSpec(**SMALL)
    noted = ModelSpec(
        **SMALL, name="x", description="y", metadata={"a": [1, {"b": None}]}, labels=["a", "b", "c"], **{"$schema": "s"}
    )
    assert plain.identity == noted.identity
    assert plain != noted
    document = json.loads(plain.model_dump_json())
    del document["name"]
    assert plain.identity == hashlib.sha256(canonical_json(document)).hexdigest()
    for other in ({"seed": 1}, {"dtype": "float64"}, {"input_shape": [5]}):
        assert ModelSpec(**{**SMALL, **other}).identity != plain.identity


def test_the_number_as_written_does_not_matter():
    a = ModelSpec.from_text('{"input_shape":[4],"layers":[{"type":"dropout","rate":0}]}')
    b = ModelSpec.from_text('{"input_shape":[4],"layers":[{"type":"dropout","rate":-0.0}]}')
    assert a == b
    assert a.identity == b.identity


def test_a_spec_is_a_value():
    spec = ModelSpec(**SMALL)
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 3
    metadata = {"a": [1]}
    noted = ModelSpec(**SMALL, metadata=metadata)
    metadata["a"].append(2)
    assert noted.metadata == {"a": [1]}


# ---------------------------------------------------------------- refusals


def test_the_message_of_the_contract():
    text = """{
  "name": "digits",
  "input_shape": [64],

  "layers": [
    {"type": "affine", "units": 32},

    {"type": "affine", "units": "32"}
  ]
}"""
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_text(text, "digits.json")
    assert str(caught.value) == (
        'digits.json:8:33: layers[1].units: expected a positive integer, got the string "32"; write 32 without quotes'
    )


def test_all_problems_come_at_once_in_document_order():
    text = """{
  "dtyp": "float32", "input_shape": [64, 0], "seed": -1,
  "layers": [
    {"type": "affine", "units": 3.5, "weight_init": "he_norml"},
    {"type": "relo"},
    "relu",
    {"type": "dropout", "rate": 1, "name": "b", "rato": 3},
    {"type": "affine", "name": "b"}
  ],
  "metadata": {"a": 1e999}
}"""
    found = problems(text)
    assert [(p.line, p.column, p.path) for p in found] == [
        (2, 3, "dtyp"),
        (2, 42, "input_shape[1]"),
        (2, 54, "seed"),
        (4, 33, "layers[0].units"),
        (4, 53, "layers[0].weight_init"),
        (5, 14, "layers[1].type"),
        (6, 5, "layers[2]"),
        (7, 33, "layers[3].rate"),
        (7, 49, "layers[3].rato"),
        (8, 5, "layers[4].units"),
        (8, 32, "layers[4].name"),
        (10, 21, "metadata.a"),
    ]
    text_of = {p.path: p.message for p in found}
    assert 'did you mean "dtype"' in text_of["dtyp"]
    assert 'did you mean "he_normal"' in text_of["layers[0].weight_init"]
    assert 'did you mean "relu"' in text_of["layers[1].type"]
    assert '{"type": "relu"}' in text_of["layers[2]"]
    assert 'did you mean "rate"' in text_of["layers[3].rato"]
    assert "[0, 1)" in text_of["layers[3].rate"]


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"input_shape": []}, "input_shape", "at least 1"),
        ({"input_shape": 64}, "input_shape", "an array, got the integer 64"),
        ({"input_shape": [True]}, "input_shape[0]", "positive integer, got true"),
        ({"input_shape": ["64"]}, "input_shape[0]", "64 without quotes"),
        ({"input_shape": [64.0]}, "input_shape[0]", "write 64"),
        ({"input_shape": [2**20, 2**20]}, "input_shape", "2^31"),
        ({"layers": []}, "layers", "at least one layer"),
        ({"layers": {}}, "layers", "an array of layers, got an object"),
        ({"layers": None}, "layers", "got null"),
        ({"layers": [3]}, "layers[0]", "got the integer 3"),
        ({"layers": [{"units": 3}]}, "layers[0]", '"type"'),
        ({"layers": [{"type": 3}]}, "layers[0].type", "a string, got the integer 3"),
        ({"dtype": "float16"}, "dtype", '"float32" or "float64"'),
        ({"dtype": None}, "dtype", "got null"),
        ({"seed": 1.0}, "seed", "write 1"),
        ({"seed": True}, "seed", "got true"),
        ({"seed": 2**53}, "seed", "2^53 - 1"),
        ({"name": None}, "name", "a string, got null"),
        ({"format": "specnet-model/2"}, "format", "newer specnet"),
        ({"format": "other"}, "format", '"specnet-model/1"'),
        ({"metadata": []}, "metadata", "an object"),
        ({"metadata": {"a": float("nan")}}, "metadata", "JSON"),
        ({"labels": ["a", "a", "b"]}, "labels[1]", "second time"),
        ({"labels": ["a", "b"]}, "labels", "expected 3 names"),
        ({"labels": "abc"}, "labels", "an array"),
        ({"layers": [{"type": "affine", "units": 2**31}]}, "layers[0].units", "2^31"),
        ({"layers": [{"type": "affine", "units": 3, "name": None}]}, "layers[0].name", "a name"),
        ({"layers": [{"type": "affine", "units": 3, "name": ""}]}, "layers[0].name", "a name"),
        ({"layers": [{"type": "affine", "units": 3, "name": "a.b"}]}, "layers[0].name", "a name"),
        ({"layers": [{"type": "affine", "units": 3, "name": "a\n"}]}, "layers[0].name", "a name"),
        ({"layers": [{"type": "affine", "units": 3, "bias": "true"}]}, "layers[0].bias", "true without quotes"),
        ({"layers": [{"type": "affine", "units": 3, "weight_init": "normal"}]}, "layers[0].weight_init", "an object"),
        ({"layers": [{"type": "affine", "units": 3, "weight_init": {"type": "zeros"}}]}, "layers[0].weight_init.type",
         "name alone"),
        ({"layers": [{"type": "affine", "units": 3, "bias_init": "orthogonal"}]}, "layers[0].bias_init", "matrix"),
        (
            {"layers": [{"type": "affine", "units": 3, "weight_init": {"type": "uniform", "low": 1, "high": 0}}]},
            "layers[0].weight_init.high",
            "low = 1.0",
        ),
        (
            {"layers": [{"type": "affine", "units": 3, "weight_init": {"type": "values", "values": [[1, 2]]}}]},
            "layers[0].weight_init.values",
            "(4, 3), got (1, 2)",
        ),
        (
            {"layers": [{"type": "affine", "units": 3, "bias_init": {"type": "values", "values": [1, [2], 3]}}]},
            "layers[0].bias_init.values",
            "ragged",
        ),
        (
            {"layers": [{"type": "affine", "units": 3, "bias_init": {"type": "values", "values": [1, "2", True]}}]},
            "layers[0].bias_init.values[1]",
            "2 without quotes",
        ),
        (
            {"layers": [{"type": "affine", "units": 3, "bias_init": {"type": "constant", "value": 1e300}}]},
            "layers[0].bias_init.value",
            "float32",
        ),
        ({"layers": [{"type": "leaky_relu", "negative_slope": 1e39}]}, "layers[0].negative_slope", "float32"),
        ({"layers": [{"type": "gelu", "approximate": "tan"}]}, "layers[0].approximate", 'did you mean "tanh"'),
        ({"layers": [{"type": "softplus", "beta": 0}]}, "layers[0].beta", "positive number"),
        ({"layers": [{"type": "reshape", "shape": [3]}]}, "layers[0]", "(4,), 4 elements; (3,) has 3"),
        ({"layers": [{"type": "reshape", "shape": []}]}, "layers[0].shape", "at least 1 entry"),
        ({"layers": [{"type": "batch_norm", "momentum": 1}]}, "layers[0].momentum", "[0, 1)"),
        ({"layers": [{"type": "rms_norm", "epsilon": 0}]}, "layers[0].epsilon", "positive number"),
    ],
)  # fmt: skip
def test_refused_with_path_and_words(change, path, words):
    found = problems({**SMALL, **change})
    assert found[0].path == path, found
    assert words in found[0].message, found[0].message
    for jargon in ("tuple", "dict", "NoneType", "pydantic", "instance"):
        assert jargon not in found[0].message
    if "metadata" not in change:
        placed = problems(json.dumps({**SMALL, **change}))
        assert [p.path for p in placed] == [p.path for p in found]
        assert all(p.line == 1 and p.column > 0 for p in placed)


def test_numbers_are_checked_also_where_shapes_cannot_be_followed():
    found = problems(layers({"type": "relo"}, {"type": "leaky_relu", "negative_slope": 1e39}, input_shape=0))
    assert [p.path for p in found] == ["input_shape", "layers[0].type", "layers[1].negative_slope"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (layers({"type": "leaky_relu", "negative_slope": 2**60}), "layers[0].negative_slope"),
        (layers({"type": "relu"}, name="\ud800"), "name"),
        (layers({"type": "relu"}, metadata={"a": "\ud800"}), "metadata"),
        (layers({"type": "relu"}, labels=["a", "\ud800", "b", "c"]), "labels[1]"),
        (layers({"type": "affine", "units": 1, "bias_init": {"type": "values", "values": [10**400]}}), "layers[0]"),
        (layers({"type": "affine", "units": 1, "bias_init": {"type": "uniform", "low": -1e308, "high": 1e308}}), ""),
        (layers({"type": "affine", "units": 1, "bias_init": {"type": "normal", "std": 1e38}}), "layers[0]"),
    ],
    ids=range(7),
)  # fmt: skip
def test_python_values_that_json_cannot_hold(change, path):
    assert only(change).path.startswith(path)


def test_deep_values_are_refused():
    nested = [1.0]
    for _ in range(5000):
        nested = [nested]
    entry = {"type": "affine", "units": 1, "bias_init": {"type": "values", "values": nested}}
    assert "levels of nesting" in only(layers(entry)).message


def test_no_control_character_reaches_a_message():
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_text(
            '{"a\\nb: fake \\u001b[31m": 1, "input_shape": [4], "layers": [{"type": "re\\nlu"}]}', "m.json"
        )
    assert len(caught.value.lines()) == len(str(caught.value).split("\n")) == 2
    assert all(line.isprintable() for line in caught.value.lines())


def test_double_and_taken_names():
    found = only(layers({"type": "relu", "name": "a"}, {"type": "tanh", "name": "a"}))
    assert found.path == "layers[1].name"
    found = only(layers({"type": "relu", "name": "tanh_1"}, {"type": "tanh"}))
    assert found.path == "layers[1]"
    assert "automatic name" in found.message


def test_a_missing_key_is_told_at_its_object():
    found = only('{"input_shape": [4],\n "layers": [\n  {"type": "affine"}]}')
    assert (found.line, found.column, found.path, found.code) == (3, 3, "layers[0].units", "missing")


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("nan", ""),
        ("1_0", ""),
        ("\uff13", ""),
        ("1.5", ""),
        ("1" * 10**6, ""),
        (1e300, ""),
        ("12", "12 without quotes"),
        (2.0, "write 2"),
    ],
    ids=range(8),
)
def test_remedies_are_ones(value, remedy):
    message = only({**SMALL, "seed": value}).message
    assert message.partition("; ")[2].removeprefix("write ") == remedy.removeprefix("write ")
    assert len(message) < 150


@pytest.mark.parametrize(
    "value", [10**5000, np.array([1, 2]), np.array(["a", "b"]), {1}, object(), b"x", range(3)], ids=range(7)
)
@pytest.mark.parametrize(
    "key", ["name", "format", "dtype", "seed", "input_shape", "layers", "labels", "metadata", "$schema"]
)
def test_odd_python_values_are_told_in_words(key, value):
    for document in (
        {**SMALL, key: value},
        layers({"type": "affine", "units": 1, **({key: value} if key == "name" else {})}),
    ):
        try:
            ModelSpec(**document)
        except SpecError as error:
            for word in ("truth value", "broadcast", "sys.set_int", "operands"):
                assert word not in str(error)


def test_many_faults_are_told_at_once_and_bounded():
    for document in (
        {"input_shape": [4], "layers": [1] * 20_000},
        {**SMALL, **{f"k{index}": 1 for index in range(20_000)}},
    ):
        began = time.monotonic()
        assert len(problems(json.dumps(document))) == 1000
        assert time.monotonic() - began < 10


def test_limits():
    assert only(layers(*[{"type": "relu"}] * 40_000)).path == "layers"
    assert "2^31" in only(layers({"type": "affine", "units": 30_000}, {"type": "affine", "units": 100_000})).message


def test_a_file_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(SpecError, match="regular file"):
            specnet.load_spec(special)
    with pytest.raises(SpecError, match=r"none\.json: cannot be read: No such file"):
        specnet.load_spec(tmp_path / "none.json")
    with pytest.raises(SpecError, match="directory"):
        specnet.load_spec(tmp_path)


def test_problems_are_objects_and_survive_pickling():
    error = None
    try:
        ModelSpec.from_text('{"layers": 3}', "x.json")
    except SpecError as caught:
        error = pickle.loads(pickle.dumps(caught))
    assert error.problems[0].code
    assert [p.path for p in error.problems] == ["input_shape", "layers"]
    assert isinstance(error, specnet.SpecnetError)
    assert str(error).startswith("x.json:1:1: input_shape: ")


# ---------------------------------------------------------------- the registry


def test_a_layer_registered_later_counts_at_once():
    from specnet.schema import json_schema

    class Double(Layer):  # its methods know no `out`
        def forward(self, x, training=False):
            return 2 * self.floats(x)

        def backward(self, dy):
            return 2 * self.floats(dy)

        def predict(self, x):
            return self.forward(x)

    assert only(layers({"type": "test_double"})).code == "unknown_layer"

    @specnet.register_layer("test_double")
    class DoubleSpec(specnet.LayerSpec):
        """Twice the input."""

        layer = Double

    try:
        spec = ModelSpec(**layers({"type": "test_double"}))
        assert spec.layers[0].name == "test_double_1"
        model = specnet.build(ModelSpec(**layers({"type": "test_double"}, {"type": "relu"}, {"type": "test_double"})))
        assert model.forward(np.ones((1, 4))).tolist() == [[4.0] * 4]
        assert model.backward(np.ones((1, 4))).tolist() == [[4.0] * 4]
        assert model.predict(np.ones((1, 4))).tolist() == [[4.0] * 4]
        assert "test_double" in json_schema("model")["$defs"]["layer"]["properties"]["type"]["enum"]
        assert specnet.register_layer("test_double")(DoubleSpec) is DoubleSpec
        with pytest.raises(specnet.SpecnetError, match="taken by"):
            specnet.register_layer("test_double")(specnet.layers.ReluSpec)
    finally:
        from specnet.spec import registry

        del registry._registered["test_double"]
    with pytest.raises(specnet.SpecnetError, match="LayerSpec"):
        specnet.register_layer("x")(int)


# ---------------------------------------------------------------- properties

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
floats32 = st.floats(-100, 100, width=32)
initializers = st.sampled_from(["he_normal", "glorot_uniform", "zeros", "ones", "lecun_normal"]) | st.one_of(
    st.fixed_dictionaries({"type": st.just("normal"), "std": st.floats(0, 2)}),
    st.fixed_dictionaries({"type": st.just("constant"), "value": floats32}),
)
WITH_KEYS = {"affine", "dropout", "leaky_relu", "elu", "reshape", "standardize", "embedding"}
COMPOSITES = {"sequential", "residual", "concat"}
plain = sorted(set(layer_types()) - WITH_KEYS - COMPOSITES - {"test_double"})
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("affine"), "units": st.integers(1, 6)},
        optional={"bias": st.booleans(), "weight_init": initializers, "bias_init": initializers},
    ),
    st.fixed_dictionaries({"type": st.sampled_from(plain)}),
    st.fixed_dictionaries({"type": st.just("dropout")}, optional={"rate": st.floats(0, 0.9)}),
    st.fixed_dictionaries({"type": st.just("leaky_relu")}, optional={"negative_slope": st.floats(-1, 1)}),
    st.fixed_dictionaries({"type": st.just("standardize"), "mean": floats32, "std": st.floats(0.25, 4, width=32)}),
)
keeping = st.sampled_from([{"type": kind} for kind in ("relu", "tanh", "layer_norm", "prelu", "dropout")])
"""Layers that keep their input's shape, whatever it is."""


def residuals(inside):
    """Residual blocks that fit: what keeps the shape, or two sides that end in the same width."""
    ends = st.integers(1, 4).flatmap(
        lambda units: st.fixed_dictionaries(
            {
                "type": st.just("residual"),
                "layers": inside.map(lambda some: [*some, {"type": "affine", "units": units}]),
                "shortcut": inside.map(lambda some: [*some, {"type": "affine", "units": units}]),
            }
        )
    )
    return ends | st.fixed_dictionaries(
        {"type": st.just("residual"), "layers": st.lists(keeping, min_size=1, max_size=3)}
    )


def composites(children):
    """Composites of these layers; none of them changes the number of axes."""
    same_rank = children.filter(lambda entry: "flatten" not in json.dumps(entry))
    some = st.lists(same_rank, max_size=2)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("sequential"), "layers": st.lists(children, min_size=1, max_size=3)}),
        residuals(some),
        st.fixed_dictionaries({"type": st.just("concat"), "branches": st.lists(some, min_size=1, max_size=3)}),
    )


entries = st.recursive(leaves, composites, max_leaves=6)
first = st.one_of(
    st.just({"type": "standardize"}),
    st.fixed_dictionaries(
        {"type": st.just("embedding"), "vocabulary": st.integers(2, 9), "dimension": st.integers(1, 3)}
    ),
)


def objects_in(value):
    """All objects of a document, itself first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(inner)


def valid_document(settings, layers, beginning):
    """Put a document together, of objects that no other one shares."""
    return json.loads(json.dumps({**settings, "layers": [*beginning, *layers]}))


settings = st.fixed_dictionaries(
    {"input_shape": st.lists(st.integers(1, 4), min_size=1, max_size=3)},
    optional={
        "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        "dtype": st.sampled_from(["float32", "float64"]),
        "seed": st.integers(0, 2**53 - 1),
        "metadata": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), st.integers(-5, 5)),
    },
)  # fmt: skip
documents = st.builds(valid_document, settings, st.lists(entries, min_size=1, max_size=5), st.lists(first, max_size=1))


@given(documents)
def test_a_valid_document_builds_runs_and_round_trips(document):
    spec = ModelSpec.from_text(json.dumps(document))
    model = build_sample(spec)
    x = sample_inputs(model, 3)
    with np.errstate(all="ignore"):  # wild initial values may overflow
        y = model.forward(x, training=True)
        assert y.shape == (3, *spec.output_shape)
        dx = model.backward(y)
        assert (dx is None) == (model.input_dtype.kind == "i")
        assert model.predict(x).tobytes() == model.forward(x).tobytes()
    again = ModelSpec.from_text(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    model, other = specnet.build(spec), specnet.build(again)
    assert list(other.parameters) == list(model.parameters)
    assert all(np.array_equal(other.parameters[name], model.parameters[name]) for name in model.parameters)
    assert model.parameter_count == spec.parameter_count == sum(p.size for p in model.parameters.values())


@given(documents, st.data())
def test_a_mutated_document_is_accepted_or_refused_with_a_place(document, data):
    junk = st.sampled_from([None, True, -1, 0, 1.5, "x", "relu", [], [1], {}, {"type": "relu"}, 2**60, ""])
    target = data.draw(st.sampled_from(list(objects_in(document))))
    key = data.draw(st.sampled_from([*target, "extra", "type", "name"]))
    target[key] = data.draw(junk)
    text = json.dumps(document, indent=1)
    try:
        ModelSpec.from_text(text)
    except SpecError as error:
        lines = text.split("\n")
        assert error.problems
        for problem in error.problems:
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
