"""Test the model document: defaults, error messages and their positions, and the document's identity."""

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
    """Return the problems of a document, given as JSON text or as a dict."""
    with pytest.raises(SpecError) as caught:
        if isinstance(document, str):
            ModelSpec.from_text(document, "m.json")
        else:
            ModelSpec(**document)
    return caught.value.problems


def only_problem(document):
    """Return the problem of a document that has exactly one."""
    errors = problems(document)
    assert len(errors) == 1, errors
    return errors[0]


def document_with(*entries, **settings):
    """Return a document with these layers."""
    return {"input_shape": [4], "layers": list(entries), **settings}


# ---------------------------------------------------------------- defaults, normalized form and identity


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
def test_the_default_initializer_depends_on_the_next_activation(following, initializer):
    entries = [{"type": kind, **({"units": 2} if kind == "affine" else {})} for kind in following]
    spec = ModelSpec(**document_with({"type": "affine", "units": 3}, *entries))
    assert spec.layers[0].weight_init == initializer


def test_an_explicit_initializer_is_kept():
    spec = ModelSpec(**document_with({"type": "affine", "units": 3, "weight_init": "glorot_uniform"}, {"type": "relu"}))
    assert spec.layers[0].weight_init == "glorot_uniform"


def test_the_normalized_document_builds_the_same_model_bit_for_bit():
    short = ModelSpec(**document_with({"type": "affine", "units": 3}, {"type": "relu"}, {"type": "dropout"}))
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


def test_identity_is_the_hash_of_the_canonical_form_without_descriptive_keys():
    spec = ModelSpec(**SMALL)
    annotated = ModelSpec(
        **SMALL, name="x", description="y", metadata={"a": [1, {"b": None}]}, labels=["a", "b", "c"], **{"$schema": "s"}
    )
    assert spec.identity == annotated.identity
    assert spec != annotated
    document = json.loads(spec.model_dump_json())
    del document["name"]
    assert spec.identity == hashlib.sha256(canonical_json(document)).hexdigest()
    for other in ({"seed": 1}, {"dtype": "float64"}, {"input_shape": [5]}):
        assert ModelSpec(**{**SMALL, **other}).identity != spec.identity


def test_the_notation_of_a_number_does_not_change_the_identity():
    a = ModelSpec.from_text('{"input_shape":[4],"layers":[{"type":"dropout","rate":0}]}')
    b = ModelSpec.from_text('{"input_shape":[4],"layers":[{"type":"dropout","rate":-0.0}]}')
    assert a == b
    assert a.identity == b.identity


def test_a_spec_is_immutable():
    spec = ModelSpec(**SMALL)
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 3
    metadata = {"a": [1]}
    annotated = ModelSpec(**SMALL, metadata=metadata)
    metadata["a"].append(2)
    assert annotated.metadata == {"a": [1]}


# ---------------------------------------------------------------- errors


def test_an_error_message_has_position_path_and_remedy():
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


def test_all_problems_are_reported_at_once_in_document_order():
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
    errors = problems(text)
    assert [(p.line, p.column, p.path) for p in errors] == [
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
    message_of = {p.path: p.message for p in errors}
    assert 'did you mean "dtype"' in message_of["dtyp"]
    assert 'did you mean "he_normal"' in message_of["layers[0].weight_init"]
    assert 'did you mean "relu"' in message_of["layers[1].type"]
    assert '{"type": "relu"}' in message_of["layers[2]"]
    assert 'did you mean "rate"' in message_of["layers[3].rato"]
    assert "[0, 1)" in message_of["layers[3].rate"]


@pytest.mark.parametrize(
    ("change", "path", "message_part"),
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
def test_an_invalid_value_is_rejected_with_its_path(change, path, message_part):
    errors = problems({**SMALL, **change})
    assert errors[0].path == path, errors
    assert message_part in errors[0].message, errors[0].message
    for jargon in ("tuple", "dict", "NoneType", "pydantic", "instance"):
        assert jargon not in errors[0].message
    if "metadata" not in change:
        errors_in_text = problems(json.dumps({**SMALL, **change}))
        assert [p.path for p in errors_in_text] == [p.path for p in errors]
        assert all(p.line == 1 and p.column > 0 for p in errors_in_text)


def test_numbers_are_checked_even_if_shapes_cannot_be_inferred():
    errors = problems(document_with({"type": "relo"}, {"type": "leaky_relu", "negative_slope": 1e39}, input_shape=0))
    assert [p.path for p in errors] == ["input_shape", "layers[0].type", "layers[1].negative_slope"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (document_with({"type": "leaky_relu", "negative_slope": 2**60}), "layers[0].negative_slope"),
        (document_with({"type": "relu"}, name="\ud800"), "name"),
        (document_with({"type": "relu"}, metadata={"a": "\ud800"}), "metadata"),
        (document_with({"type": "relu"}, labels=["a", "\ud800", "b", "c"]), "labels[1]"),
        (
            document_with({"type": "affine", "units": 1, "bias_init": {"type": "values", "values": [10**400]}}),
            "layers[0]",
        ),
        (
            document_with(
                {"type": "affine", "units": 1, "bias_init": {"type": "uniform", "low": -1e308, "high": 1e308}}
            ),
            "",
        ),
        (document_with({"type": "affine", "units": 1, "bias_init": {"type": "normal", "std": 1e38}}), "layers[0]"),
    ],
    ids=range(7),
)
def test_python_values_that_json_cannot_represent_are_rejected(change, path):
    assert only_problem(change).path.startswith(path)


def test_deeply_nested_values_are_rejected():
    nested = [1.0]
    for _ in range(5000):
        nested = [nested]
    entry = {"type": "affine", "units": 1, "bias_init": {"type": "values", "values": nested}}
    assert "levels of nesting" in only_problem(document_with(entry)).message


def test_messages_contain_no_control_characters():
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_text(
            '{"a\\nb: fake \\u001b[31m": 1, "input_shape": [4], "layers": [{"type": "re\\nlu"}]}', "m.json"
        )
    assert len(caught.value.lines()) == len(str(caught.value).split("\n")) == 2
    assert all(line.isprintable() for line in caught.value.lines())


def test_duplicate_names_are_rejected():
    error = only_problem(document_with({"type": "relu", "name": "a"}, {"type": "tanh", "name": "a"}))
    assert error.path == "layers[1].name"
    error = only_problem(document_with({"type": "relu", "name": "tanh_1"}, {"type": "tanh"}))
    assert error.path == "layers[1]"
    assert "automatic name" in error.message


def test_a_missing_key_is_reported_at_its_object():
    error = only_problem('{"input_shape": [4],\n "layers": [\n  {"type": "affine"}]}')
    assert (error.line, error.column, error.path, error.code) == (3, 3, "layers[0].units", "missing")


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
def test_remedies_are_valid_replacements(value, remedy):
    message = only_problem({**SMALL, "seed": value}).message
    assert message.partition("; ")[2].removeprefix("write ") == remedy.removeprefix("write ")
    assert len(message) < 150


@pytest.mark.parametrize(
    "value", [10**5000, np.array([1, 2]), np.array(["a", "b"]), {1}, object(), b"x", range(3)], ids=range(7)
)
@pytest.mark.parametrize(
    "key", ["name", "format", "dtype", "seed", "input_shape", "layers", "labels", "metadata", "$schema"]
)
def test_unsupported_python_values_are_reported_without_internal_errors(key, value):
    for document in (
        {**SMALL, key: value},
        document_with({"type": "affine", "units": 1, **({key: value} if key == "name" else {})}),
    ):
        try:
            ModelSpec(**document)
        except SpecError as error:
            for jargon in ("truth value", "broadcast", "sys.set_int", "operands"):
                assert jargon not in str(error)


def test_at_most_1000_problems_are_reported_quickly():
    for document in (
        {"input_shape": [4], "layers": [1] * 20_000},
        {**SMALL, **{f"k{index}": 1 for index in range(20_000)}},
    ):
        began = time.monotonic()
        assert len(problems(json.dumps(document))) == 1000
        assert time.monotonic() - began < 10


def test_sizes_beyond_the_limits_are_rejected():
    assert only_problem(document_with(*[{"type": "relu"}] * 40_000)).path == "layers"
    assert (
        "2^31"
        in only_problem(
            document_with({"type": "affine", "units": 30_000}, {"type": "affine", "units": 100_000})
        ).message
    )


def test_unreadable_files_are_rejected(tmp_path):
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


# ---------------------------------------------------------------- the registry of layers


def test_a_newly_registered_layer_is_available_at_once():
    from specnet.schema import json_schema

    class Double(Layer):  # its methods have no `out` parameter
        def forward(self, x, training=False):
            return 2 * self.floats(x)

        def backward(self, dy):
            return 2 * self.floats(dy)

        def predict(self, x):
            return self.forward(x)

    assert only_problem(document_with({"type": "test_double"})).code == "unknown_layer"

    @specnet.register_layer("test_double")
    class DoubleSpec(specnet.LayerSpec):
        """Twice the input."""

        layer = Double

    try:
        spec = ModelSpec(**document_with({"type": "test_double"}))
        assert spec.layers[0].name == "test_double_1"
        model = specnet.build(
            ModelSpec(**document_with({"type": "test_double"}, {"type": "relu"}, {"type": "test_double"}))
        )
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
IN_FOLDERS = {kind for kind, cls in layer_types().items() if cls.layer.__module__.count(".") > 2}
"""Layers over images and sequences."""
types_without_keys = sorted(set(layer_types()) - WITH_KEYS - COMPOSITES - IN_FOLDERS - {"test_double"})
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("affine"), "units": st.integers(1, 6)},
        optional={"bias": st.booleans(), "weight_init": initializers, "bias_init": initializers},
    ),
    st.fixed_dictionaries({"type": st.sampled_from(types_without_keys)}),
    st.fixed_dictionaries({"type": st.just("dropout")}, optional={"rate": st.floats(0, 0.9)}),
    st.fixed_dictionaries({"type": st.just("leaky_relu")}, optional={"negative_slope": st.floats(-1, 1)}),
    st.fixed_dictionaries({"type": st.just("standardize"), "mean": floats32, "std": st.floats(0.25, 4, width=32)}),
)
shape_preserving = st.sampled_from([{"type": kind} for kind in ("relu", "tanh", "layer_norm", "prelu", "dropout")])
"""Layers whose output has the shape of their input, for every input shape."""


def residuals(inside):
    """Return a strategy for valid residual blocks: shape-preserving layers, or two lists that end in equal units."""
    with_equal_units = st.integers(1, 4).flatmap(
        lambda units: st.fixed_dictionaries(
            {
                "type": st.just("residual"),
                "layers": inside.map(lambda entries: [*entries, {"type": "affine", "units": units}]),
                "shortcut": inside.map(lambda entries: [*entries, {"type": "affine", "units": units}]),
            }
        )
    )
    return with_equal_units | st.fixed_dictionaries(
        {"type": st.just("residual"), "layers": st.lists(shape_preserving, min_size=1, max_size=3)}
    )


def composites(children):
    """Return a strategy for composites of these layers; none of them changes the number of axes."""
    same_rank = children.filter(lambda entry: "flatten" not in json.dumps(entry))
    branches = st.lists(same_rank, max_size=2)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("sequential"), "layers": st.lists(children, min_size=1, max_size=3)}),
        residuals(branches),
        st.fixed_dictionaries({"type": st.just("concat"), "branches": st.lists(branches, min_size=1, max_size=3)}),
    )


entries = st.recursive(leaves, composites, max_leaves=6)
first_layers = st.one_of(
    st.just({"type": "standardize"}),
    st.fixed_dictionaries(
        {"type": st.just("embedding"), "vocabulary": st.integers(2, 9), "dimension": st.integers(1, 3)}
    ),
)


def objects_in(value):
    """Yield all objects of a document; the document itself comes first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(inner)


def valid_document(settings, layers, beginning):
    """Build a document that shares no object with another document."""
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
either = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))
images = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["conv2d", "conv_transpose2d"]),
            "filters": st.integers(1, 3),
            "kernel_size": either,
            "padding": st.just("same"),
        },
        optional={"stride": either, "dilation": either, "bias": st.booleans(), "weight_init": initializers},
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["max_pool2d", "average_pool2d"]), "pool_size": either, "padding": st.just("same")},
        optional={"stride": either},
    ),
    st.fixed_dictionaries({"type": st.just("zero_pad2d"), "padding": st.integers(0, 2) | either}),
    st.fixed_dictionaries({"type": st.just("channel_dropout"), "rate": st.floats(0, 0.9)}),
    st.sampled_from(
        [{"type": kind} for kind in ("relu", "batch_norm", "global_average_pool", "flatten", "upsample2d")]
    ),
)


def image_document(settings, shape, layers):
    """Build a document of layers over images, which end where something reduces them to features."""
    kinds = [layer["type"] for layer in layers]
    end = min((kinds.index(kind) for kind in ("global_average_pool", "flatten") if kind in kinds), default=len(layers))
    return valid_document({**settings, "input_shape": shape}, layers[: end + 1], [])


recurrent = st.fixed_dictionaries(
    {"type": st.sampled_from(["simple_rnn", "lstm", "gru"]), "units": st.integers(1, 4)},
    optional={
        "bias": st.booleans(),
        "recurrent_init": initializers,
        "bias_init": initializers,
        "truncate": st.none() | st.integers(1, 3),
    },
)
over_steps = st.one_of(
    recurrent.flatmap(lambda entry: st.booleans().map(lambda r: {**entry, "return_sequences": True, "reverse": r})),
    recurrent.map(lambda entry: {"type": "bidirectional", "layers": [{**entry, "return_sequences": True}]}),
    st.fixed_dictionaries(
        {"type": st.just("attention"), "heads": st.integers(1, 3), "key_size": st.integers(1, 3)},
        optional={"causal": st.booleans(), "dropout": st.floats(0, 0.9), "bias": st.booleans()},
    ),
    st.fixed_dictionaries(
        {"type": st.just("positional_encoding")}, optional={"kind": st.sampled_from(["sinusoidal", "learned"])}
    ),
    st.sampled_from([{"type": kind} for kind in ("relu", "layer_norm", "dropout", "softmax")]),
    st.just({"type": "residual", "layers": [{"type": "tanh"}, {"type": "attention", "heads": 1}]}),
)
at_the_end = recurrent | st.sampled_from([{"type": "last_step"}, {"type": "time_average"}])
tokens = st.fixed_dictionaries(
    {"type": st.just("embedding"), "vocabulary": st.integers(2, 5), "dimension": st.integers(1, 4)},
    optional={"mask_index": st.none() | st.integers(0, 1)},
)


def sequence_document(settings, shape, first, layers, end):
    """Build a document of layers over sequences, or over tokens."""
    shape = shape[:1] if first and first[0]["type"] == "embedding" else shape
    return valid_document({**settings, "input_shape": shape}, [*layers, *end], first)


documents = (
    st.builds(valid_document, settings, st.lists(entries, min_size=1, max_size=5), st.lists(first_layers, max_size=1))
    | st.builds(image_document, settings, st.tuples(*[st.integers(1, 5)] * 3), st.lists(images, min_size=1, max_size=5))
    | st.builds(
        sequence_document,
        settings,
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.lists(tokens | st.just({"type": "mask"}), max_size=1),
        st.lists(over_steps, min_size=1, max_size=4),
        st.lists(at_the_end, max_size=1),
    )
)


@given(documents)
def test_a_valid_document_builds_runs_and_round_trips(document):
    spec = ModelSpec.from_text(json.dumps(document))
    model = build_sample(spec)
    x = sample_inputs(model, 3)
    with np.errstate(all="ignore"):  # extreme initial values may overflow
        y = model.forward(x, training=True)
        assert y.shape == (3, *spec.output_shape)
        dx = model.backward(y)
        assert (dx is None) == (model.input_dtype.kind == "i")
        assert model.predict(x).tobytes() == model.forward(x).tobytes()
    reread = ModelSpec.from_text(spec.to_json())
    assert reread == spec
    assert reread.to_json() == spec.to_json()
    model, rebuilt = specnet.build(spec), specnet.build(reread)
    assert list(rebuilt.parameters) == list(model.parameters)
    assert all(np.array_equal(rebuilt.parameters[name], model.parameters[name]) for name in model.parameters)
    assert model.parameter_count == spec.parameter_count == sum(p.size for p in model.parameters.values())


@given(documents, st.data())
def test_a_mutated_document_is_accepted_or_rejected_with_a_position(document, data):
    replacements = st.sampled_from([None, True, -1, 0, 1.5, "x", "relu", [], [1], {}, {"type": "relu"}, 2**60, ""])
    target = data.draw(st.sampled_from(list(objects_in(document))))
    key = data.draw(st.sampled_from([*target, "extra", "type", "name"]))
    target[key] = data.draw(replacements)
    text = json.dumps(document, indent=1)
    try:
        ModelSpec.from_text(text)
    except SpecError as error:
        lines = text.split("\n")
        assert error.problems
        for problem in error.problems:
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
