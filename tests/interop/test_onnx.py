"""Test ONNX: graphs from torch and onnx are imported; our exports are also read back without their document."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import blocks, random_model, same_floats
from tests.support import LAYERS
from tests.test_cli import run

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
X = np.random.default_rng(1).normal(size=(7, 5))


def without_document(path):
    """Remove the specnet document from a file, so that it could come from another program."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


@settings(
    max_examples=settings().max_examples // 4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(layers=blocks(branching=True), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
def test_random_networks_round_trip_through_onnx(tmp_path_factory, layers, seed, dtype):
    if dtype == "float64":
        layers = [layer for layer in layers if '"gelu"' not in str(layer).replace("'", '"')]
    if not layers:
        return
    model = random_model(layers, seed, dtype)
    path = tmp_path_factory.mktemp("o") / "m.onnx"
    export(path, model)
    imported = import_model(path)
    assert imported.model.spec == model.spec
    assert imported.notes == ()
    assert same_floats(imported.model, model)
    if dtype == "float64" and ("prelu" in str(layers) or "layer_norm" in str(layers)):
        return  # exported as arithmetic, which only our document identifies
    without_document(path)
    x = X.astype(dtype)
    by_operators, expected = import_model(path).model.predict(x), model.predict(x)
    tolerance = (1e-4 if dtype == "float32" else 1e-11) * max(1, np.abs(expected).max())
    assert np.abs(by_operators - expected).max() <= tolerance


NOT_UNIQUE: set[str] = set()
"""Layer types that ONNX can only spell out in operators, from which they are not recognized without our document."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
def test_layers_are_recognized_without_our_document(tmp_path, entry, dtype):
    text = str(entry)
    if entry["type"] in NOT_UNIQUE:
        pytest.skip("it is exported as arithmetic that only our document identifies")
    if "rms_norm" in text:
        pytest.skip("in ONNX opset 18 an rms_norm is exported as arithmetic that is not unique to it")
    if dtype == "float64" and ("prelu" in text or "layer_norm" in text):
        pytest.skip("in float64 it is exported as arithmetic that only our document identifies")
    if dtype == "float64" and "'gelu'" in text and "tanh" not in text:
        pytest.skip("ONNX Runtime has no exact gelu in float64")
    model = random_model([{"type": "affine", "units": 5}, entry, {"type": "affine", "units": 2}], 3, dtype)
    export(tmp_path / "m.onnx", model)
    without_document(tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx").model
    x = X.astype(dtype)
    assert np.abs(imported.predict(x) - model.predict(x)).max() < (2e-5 if dtype == "float32" else 1e-12)
    if entry["type"] not in ("dropout", "reshape", "flatten", "sequential", "nested"):
        assert imported.spec.layers[1].type == entry["type"]
        exported_settings, imported_settings = (
            {k: v for k, v in m.spec.layers[1].fields().items() if isinstance(v, float)} for m in (model, imported)
        )
        assert all(
            abs(exported_settings[k] - imported_settings[k]) < 1e-6
            for k in exported_settings.keys() & imported_settings.keys()
            if k != "epsilon"
        )


def test_graphs_exported_by_torch_are_imported(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which torch's exporter needs, is not installed")
    nn = torch.nn

    class Join(nn.Module):
        def __init__(self, *branches):
            super().__init__()
            self.branches = nn.ModuleList(branches)

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.branches] + [x], -1)

    activations = [
        *(nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(0.5), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish()),
        *(nn.Softplus(), nn.Softplus(2.0), nn.Sigmoid(), nn.Tanh(), nn.Softmax(-1), nn.LogSoftmax(-1), nn.PReLU(5)),
        *(nn.PReLU(), nn.Dropout(), nn.BatchNorm1d(5), nn.LayerNorm(5), nn.Flatten(), nn.Identity()),
        Join(nn.Linear(5, 2), nn.Tanh()),
    ]
    x = torch.randn(4, 6)
    for activation in activations:
        width = 12 if isinstance(activation, Join) else 5
        network = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(width, 3)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=False, **names)
        imported = import_model(tmp_path / "m.onnx").model
        with torch.no_grad():
            assert np.abs(network(x).numpy() - imported.predict(x.numpy())).max() < 1e-6, activation


def test_random_torch_networks_are_imported(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn

    class ResidualBlock(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return x + self.body(x)

    rng = np.random.default_rng(0)
    for seed in range(12):
        torch.manual_seed(seed)
        width, layers = 5, []
        for kind in rng.integers(0, 8, 6):
            units = int(rng.integers(2, 7))
            choices = [
                nn.Linear(width, units),
                *(nn.ReLU(), nn.GELU(), nn.Mish(), nn.PReLU(width), nn.LayerNorm(width), nn.BatchNorm1d(width)),
                ResidualBlock(nn.Sequential(nn.Linear(width, units), nn.Tanh(), nn.Linear(units, width))),
            ]
            layers.append(choices[kind])
            width = units if kind == 0 else width
        network = nn.Sequential(nn.Linear(5, 5), *layers)
        with torch.no_grad():
            for _ in range(3):
                network(torch.randn(16, 5))  # changes the running statistics
        network.eval()
        x = torch.randn(6, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=False, **names)
        with torch.no_grad():
            expected = network(x).numpy()
        assert np.abs(import_model(tmp_path / "m.onnx").model.predict(x.numpy()) - expected).max() < 1e-5, network


def graph(nodes, constants, shape=("n", 4), elem=onnx.TensorProto.FLOAT, outputs=("y",), **options):
    """Return the bytes of an ONNX model with these nodes."""
    value = onnx.helper.make_tensor_value_info
    arrays = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    onnx_graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in nodes],
        "g",
        [value("x", elem, list(shape))],
        [value(name, elem, None) for name in outputs],
        arrays,
    )
    return onnx.helper.make_model(
        onnx_graph, opset_imports=[onnx.helper.make_opsetid("", 17)], **options
    ).SerializeToString()


W = np.arange(12, dtype="f4").reshape(4, 3)


@pytest.mark.parametrize(
    ("nodes", "constants", "message_pattern"),
    [
        ([("LRN", ["x"], "y", {"size": 3})], {}, r"contains unsupported operators: y \(LRN\)"),
        ([("Gemm", ["x", "w"], "y", {"alpha": 2.0})], {"w": W}, r"y \(Gemm\): alpha, beta and transA"),
        ([("MatMul", ["w", "x"], "y", {})], {"w": W}, r"y \(MatMul\): the left operand is a constant"),
        ([("MatMul", ["x", "w"], "y", {})], {"w": np.ones((2, 4, 3), "f4")}, "expected a weight of rank 2"),
        (
            [("MatMul", ["x", "w"], "y", {})],
            {"w": np.ones((5, 3), "f4")},
            r"affine_1.weight: expected float32 of shape",
        ),
        ([("Mul", ["x", "x"], "y", {})], {}, r"y \(Mul\) combines values"),
        (
            [("Mul", ["x", "w"], "y", {})],
            {"w": np.ones(4, "f4")},
            "is not part of an activation that specnet recognizes",
        ),
        ([("Add", ["x", "x"], "y", {})], {}, "adds a value to itself"),
        ([("Softmax", ["x"], "y", {"axis": 0})], {}, "another axis than that of the channels"),
        ([("Flatten", ["x"], "y", {"axis": 0})], {}, "merges the batch axis"),
        ([("Reshape", ["x", "s"], "y", {})], {"s": np.array([2, -1])}, "changes the batch axis"),
        ([("Gemm", ["x", "w", "b"], "y", {})], {"w": W, "b": np.ones(7, "f4")}, r"a constant of shape \(7,\)"),
        ([("Relu", ["z"], "y", {})], {}, "does not depend on the graph's input"),
        ([("Relu", ["x"], "y", {}), ("Tanh", ["x"], "y", {})], {}, "is produced twice"),
        ([("Identity", ["x"], "y", {})], {}, "contains no operator that becomes a layer"),
        ([("Relu", ["x"], "z", {}), ("Identity", ["w"], "y", {})], {"w": W}, "does not depend on its input"),
        ([("PRelu", ["x", "w"], "y", {})], {"w": np.ones((4, 1), "f4")}, r"a constant of shape \(4, 1\)"),
        (
            [("MatMul", ["x", "w"], "y", {})],
            {"w": W.astype("f2").view("u2")},
            "expected floats or integers, got data type 4",
        ),
        ([("Elu", ["x"], "y", {"alpha": float("inf")})], {}, r"y \(Elu\): does not form a valid model"),
        ([("Dropout", ["x", "r"], "y", {})], {"r": np.float32(1.5)}, r"y \(Dropout\): does not form a valid model"),
    ],
)
def test_unsupported_operators_are_rejected_by_name(tmp_path, nodes, constants, message_pattern):
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants))
    with pytest.raises(specnet.CheckpointError, match=message_pattern) as caught:
        import_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


ONES = np.ones(4, "f4")


@pytest.mark.parametrize(
    ("nodes", "constants", "options", "message_pattern"),
    [
        ([("Cast", ["x"], "c", {"to": 7}), ("Cast", ["c"], "y", {"to": 1})], {}, {},
         "casting to INT64 changes the values"),
        ([("Relu", ["x"], "r", {}), ("Min", ["r", "c"], "y", {})], {"c": np.float32(20)}, {},
         "not part of an activation"),
        ([("Max", ["x", "c"], "m", {}), ("Relu", ["m"], "y", {})], {"c": np.float32(-15)}, {},
         "not part of an activation"),
        ([("Relu", ["x"], "r", {}), ("Concat", ["r", "c", "x"], "y", {"axis": 1})], {"c": np.ones((1, 2), "f4")}, {},
         "has a constant among its inputs"),
        ([("Add", ["x", "c"], "y", {})], {"c": np.ones((1, 1, 4), "f4")}, {}, r"a constant of shape \(1, 1, 4\)"),
        ([("Relu", ["x"], "r", {}), ("Reshape", ["r", "s"], "y", {})], {"s": np.array([1, -1])}, {"shape": (3, 4)},
         "changes the batch axis"),
        ([("Div", ["x", "c"], "d", {}), ("Cast", ["d"], "y", {"to": 1})], {"c": np.int64(3)}, {"elem": 7},
         "computes with integers"),
        ([("BatchNormalization", ["x", *"smmv"], "y", {"training_mode": 1})],
         {"s": ONES, "m": ONES, "v": ONES}, {}, "was exported for training"),
        ([("Dropout", ["x", "r", "t"], "y", {})], {"r": np.float32(0.5), "t": np.bool_(True)}, {},
         "was exported for training"),
        ([("Relu", ["x"], "y", {})], {}, {"shape": ("n", 300_000_000)}, "takes inputs of 300,000,000 numbers"),
    ],
)  # fmt: skip
def test_operators_that_would_change_the_predictions_are_rejected(tmp_path, nodes, constants, options, message_pattern):
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants, **options))
    with pytest.raises(specnet.CheckpointError, match=message_pattern):
        import_model(tmp_path / "m.onnx")


def test_constant_expressions_are_evaluated(tmp_path):
    nodes = [
        ("Add", ["a", "b"], "c", {}),
        ("Cast", ["half"], "w", {"to": 1}),
        ("MatMul", ["x", "w"], "m", {}),
        ("Add", ["m", "c"], "n", {}),
        ("Sub", ["n", "little"], "o", {}),
        ("Div", ["o", "less"], "p", {}),
        ("Dropout", ["p", "ratio", "no"], "y", {}),
    ]
    constants = {"a": np.array([1, 2, 3], "f4"), "b": np.float32(0.5), "half": W.astype("f2")}
    constants |= {
        "little": np.float32(1.5e-6),
        "less": np.float32(1e-6),
        "ratio": np.float32(0.1),
        "no": np.bool_(False),
    }
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants))
    imported = import_model(tmp_path / "m.onnx").model
    assert [layer.type for layer in imported.spec.layers] == ["affine", "standardize", "dropout"]
    x = X[:, :4].astype("f4")
    expected = (x @ W + np.array([1.5, 2.5, 3.5], "f4") - np.float32(1.5e-6)) / np.float32(1e-6)
    assert np.allclose(imported.predict(x), expected, rtol=1e-5)


def test_graphs_of_exponential_size_are_rejected_quickly(tmp_path):
    diamonds = [("Relu", ["x"], "b0", {}), ("Gemm", ["x", "w"], "a0", {})]
    for n in range(1, 26):
        diamonds.append(("Add", [f"a{n - 1}", f"b{n - 1}"], f"a{n}", {}))
        diamonds += [("Relu", [f"a{n - 1}"], f"r{n}", {}), ("Add", [f"r{n}", f"b{n - 1}"], f"b{n}", {})]
    diamonds.append(("Add", ["a25", "b25"], "y", {}))
    maxima = [("Sub", ["x", "c"], "v0", {})]
    maxima += [("Max", [f"v{n - 1}"] * 8, f"v{n}" if n < 20 else "y", {}) for n in range(1, 21)]
    for nodes, constants in ((diamonds, {"w": np.eye(4, dtype="f4")}), (maxima, {"c": np.arange(4, dtype="f4")})):
        (tmp_path / "m.onnx").write_bytes(graph(nodes, constants))
        start = time.monotonic()
        with pytest.raises(specnet.CheckpointError):
            import_model(tmp_path / "m.onnx")
        assert time.monotonic() - start < 30


def test_a_shared_weight_is_reported(tmp_path):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["a", "w"], "y", {})]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, {"w": np.eye(4, dtype="f4")}))
    assert import_model(tmp_path / "m.onnx").notes == ("w is used more than once; each use is now trained separately",)


def test_equivalent_operators_become_the_same_layers(tmp_path):
    bias, mean = np.arange(3, dtype="f4"), np.array([1, 2, 3, 4], "f4")
    nodes = [
        ("Sub", ["x", "mean"], "a", {}),
        ("Div", ["a", "std"], "b", {}),
        ("Cast", ["b"], "c", {"to": 1}),
        ("Transpose", ["wt"], "w", {}),
        ("MatMul", ["c", "w"], "d", {}),
        ("Add", ["bias", "d"], "e", {}),
        ("Max", ["e", "zero"], "f", {}),
        ("Add", ["f", "one"], "y", {}),
    ]
    constants = {"mean": mean, "std": np.float32(2), "wt": W.T.copy(), "bias": bias, "zero": np.float32(0)}
    (tmp_path / "m.onnx").write_bytes(graph(nodes, {**constants, "one": np.float32(1)}))
    imported = import_model(tmp_path / "m.onnx").model
    assert [layer.type for layer in imported.spec.layers] == ["standardize", "affine", "relu", "standardize"]
    x = X[:, :4].astype("f4")
    assert np.allclose(imported.predict(x), np.maximum((x - mean) / 2 @ W + bias, 0) + 1, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message_pattern"),
    [
        ({"shape": ("n", "m")}, r"its input has shape \(0, 0\)"),
        ({"shape": (None, 4, None)}, "needs every size except the first"),
        ({"elem": onnx.TensorProto.FLOAT16}, "expected float or double"),
        ({"outputs": ("y", "x")}, "1 inputs and 2 outputs"),
    ],
)
def test_unsupported_inputs_and_outputs_are_rejected(tmp_path, options, message_pattern):
    (tmp_path / "m.onnx").write_bytes(graph([("Relu", ["x"], "y", {})], {}, **options))
    with pytest.raises(specnet.CheckpointError, match=message_pattern):
        import_model(tmp_path / "m.onnx")


def test_external_data_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(W.tobytes())
    for place in ("initializer", "constant"):
        model = onnx.load_from_string(graph([("MatMul", ["x", "w"], "y", {})], {"w": W}))
        tensor = model.graph.initializer[0]
        if place == "constant":
            node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
            model.graph.node.insert(0, node)
            del model.graph.initializer[:]
            tensor = model.graph.node[0].attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "secret"
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        _, err = run("import", "m.onnx", "--out", "m.h5", cwd=tmp_path, code=1)
        assert "m.onnx: 'w' is stored in another file; save the model as one file" in err
    model = onnx.load_from_string(graph([("MatMul", ["x", "w"], "y", {})], {"w": W}))
    model.graph.initializer[0].dims[0] = 2**40  # declares terabytes
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(specnet.CheckpointError, match="'w' has 12 values for the shape"):
        import_model(tmp_path / "m.onnx")


def test_an_edited_graph_takes_precedence_over_the_document(tmp_path):
    model = random_model([{"type": "affine", "units": 3}, {"type": "relu"}], 1)
    export(tmp_path / "m.onnx", model)
    edited = onnx.load(tmp_path / "m.onnx")
    next(node for node in edited.graph.node if node.op_type == "Relu").op_type = "Tanh"
    onnx.save(edited, tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx")
    assert imported.model.spec.layers[1].type == "tanh"
    assert imported.notes == (
        "its specnet document describes another graph than the file contains; the graph was used",
    )
    assert same_floats(imported.model, model)


@pytest.mark.parametrize("data", [b"", b"\x08", b"no protobuf at all", bytes(1000)])
def test_files_that_are_not_onnx_are_rejected(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "m.onnx")
