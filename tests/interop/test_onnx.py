"""ONNX: graphs of torch's exporters and of onnx itself come in; what ours are read back by their operators alone."""

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
    """Leave the graph alone: what another program could have written."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(layers=blocks(branching=True), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
def test_random_networks_go_out_and_come_back(tmp_path_factory, layers, seed, dtype):
    if dtype == "float64":
        layers = [layer for layer in layers if '"gelu"' not in str(layer).replace("'", '"')]
    if not layers:
        return
    model = random_model(layers, seed, dtype)
    path = tmp_path_factory.mktemp("o") / "m.onnx"
    export(path, model)
    back = import_model(path)
    assert back.model.spec == model.spec
    assert back.notes == ()
    assert same_floats(back.model, model)
    if dtype == "float64" and ("prelu" in str(layers) or "layer_norm" in str(layers)):
        return  # arithmetic, recognized with our document alone
    without_document(path)
    x = X.astype(dtype)
    by_operators, expected = import_model(path).model.predict(x), model.predict(x)
    tolerance = (1e-4 if dtype == "float32" else 1e-11) * max(1, np.abs(expected).max())
    assert np.abs(by_operators - expected).max() <= tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
def test_layers_are_recognized_by_their_operators(tmp_path, entry, dtype):
    text = str(entry)
    if "rms_norm" in text:
        pytest.skip("in ONNX 18 an rms_norm is arithmetic that other things are, too")
    if dtype == "float64" and ("prelu" in text or "layer_norm" in text):
        pytest.skip("in float64 its parts are recognized with our document alone")
    if dtype == "float64" and "'gelu'" in text and "tanh" not in text:
        pytest.skip("ONNX Runtime has no exact gelu in float64")
    model = random_model([{"type": "affine", "units": 5}, entry, {"type": "affine", "units": 2}], 3, dtype)
    export(tmp_path / "m.onnx", model)
    without_document(tmp_path / "m.onnx")
    found = import_model(tmp_path / "m.onnx").model
    x = X.astype(dtype)
    assert np.abs(found.predict(x) - model.predict(x)).max() < (2e-5 if dtype == "float32" else 1e-12)
    if entry["type"] not in ("dropout", "reshape", "flatten", "sequential", "nested"):
        assert found.spec.layers[1].type == entry["type"]
        ours, theirs = (
            {k: v for k, v in m.spec.layers[1].fields().items() if isinstance(v, float)} for m in (model, found)
        )
        assert all(abs(ours[k] - theirs[k]) < 1e-6 for k in ours.keys() & theirs.keys() if k != "epsilon")


def test_torchs_exporters(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which torch's exporter needs, is not installed")
    nn = torch.nn

    class Join(nn.Module):
        def __init__(self, *ways):
            super().__init__()
            self.ways = nn.ModuleList(ways)

        def forward(self, x):
            return torch.cat([way(x) for way in self.ways] + [x], -1)

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
        found = import_model(tmp_path / "m.onnx").model
        with torch.no_grad():
            assert np.abs(network(x).numpy() - found.predict(x.numpy())).max() < 1e-6, activation


def test_random_networks_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn

    class Around(nn.Module):
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
                Around(nn.Sequential(nn.Linear(width, units), nn.Tanh(), nn.Linear(units, width))),
            ]
            layers.append(choices[kind])
            width = units if kind == 0 else width
        network = nn.Sequential(nn.Linear(5, 5), *layers)
        with torch.no_grad():
            for _ in range(3):
                network(torch.randn(16, 5))  # moves running statistics
        network.eval()
        x = torch.randn(6, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=False, **names)
        with torch.no_grad():
            expected = network(x).numpy()
        assert np.abs(import_model(tmp_path / "m.onnx").model.predict(x.numpy()) - expected).max() < 1e-5, network


def graph(nodes, constants, shape=("n", 4), elem=onnx.TensorProto.FLOAT, outputs=("y",), **more):
    """Write the bytes of a model with these nodes."""
    value = onnx.helper.make_tensor_value_info
    arrays = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    made = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in nodes],
        "g",
        [value("x", elem, list(shape))],
        [value(name, elem, None) for name in outputs],
        arrays,
    )
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], **more).SerializeToString()


W = np.arange(12, dtype="f4").reshape(4, 3)


@pytest.mark.parametrize(
    ("nodes", "constants", "told"),
    [
        ([("Conv", ["x", "w"], "y", {})], {"w": W}, r"specnet has nothing for: y \(Conv\)"),
        ([("Gemm", ["x", "w"], "y", {"alpha": 2.0})], {"w": W}, r"y \(Gemm\): alpha, beta and transA"),
        ([("MatMul", ["w", "x"], "y", {})], {"w": W}, r"y \(MatMul\): a constant from the left"),
        ([("MatMul", ["x", "w"], "y", {})], {"w": np.ones((2, 4, 3), "f4")}, "a weight of shape"),
        (
            [("MatMul", ["x", "w"], "y", {})],
            {"w": np.ones((5, 3), "f4")},
            r"affine_1.weight: expected float32 of shape",
        ),
        ([("Mul", ["x", "x"], "y", {})], {}, r"y \(Mul\) joins values"),
        ([("Mul", ["x", "w"], "y", {})], {"w": np.ones(4, "f4")}, "is no part of an activation that specnet knows"),
        ([("Add", ["x", "x"], "y", {})], {}, "adds a value to itself"),
        ([("Softmax", ["x"], "y", {"axis": 0})], {}, "another axis than the last"),
        ([("Flatten", ["x"], "y", {"axis": 0})], {}, "joins the batch's axis"),
        ([("Reshape", ["x", "s"], "y", {})], {"s": np.array([2, -1])}, "changes the batch's axis"),
        ([("Gemm", ["x", "w", "b"], "y", {})], {"w": W, "b": np.ones(7, "f4")}, r"a constant of shape \(7,\)"),
        ([("Relu", ["z"], "y", {})], {}, "does not come from the input"),
        ([("Relu", ["x"], "y", {}), ("Tanh", ["x"], "y", {})], {}, "two origins"),
        ([("Identity", ["x"], "y", {})], {}, "computes nothing that is a layer"),
        ([("Relu", ["x"], "z", {}), ("Identity", ["w"], "y", {})], {"w": W}, "does not depend on its input"),
        ([("PRelu", ["x", "w"], "y", {})], {"w": np.ones((4, 1), "f4")}, r"a constant of shape \(4, 1\)"),
        ([("MatMul", ["x", "w"], "y", {})], {"w": W.astype("f2").view("u2")}, "is of data type 4"),
        ([("Elu", ["x"], "y", {"alpha": float("inf")})], {}, r"y \(Elu\): makes no valid model"),
        ([("Dropout", ["x", "r"], "y", {})], {"r": np.float32(1.5)}, r"y \(Dropout\): makes no valid model"),
    ],
)
def test_what_is_no_layer_is_refused_by_name(tmp_path, nodes, constants, told):
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants))
    with pytest.raises(specnet.CheckpointError, match=told) as caught:
        import_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


ONES = np.ones(4, "f4")


@pytest.mark.parametrize(
    ("nodes", "constants", "options", "told"),
    [
        ([("Cast", ["x"], "c", {"to": 7}), ("Cast", ["c"], "y", {"to": 1})], {}, {},
         "to INT64 changes what is computed"),
        ([("Relu", ["x"], "r", {}), ("Min", ["r", "c"], "y", {})], {"c": np.float32(20)}, {},
         "no part of an activation"),
        ([("Max", ["x", "c"], "m", {}), ("Relu", ["m"], "y", {})], {"c": np.float32(-15)}, {},
         "no part of an activation"),
        ([("Relu", ["x"], "r", {}), ("Concat", ["r", "c", "x"], "y", {"axis": 1})], {"c": np.ones((1, 2), "f4")}, {},
         "joins a constant"),
        ([("Add", ["x", "c"], "y", {})], {"c": np.ones((1, 1, 4), "f4")}, {}, r"a constant of shape \(1, 1, 4\)"),
        ([("Relu", ["x"], "r", {}), ("Reshape", ["r", "s"], "y", {})], {"s": np.array([1, -1])}, {"shape": (3, 4)},
         "changes the batch's axis"),
        ([("Div", ["x", "c"], "d", {}), ("Cast", ["d"], "y", {"to": 1})], {"c": np.int64(3)}, {"elem": 7},
         "computes with integers"),
        ([("BatchNormalization", ["x", *"smmv"], "y", {"training_mode": 1})],
         {"s": ONES, "m": ONES, "v": ONES}, {}, "was exported for training"),
        ([("Dropout", ["x", "r", "t"], "y", {})], {"r": np.float32(0.5), "t": np.bool_(True)}, {},
         "was exported for training"),
        ([("Relu", ["x"], "y", {})], {}, {"shape": ("n", 300_000_000)}, "takes inputs of 300,000,000 numbers"),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused(tmp_path, nodes, constants, options, told):
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants, **options))
    with pytest.raises(specnet.CheckpointError, match=told):
        import_model(tmp_path / "m.onnx")


def test_constants_are_computed_with(tmp_path):
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
    found = import_model(tmp_path / "m.onnx").model
    assert [layer.type for layer in found.spec.layers] == ["affine", "standardize", "dropout"]
    x = X[:, :4].astype("f4")
    expected = (x @ W + np.array([1.5, 2.5, 3.5], "f4") - np.float32(1.5e-6)) / np.float32(1e-6)
    assert np.allclose(found.predict(x), expected, rtol=1e-5)


def test_graphs_that_are_made_to_take_for_ever_are_refused_soon(tmp_path):
    diamonds = [("Relu", ["x"], "b0", {}), ("Gemm", ["x", "w"], "a0", {})]
    for n in range(1, 26):
        diamonds.append(("Add", [f"a{n - 1}", f"b{n - 1}"], f"a{n}", {}))
        diamonds += [("Relu", [f"a{n - 1}"], f"r{n}", {}), ("Add", [f"r{n}", f"b{n - 1}"], f"b{n}", {})]
    diamonds.append(("Add", ["a25", "b25"], "y", {}))
    maxima = [("Sub", ["x", "c"], "v0", {})]
    maxima += [("Max", [f"v{n - 1}"] * 8, f"v{n}" if n < 20 else "y", {}) for n in range(1, 21)]
    for nodes, constants in ((diamonds, {"w": np.eye(4, dtype="f4")}), (maxima, {"c": np.arange(4, dtype="f4")})):
        (tmp_path / "m.onnx").write_bytes(graph(nodes, constants))
        begun = time.monotonic()
        with pytest.raises(specnet.CheckpointError):
            import_model(tmp_path / "m.onnx")
        assert time.monotonic() - begun < 30


def test_a_weight_that_is_shared_is_told(tmp_path):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["a", "w"], "y", {})]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, {"w": np.eye(4, dtype="f4")}))
    assert import_model(tmp_path / "m.onnx").notes == (
        "w is used more than once; each use is trained on its own from now on",
    )


def test_ways_of_writing_the_same(tmp_path):
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
    found = import_model(tmp_path / "m.onnx").model
    assert [layer.type for layer in found.spec.layers] == ["standardize", "affine", "relu", "standardize"]
    x = X[:, :4].astype("f4")
    assert np.allclose(found.predict(x), np.maximum((x - mean) / 2 @ W + bias, 0) + 1, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shape": ("n", "m")}, r"its input has shape \(0, 0\)"),
        ({"shape": (None, 4, None)}, "needs all sizes but the first"),
        ({"elem": onnx.TensorProto.FLOAT16}, "expected float or double"),
        ({"outputs": ("y", "x")}, "1 inputs and 2 outputs"),
    ],
)
def test_inputs_and_outputs(tmp_path, options, told):
    (tmp_path / "m.onnx").write_bytes(graph([("Relu", ["x"], "y", {})], {}, **options))
    with pytest.raises(specnet.CheckpointError, match=told):
        import_model(tmp_path / "m.onnx")


def test_nothing_outside_the_file_is_read(tmp_path):
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
        assert "m.onnx: 'w' lies in another file; save the model as one file" in err
    model = onnx.load_from_string(graph([("MatMul", ["x", "w"], "y", {})], {"w": W}))
    model.graph.initializer[0].dims[0] = 2**40  # a claim of terabytes
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(specnet.CheckpointError, match="'w' holds 12 values for the shape"):
        import_model(tmp_path / "m.onnx")


def test_an_edited_graph_decides_over_the_document_inside(tmp_path):
    model = random_model([{"type": "affine", "units": 3}, {"type": "relu"}], 1)
    export(tmp_path / "m.onnx", model)
    edited = onnx.load(tmp_path / "m.onnx")
    next(node for node in edited.graph.node if node.op_type == "Relu").op_type = "Tanh"
    onnx.save(edited, tmp_path / "m.onnx")
    found = import_model(tmp_path / "m.onnx")
    assert found.model.spec.layers[1].type == "tanh"
    assert found.notes == ("its specnet document is of another graph than this, which was taken",)
    assert same_floats(found.model, model)


@pytest.mark.parametrize("data", [b"", b"\x08", b"no protobuf at all", bytes(1000)])
def test_what_is_no_onnx(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "m.onnx")
