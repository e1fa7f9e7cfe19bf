"""Test that ONNX files that say two things, or claim more than they hold, are refused in one line."""

import time

import numpy as np
import pytest

import specnet
from specnet.interop.importing import import_model
from specnet.interop.onnx import wire

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
TYPES = onnx.TensorProto
W = np.arange(12, dtype="f4").reshape(4, 3)
B = np.arange(3, dtype="f4")


def valid_model():
    """Return x @ w + b, then a Relu."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["c"]), node("Relu", ["c"], ["y"])],
        "g",
        [value("x", TYPES.FLOAT, ["n", 4])],
        [value("y", TYPES.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(array, name) for name, array in (("w", W), ("b", B))],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def opset(model, version, domain=""):
    model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def only_opset(model, version):
    del model.opset_import[:]
    opset(model, version)


def tensor_with(model, **fields):
    """Set fields of the tensor b; a raw_data of None clears it."""
    tensor = model.graph.initializer[1]
    for name, value in fields.items():
        if name in ("raw_data", "data_type") and value is not None:
            setattr(tensor, name, value)
        else:
            tensor.ClearField(name)
            if value is not None:
                getattr(tensor, name).extend(value)


def add_node(model, kind, inputs, outputs, position=None, **attributes):
    node = onnx.helper.make_node(kind, inputs, outputs, **attributes)
    model.graph.node.insert(len(model.graph.node) if position is None else position, node)


def attribute(model, name, value):
    model.graph.node[2].attribute.append(onnx.helper.make_attribute(name, value))


FAULTS = {
    "set 999": (lambda m: only_opset(m, 999), r"m\.onnx: uses operator set 999, expected 1 to \d+"),
    "set 0": (lambda m: only_opset(m, 0), "uses operator set 0, expected 1 to"),
    "negative set": (lambda m: only_opset(m, -1), "uses operator set -1, expected 1 to"),
    "no set": (
        lambda m: m.ClearField("opset_import"),
        r"m\.onnx: states no version of the operator set, expected 1 to",
    ),
    "set of another domain": (
        lambda m: (m.ClearField("opset_import"), opset(m, 1, "ai.onnx.ml")),
        "states no version of the operator set",
    ),
    "two sets": (lambda m: opset(m, 6), "states two versions of the operator set '': 17 and 6"),
    "two names": (lambda m: opset(m, 6, "ai.onnx"), "states two versions of the operator set '': 17 and 6"),
    "initializer twice": (
        lambda m: m.graph.initializer.append(m.graph.initializer[1]),
        "the value 'b' is produced twice",
    ),
    "input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "two of its inputs have the same name"),
    "input and output": (
        lambda m: add_node(m, "Tanh", ["x"], ["x"], 0),
        "the value 'x' is produced twice",
    ),
    "initializer and output": (lambda m: add_node(m, "Tanh", ["a"], ["b"]), "the value 'b' is produced twice"),
    "output twice": (lambda m: add_node(m, "Tanh", ["x"], ["y"]), "the value 'y' is produced twice"),
    "second output": (lambda m: add_node(m, "Dropout", ["x"], ["z", "c"], 0), "the value 'c' is produced twice"),
    "folded twice": (lambda m: add_node(m, "Identity", ["b"], ["w"], 0), "the value 'w' is produced twice"),
    "identity twice": (lambda m: add_node(m, "Identity", ["x"], ["a"], 0), "the value 'a' is produced twice"),
    "constant twice": (
        lambda m: add_node(m, "Constant", [], ["b"], 0, value=m.graph.initializer[1]),
        "the value 'b' is produced twice",
    ),
    "raw and float": (lambda m: tensor_with(m, float_data=B), "'b' has values in several fields: float_data, raw_data"),
    "float and int": (
        lambda m: tensor_with(m, raw_data=None, float_data=B, int64_data=[1, 2, 3]),
        "'b' has values in several fields: float_data, int64_data",
    ),
    "another field": (
        lambda m: tensor_with(m, raw_data=None, int64_data=[1, 2, 3]),
        "'b': expected its values in float_data or raw_data, got int64_data",
    ),
    "raw twice as long": (lambda m: tensor_with(m, raw_data=B.tobytes() * 2), "'b' has 6 values for the shape"),
    "raw of odd length": (lambda m: tensor_with(m, raw_data=B.tobytes() + b"\0"), "'b' has 13 bytes for the shape"),
    "float twice as long": (
        lambda m: tensor_with(m, raw_data=None, float_data=[*B, *B]),
        "'b' has 6 values for the shape",
    ),
    "no values": (lambda m: tensor_with(m, raw_data=None), "'b' has 0 values for the shape"),
    "negative size": (lambda m: tensor_with(m, dims=[-3]), "'b' has 3 values for the shape"),
    "two negative sizes": (lambda m: tensor_with(m, dims=[-1, -3]), "'b' has 3 values for the shape"),
    "huge size": (lambda m: tensor_with(m, dims=[2**40, 2**40]), "'b' has 3 values for the shape"),
    "more sizes": (lambda m: tensor_with(m, dims=[3, 2]), "'b' has 3 values for the shape"),
    "segments": (lambda m: m.graph.initializer[1].segment.__setattr__("begin", 0), "'b' has values in several fields"),
    "external": (
        lambda m: m.graph.initializer[1].external_data.add(key="location", value="../../etc/passwd"),
        "'b' is stored in another file",
    ),
    "another domain": (
        lambda m: (m.graph.node[2].__setattr__("domain", "evil"), opset(m, 1, "evil")),
        r"unsupported operators: y \(evil\.Relu\)",
    ),
    "another domain of a constant": (
        lambda m: (add_node(m, "Identity", ["b"], ["z"], 0), m.graph.node[0].__setattr__("domain", "evil")),
        r"unsupported operators: z \(evil\.Identity\)",
    ),
    "unknown attribute": (lambda m: attribute(m, "alpha", 0.1), "operator set 17 has no such attribute 'alpha'"),
    "attribute of another type": (
        lambda m: (m.graph.node[2].__setattr__("op_type", "Elu"), attribute(m, "alpha", 1)),
        "operator set 17 has no such attribute 'alpha'",
    ),
    "attribute twice": (
        lambda m: (m.graph.node[2].__setattr__("op_type", "Elu"), [attribute(m, "alpha", a) for a in (0.1, 0.2)]),
        "operator set 17 has no such attribute 'alpha'",
    ),
    "missing attribute": (
        lambda m: m.graph.node[2].__setattr__("op_type", "Concat"),
        r"y \(Concat\): has no attribute axis",
    ),
    "one input too many": (
        lambda m: m.graph.node[2].input.append("b"),
        r"y \(Relu\): expected 1 inputs in operator set",
    ),
    "one input too few": (
        lambda m: m.graph.node[1].input.pop(),
        r"c \(Add\): expected 2 inputs in operator set 17, got 1",
    ),
    "newer operator": (
        lambda m: m.graph.node[2].__setattr__("op_type", "Gelu"),
        r"y \(Gelu\): operator set 17 has no such operator",
    ),
    "metadata twice": (
        lambda m: [m.metadata_props.add(key="specnet.model", value=v) for v in "ab"],
        "its metadata_props have a key twice",
    ),
}


@pytest.mark.parametrize(("change", "message_pattern"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change, message_pattern):
    model = valid_model()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert [layer.type for layer in import_model(tmp_path / "m.onnx").model.spec.layers] == ["affine", "relu"]
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(specnet.CheckpointError, match=message_pattern) as caught:
        import_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "m.onnx") in str(caught.value)


def test_valid_forms_are_still_read(tmp_path):
    """Check both names of ONNX's domain, values in the field of their type, and initializers among the inputs."""
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
    for change in (
        lambda m: opset(m, 17, "ai.onnx"),
        lambda m: opset(m, 3, "ai.onnx.ml"),
        lambda m: tensor_with(m, raw_data=None, float_data=B),
        lambda m: m.graph.input.append(onnx.helper.make_tensor_value_info("b", TYPES.FLOAT, [3])),
        lambda m: m.graph.node[0].__setattr__("domain", "ai.onnx"),
    ):
        model = valid_model()
        change(model)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        assert np.allclose(import_model(tmp_path / "m.onnx").model.predict(x), np.maximum(x @ W + B, 0), atol=1e-5)


@pytest.mark.parametrize("kind", ["BatchNormalization", "LayerNormalization", "PRelu"])
def test_a_constant_as_the_first_input_is_refused(tmp_path, kind):
    """Check that the value is not taken for the input when it is the scale or the slope of a constant."""
    constants = {"BatchNormalization": "bbb", "LayerNormalization": "b", "PRelu": ""}[kind]
    model = valid_model()
    del model.graph.node[:]
    add_node(model, "MatMul", ["x", "w"], ["a"])
    add_node(model, kind, ["b", "a", *constants], ["y"])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(specnet.CheckpointError, match="its first input is a constant"):
        import_model(tmp_path / "m.onnx")


def field(number, content):
    """Return the bytes of a field of a protobuf message."""
    length = len(content)
    prefix = bytes([number << 3 | 2])
    while length > 127:
        prefix, length = prefix + bytes([length & 127 | 128]), length >> 7
    return prefix + bytes([length]) + content


@pytest.mark.parametrize(
    "inner", [b"", field(5, b""), field(5, field(5, b"") * 9)], ids=["nodes", "attributes", "deep"]
)
def test_empty_messages_are_counted_before_they_are_parsed(tmp_path, monkeypatch, inner):
    """Check the limit, which exists because a parsed node takes 75 times the two bytes of an empty one."""
    monkeypatch.setattr(wire, "MOST_FIELDS", 10_000)
    (tmp_path / "m.onnx").write_bytes(field(7, field(1, inner) * (10_000 // (1 + len(inner) // 2) + 1)))
    with pytest.raises(specnet.CheckpointError, match="has more than 10,000 fields"):
        import_model(tmp_path / "m.onnx")


def test_the_limit_on_fields_leaves_room_for_the_largest_graph(tmp_path):
    """Check that 20,000 nodes with names and attributes stay far below the limit, and are read within seconds."""
    model = valid_model()
    del model.graph.node[:]
    for index in range(19_990):
        source, target = f"a{index - 1}" if index else "x", f"a{index}" if index < 19_989 else "y"
        add_node(model, "LeakyRelu", [source], [target], alpha=0.5, name=f"/layers/layers.{index}/LeakyRelu")
    data = model.SerializeToString()
    start = time.monotonic()
    wire.check_fields("m.onnx", data, onnx.ModelProto.DESCRIPTOR)
    assert time.monotonic() - start < 10
    (tmp_path / "m.onnx").write_bytes(data)
    assert len(import_model(tmp_path / "m.onnx").model.spec.layers) == 19_990


@pytest.mark.parametrize("data", [b"\xff" * 50, b"\x80" * 5_000_000, field(7, b"\x0f"), b"\x3a\xff\xff\xff\xff\x07"])
def test_bytes_that_are_no_message_are_left_to_the_parser(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    start = time.monotonic()
    with pytest.raises(specnet.CheckpointError, match="cannot be read as ONNX"):
        import_model(tmp_path / "m.onnx")
    assert time.monotonic() - start < 5
