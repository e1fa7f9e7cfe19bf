"""Test that nodes that change nothing hide no layer, and that nodes that change something are not dropped."""

import numpy as np
import pytest

import specnet
from specnet.interop.importing import import_model

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)).astype("f4")


def graph_file(path, nodes, constants, version=13, shape=(3,)):
    """Write a graph from x to y; each node is (operator, inputs, output, attributes)."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in nodes],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", *shape])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", version)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString())
    return path


B = np.array([1, 2, 3], "f4")
BIASED = {
    "a cast": [("MatMul", ["x", "w"], "a", {}), ("Cast", ["a"], "b", {"to": 1}), ("Add", ["b", "c"], "y", {})],
    "an identity": [("MatMul", ["x", "w"], "a", {}), ("Identity", ["a"], "b", {}), ("Add", ["c", "b"], "y", {})],
    "a concat": [("MatMul", ["x", "w"], "a", {}), ("Concat", ["a"], "b", {"axis": 1}), ("Add", ["b", "c"], "y", {})],
    "a reshape": [("MatMul", ["x", "w"], "a", {}), ("Reshape", ["a", "s"], "b", {}), ("Add", ["b", "c"], "y", {})],
    "a flatten": [("Gemm", ["x", "w"], "a", {}), ("Flatten", ["a"], "b", {}), ("Add", ["b", "c"], "y", {})],
    "several": [
        ("Cast", ["x"], "v", {"to": 1}),
        ("Identity", ["v"], "u", {}),
        ("MatMul", ["u", "w"], "a", {}),
        ("Cast", ["a"], "d", {"to": 1}),
        ("Identity", ["d"], "e", {}),
        ("Cast", ["e"], "f", {"to": 1}),
        ("Add", ["f", "c"], "g", {}),
        ("Cast", ["g"], "y", {"to": 1}),
    ],
}


@pytest.mark.parametrize("nodes", BIASED.values(), ids=BIASED.keys())
def test_nodes_that_change_nothing_do_not_part_a_product_from_its_bias(tmp_path, nodes):
    path = graph_file(tmp_path / "m.onnx", nodes, {"w": W, "c": B, "s": np.array([0, 3])})
    model = import_model(path).model
    assert [(layer.type, layer.bias) for layer in model.spec.layers] == [("affine", True)]
    x = RNG.normal(size=(4, 3)).astype("f4")
    assert np.abs(model.predict(x) - (x @ W + B)).max() < 1e-6


def test_a_bias_behind_dropout_belongs_to_the_product(tmp_path):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Dropout", ["a"], "b", {}), ("Add", ["b", "c"], "y", {})]
    imported = import_model(graph_file(tmp_path / "m.onnx", nodes, {"w": W, "c": B}))
    assert [layer.type for layer in imported.model.spec.layers] == ["affine", "dropout"]
    assert imported.model.spec.layers[0].bias
    assert imported.notes == ("affine_1: its bias is now added before the dropout that follows, not after it",)
    x = RNG.normal(size=(4, 3)).astype("f4")
    assert np.abs(imported.model.predict(x) - (x @ W + B)).max() < 1e-6


def test_only_the_first_constant_is_a_bias(tmp_path):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Add", ["a", "c"], "b", {}), ("Add", ["b", "c"], "y", {})]
    model = import_model(graph_file(tmp_path / "m.onnx", nodes, {"w": W, "c": B})).model
    assert [layer.type for layer in model.spec.layers] == ["affine", "standardize"]
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Tanh", ["a"], "b", {}), ("Add", ["b", "c"], "y", {})]
    model = import_model(graph_file(tmp_path / "m.onnx", nodes, {"w": W, "c": B})).model
    assert [layer.type for layer in model.spec.layers] == ["affine", "tanh", "standardize"]


def test_activations_are_recognized_through_casts(tmp_path):
    nodes = [
        ("Identity", ["x"], "a", {}),
        ("Sigmoid", ["a"], "b", {}),
        ("Cast", ["b"], "c", {"to": 1}),
        ("Mul", ["c", "x"], "y", {}),
    ]
    assert import_model(graph_file(tmp_path / "m.onnx", nodes, {})).model.spec.layers[0].type == "silu"


@pytest.mark.parametrize(
    ("to", "version", "message_pattern"),
    [
        (10, 13, r"b \(Cast\): casting to FLOAT16 changes the values"),
        (11, 13, "casting to DOUBLE changes the values"),
        (7, 13, "casting to INT64 changes the values"),
        (9, 13, "casting to BOOL changes the values"),
        ("INT32", 5, "casting to INT32 changes the values"),
        ("nonsense", 5, "casting to UNDEFINED changes the values"),
        (99, 13, "casting to 99 changes the values"),
    ],
)
def test_a_cast_that_changes_values_is_refused(tmp_path, to, version, message_pattern):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Cast", ["a"], "b", {"to": to}), ("Cast", ["b"], "y", {"to": 1})]
    if version < 6:
        nodes[2] = ("Cast", ["b"], "y", {"to": "FLOAT"})
    with pytest.raises(specnet.CheckpointError, match=message_pattern):
        import_model(graph_file(tmp_path / "m.onnx", nodes, {"w": W}, version))


def test_a_constant_of_a_higher_rank_is_no_part_of_an_activation(tmp_path):
    nodes = [("Sigmoid", ["x"], "a", {}), ("Mul", ["a", "one"], "b", {}), ("Mul", ["x", "b"], "y", {})]
    for shape, is_imported in (((), True), ((1, 1), True), ((1, 1, 1), False)):
        path = graph_file(tmp_path / "m.onnx", nodes, {"one": np.ones(shape, "f4")})
        if is_imported:
            assert import_model(path).model.spec.layers[0].type == "silu"
        else:
            with pytest.raises(specnet.CheckpointError, match="a constant of rank 3 adds axes to the values"):
                import_model(path)


def test_constants_of_old_operator_sets_are_added_as_they_say(tmp_path):
    """Check that a sum of constants is broadcast along the axis that it names, not along the last."""
    matrix, column = np.zeros((3, 3), "f4"), np.array([1, 2, 3], "f4")
    nodes = [("Add", ["m", "c"], "w", {"broadcast": 1, "axis": 0}), ("MatMul", ["x", "w"], "y", {})]
    path = graph_file(tmp_path / "m.onnx", nodes, {"m": matrix, "c": column}, 6)
    x = RNG.normal(size=(4, 3)).astype("f4")
    assert np.abs(import_model(path).model.predict(x) - x @ (matrix + column[:, None])).max() < 1e-6
    nodes[0] = ("Add", ["m", "c"], "w", {})
    with pytest.raises(specnet.CheckpointError, match=r"adds constants of the shapes \(3, 3\) and \(3,\)"):
        import_model(graph_file(tmp_path / "m.onnx", nodes, {"m": matrix, "c": column}, 6))
