"""Test layers over sequences in ONNX: exports, what is read back, and graphs of torch."""

import itertools
import warnings

import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import random_model, same_floats
from tests.interop.test_onnx import graph, without_document
from tests.support import SEQUENCE_LAYERS

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
RECURRENT = ("simple_rnn", "lstm", "gru", "bidirectional")
ONLY_INITIAL = ("unit_forget_bias", "dropout", "mask_index")
"""Fields that a graph does not have."""


def inputs_of(model, rows=4):
    rng = np.random.default_rng(0)
    if model.input_dtype.kind == "i":
        return rng.integers(0, 7, (rows, *model.input_shape))
    return rng.normal(size=(rows, *model.input_shape)).astype(model.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("entry", "shape"), SEQUENCE_LAYERS.values(), ids=SEQUENCE_LAYERS.keys())
def test_every_layer_is_exported_and_read_back(tmp_path, entry, shape, dtype):
    model = random_model([entry], 3, dtype, shape)
    if dtype == "float64" and entry["type"] in RECURRENT:
        kind = entry.get("layers", [entry])[0]["type"]
        message = f"{entry['type']}_1: ONNX Runtime has no {kind} in float64; train in float32"
        with pytest.raises(specnet.SpecnetError, match=message):
            export(tmp_path / "m.onnx", model)
        assert list(tmp_path.iterdir()) == []
        return
    assert export(tmp_path / "m.onnx", model).difference <= {"float32": 1e-6, "float64": 2e-14}[dtype]
    imported = import_model(tmp_path / "m.onnx")
    assert imported.model.spec == model.spec
    assert imported.notes == ()
    assert same_floats(imported.model, model)


@pytest.mark.parametrize(("entry", "shape"), SEQUENCE_LAYERS.values(), ids=SEQUENCE_LAYERS.keys())
def test_layers_are_recognized_without_our_document(tmp_path, entry, shape):
    if entry["type"] == "mask":
        pytest.skip("it is left out of the graph")
    model = random_model([entry], 3, "float32", shape)
    export(tmp_path / "m.onnx", model)
    without_document(tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx").model
    x = inputs_of(model)
    assert np.abs(imported.predict(x) - model.predict(x)).max() < 1e-6
    (layer,) = imported.spec.layers
    assert layer.type == {"time_average": "global_average_pool"}.get(entry["type"], entry["type"])
    if layer.type not in ("bidirectional", "positional_encoding", "attention"):  # length and key_size become numbers
        assert all(layer.fields()[key] == entry[key] for key in entry if key not in ("type", *ONLY_INITIAL))


NETS = {
    "stack": (
        [{"type": "lstm", "units": 20, "return_sequences": True}, {"type": "dropout"}, {"type": "layer_norm"},
         {"type": "bidirectional", "layers": [{"type": "gru", "units": 16, "return_sequences": True}]},
         {"type": "affine", "units": 8}, {"type": "relu"}, {"type": "simple_rnn", "units": 6}, {"type": "softmax"}],
        (48, 5),
    ),
    "transformer": (
        [{"type": "embedding", "vocabulary": 9, "dimension": 8}, {"type": "positional_encoding", "kind": "learned"},
         {"type": "residual", "layers": [{"type": "layer_norm"}, {"type": "attention", "heads": 2, "causal": True}]},
         {"type": "residual", "layers": [{"type": "layer_norm"}, {"type": "affine", "units": 16}, {"type": "gelu"},
                                         {"type": "affine", "units": 8}]},
         {"type": "attention", "heads": 2, "key_size": 3}, {"type": "affine", "units": 9}],
        (12,),
    ),
    "convolutions": (
        [{"type": "conv1d", "filters": 4, "kernel_size": 3}, {"type": "relu"},
         {"type": "gru", "units": 3, "return_sequences": True, "reverse": True}, {"type": "max_pool1d"},
         {"type": "positional_encoding"}, {"type": "attention", "heads": 1}, {"type": "last_step"},
         {"type": "affine", "units": 2}],
        (10, 3),
    ),
    "branches": (
        [{"type": "concat", "branches": [[{"type": "lstm", "units": 3}], [{"type": "last_step"}],
                                         [{"type": "global_average_pool"}]]}, {"type": "affine", "units": 2}],
        (6, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "shape"), NETS.values(), ids=NETS.keys())
def test_networks_are_recognized_without_our_document(tmp_path, layers, shape):
    model = random_model(layers, 1, "float32", shape)
    export(tmp_path / "m.onnx", model)
    assert import_model(tmp_path / "m.onnx").model.spec == model.spec
    without_document(tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx")
    assert imported.notes == ()
    found, written = ([layer.type for layer in m.spec.layers] for m in (imported.model, model))
    assert found == [kind for kind in written if kind != "dropout"]
    x = inputs_of(model)
    assert np.abs(imported.model.predict(x) - model.predict(x)).max() < 1e-5


def test_random_settings_round_trip(tmp_path, full):
    rng = np.random.default_rng(7)
    for case in range(200 if full else 20):
        kind = str(rng.choice(["simple_rnn", "lstm", "gru"]))
        flags = {key: bool(rng.integers(0, 2)) for key in ("return_sequences", "bias")}
        entry = {"type": kind, "units": int(rng.integers(1, 9)), **flags}
        entry |= {"reset_after": bool(rng.integers(0, 2))} if kind == "gru" else {}
        both = {"type": "bidirectional", "layers": [entry]}
        entry = both if rng.integers(0, 2) else {**entry, "reverse": bool(rng.integers(0, 2))}
        model = random_model([entry], case, "float32", (int(rng.integers(1, 40)), int(rng.integers(1, 9))))
        assert export(tmp_path / "m.onnx", model).difference < 2e-6
        assert same_floats(import_model(tmp_path / "m.onnx").model, model), entry
        without_document(tmp_path / "m.onnx")
        x = inputs_of(model)
        assert (import_model(tmp_path / "m.onnx").model.predict(x) == model.predict(x)).all(), entry


def test_a_mask_that_a_layer_takes_is_not_exported(tmp_path):
    mask, tokens = {"type": "mask"}, {"type": "embedding", "vocabulary": 5, "dimension": 3, "mask_index": 0}
    for layers, shape, message in (
        ([mask, {"type": "lstm", "units": 2}], (4, 3), "mask_1: ONNX has no mask, but lstm_1 leaves out the padding"),
        ([tokens, {"type": "affine", "units": 2}, {"type": "time_average"}], (4,), "embedding_1: .*but time_average_1"),
        ([tokens, {"type": "residual", "layers": [{"type": "attention", "heads": 1}]}], (4,), "residual_1.attention_1"),
    ):
        with pytest.raises(specnet.SpecnetError, match=f"{message}.*without the mask, for sequences without padding"):
            export(tmp_path / "m.onnx", random_model(layers, 1, "float32", shape))
    export(tmp_path / "m.onnx", random_model([tokens, {"type": "affine", "units": 2}], 1, "float32", (4,)))


def torch_network(nn, rnn, way):
    import torch

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnn
            is_joined = rnn.bidirectional and way not in ("last state", "only state")
            self.out = nn.Linear(rnn.hidden_size * (1 + is_joined), 3)

        def forward(self, x):
            y, h = self.rnn(x)
            h = h[0] if isinstance(h, tuple) else h
            ways = {
                "sequences": lambda: torch.relu(y),
                "last step": lambda: y[:, -1],
                "mean": lambda: y.mean(1),
                "last state": lambda: h[-1],
                "only state": lambda: h.squeeze(0),
                "both states": lambda: torch.cat([h[-2], h[-1]], 1),
            }
            return self.out(ways[way]())

    return Network().eval()


def torch_cases(nn):
    for kind, layers, both, bias, fixed in itertools.product(
        (nn.LSTM, nn.GRU, nn.RNN), (1, 2), (False, True), (True, False), (False, True)
    ):
        settings = {"nonlinearity": "relu"} if kind is nn.RNN and layers == 2 else {}
        states = ["both states"] if both else ["last state", *(["only state"] if layers == 1 else [])]
        for way in ("sequences", "last step", "mean", *states):
            yield kind(4, 6, layers, batch_first=True, bidirectional=both, bias=bias, **settings), way, fixed


def test_networks_exported_by_torch_are_imported(tmp_path, full):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4)
    cases = list(torch_cases(torch.nn))
    for rnn, way, fixed in cases if full else cases[::9]:
        network = torch_network(torch.nn, rnn, way)
        names = {"input_names": ["x"], "dynamic_axes": None if fixed else {"x": {0: "n"}}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=False, **names)
        imported = import_model(tmp_path / "m.onnx")
        assert imported.notes == ()
        with torch.no_grad():
            assert np.abs(imported.model.predict(x.numpy()) - network(x).numpy()).max() < 1e-6, (rnn, way)
        export(tmp_path / "again.onnx", imported.model)


W, R, B = np.ones((1, 8, 3), "f4"), np.ones((1, 8, 2), "f4"), np.ones((1, 16), "f4")
TURN = ("Transpose", ["x"], "t", {"perm": [1, 0, 2]})


def lstm(*more, source="t", **attributes):
    return ("LSTM", [source, "w", "r", *more], "s", attributes)


def ends(*nodes, start="s"):
    """Return the end of a graph with the last states: (directions, batch, units)."""
    return [*nodes] if nodes else [("Squeeze", [start, "one"], "q", {}), ("Transpose", ["q"], "y", {"perm": [1, 0, 2]})]


ONE, ONES = {"one": np.array([1])}, onnx.numpy_helper.from_array(np.ones(1, "f4"))
FAULTS = {
    "axes of the input": ([lstm(source="x"), *ends()], {}, r"takes \(time, batch, features\), but its input has other"),
    "features": ([TURN, lstm(), *ends()], {"w": np.ones((1, 8, 4), "f4")}, r"expected W of shape \(1, 8, 3\), got"),
    "units": ([TURN, lstm(), *ends()], {"r": np.ones((1, 8, 3), "f4")}, r"expected W of shape \(1, 12, 3\), got"),
    "no units": ([TURN, lstm(), *ends()], {"w": W[:, :0], "r": np.ones((1, 0, 0), "f4")}, "expected W of shape"),
    "rank": ([TURN, lstm(), *ends()], {"r": np.float32(1)}, "expected W of shape"),
    "bias": ([TURN, lstm("b"), *ends()], {"b": B[:, :8]}, r"expected B of shape \(1, 16\), got \(1, 8\)"),
    "directions": ([TURN, lstm(direction="bidirectional"), *ends()], {}, r"expected W of shape \(2, 8, 3\)"),
    "direction": ([TURN, lstm(direction="sideways"), *ends()], {}, "and a known direction"),
    "hidden_size": ([TURN, lstm(hidden_size=3), *ends()], {}, "its hidden_size is 3, but R has 2 units"),
    "activations": ([TURN, lstm(activations=["Relu"] * 3), *ends()], {}, "has the activations relu, relu, relu"),
    "activation_alpha": ([TURN, lstm(activation_alpha=[0.5]), *ends()], {}, "has activation_alpha, which"),
    "clip": ([TURN, lstm(clip=0.5), *ends()], {}, "has clip, which specnet's layers do not have"),
    "input_forget": ([TURN, lstm(input_forget=1), *ends()], {}, "has input_forget"),
    "lengths": ([TURN, lstm("b", "n"), *ends()], {"b": B, "n": np.array([5, 5], "i4")}, "has sequence_lens"),
    "initial state": ([TURN, lstm("b", "", "h"), *ends()], {"b": B, "h": np.ones((1, 2, 2), "f4")}, "has initial_h"),
    "peepholes": ([TURN, lstm("b", "", "", "", "p"), *ends()], {"b": B, "p": np.ones((1, 6), "f4")}, "has P; "),
    "computed weights": ([TURN, ("Relu", ["x"], "w2", {}), ("LSTM", ["t", "w2", "r"], "s", {}), *ends()], {},
                         "combines values"),
    "axis of directions": ([TURN, lstm(), ("Relu", ["s"], "y", {})], {},
                           r"works on the axes \(time, directions, batch, features\)"),
    "time first": ([TURN, lstm(), ("Squeeze", ["s", "one"], "y", {})], {}, "does not have the batch on the first axis"),
    "flattened time": ([TURN, ("Flatten", ["t"], "y", {})], {}, r"works on the axes \(time, batch, features\)"),
    "positions in time": ([TURN, ("Add", ["t", "p"], "y", {})], {"p": np.ones((5, 3), "f4")}, "not fit 3 features"),
    "another step": ([("Gather", ["x", "i"], "y", {"axis": 1})], {"i": np.array(2)}, "takes index 2 of time"),
    "several steps": ([("Gather", ["x", "i"], "y", {"axis": 1})], {"i": np.array([4])}, "expected one index of an"),
    "a row": ([("Gather", ["x", "i"], "y", {"axis": 0})], {"i": np.array(0)}, "takes index 0 of the batch"),
    "a feature": ([("Gather", ["x", "i"], "y", {"axis": 2})], {"i": np.array(2)}, "takes index 2 of the features"),
    "no such axis": ([("Gather", ["x", "i"], "y", {"axis": 9})], {"i": np.array(2)}, "expected one index of an axis"),
    "squeezed batch": ([("Squeeze", ["x", "i"], "y", {})], {"i": np.array([0])}, "takes index 0 of the batch"),
    "squeezed": ([("Squeeze", ["x"], "y", {})], {}, r"removes the axes \[\], expected one of 3"),
    "reshaped": ([TURN, lstm(), ("Reshape", ["s", "i"], "y", {})], {"i": np.array([5, -1, 4])}, "reshapes to"),
    "reordered": ([TURN, lstm(), ("Transpose", ["s"], "y", {"perm": [0, 0, 1, 2]})], {}, "reorders the axes as"),
    "sizes": ([("Shape", ["x"], "z", {}), ("Reshape", ["x", "z"], "y", {})], {}, "computes with the size of a value"),
    "ones": ([("Shape", ["x"], "z", {}), ("ConstantOfShape", ["z"], "o", {"value": ONES}),
              ("Add", ["x", "o"], "y", {})], {}, "contains unsupported operators: o"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "message_pattern"), FAULTS.values(), ids=FAULTS.keys())
def test_invalid_and_foreign_settings_are_rejected_by_name(tmp_path, nodes, constants, message_pattern):
    constants = {"w": W, "r": R, **ONE, **constants}
    (tmp_path / "m.onnx").write_bytes(graph(nodes, constants, ("n", 5, 3)))
    with pytest.raises(specnet.CheckpointError, match=message_pattern) as caught:
        import_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_attention_of_another_kind_is_rejected(tmp_path):
    model = random_model([{"type": "attention", "heads": 2, "causal": True}], 3, "float32", (4, 6))
    export(tmp_path / "m.onnx", model)
    for name, change, message in (
        ("number", lambda a: a * 2, "another scale than"),
        ("attention_1.later", np.transpose, "another mask than that of later steps"),
        ("attention_1.later", lambda a: a + 1, "with numbers added to its scores"),
        ("attention_1.by_head", lambda a: a[[0, 2, 1, 3]], "whose heads do not divide 6 columns"),
        ("attention_1.joined", lambda a: a[[0, 2, 1]], "whose heads are not joined"),
    ):
        changed = onnx.load(tmp_path / "m.onnx")
        del changed.metadata_props[:]
        for tensor in changed.graph.initializer:
            if tensor.name.startswith(name):
                tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
        onnx.save(changed, tmp_path / "c.onnx")
        with pytest.raises(specnet.CheckpointError, match=message):
            import_model(tmp_path / "c.onnx")


def test_the_layout_with_the_batch_first_is_read(tmp_path):
    """Check the attribute `layout`, which ONNX Runtime does not support, with onnx's evaluator."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(1, 8, 3)).astype("f4"), "r": rng.normal(size=(1, 8, 2)).astype("f4")}
    node = onnx.helper.make_node
    nodes = [node("LSTM", ["x", "w", "r"], ["", "h"], layout=1, hidden_size=2), node("Squeeze", ["h", "one"], ["y"])]
    value = onnx.helper.make_tensor_value_info
    arrays = [onnx.numpy_helper.from_array(a, name) for name, a in {**constants, **ONE}.items()]
    made = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 5, 3])], [value("y", 1, None)], arrays)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 14)])
    onnx.save(model, tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx").model
    turned = onnx.helper.make_graph(
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("LSTM", ["t", "w", "r"], ["", "h"], hidden_size=2),
         node("Squeeze", ["h", "zero"], ["y"])],
        "g", [value("x", 1, ["n", 5, 3])], [value("y", 1, None)],
        [*arrays, onnx.numpy_helper.from_array(np.array([0]), "zero")],
    )  # fmt: skip
    x = rng.normal(size=(4, 5, 3)).astype("f4")
    evaluator = ReferenceEvaluator(onnx.helper.make_model(turned, opset_imports=model.opset_import))
    (expected,) = evaluator.run(None, {"x": x})
    assert np.abs(imported.predict(x) - expected).max() < 1e-6


def node(kind, inputs, outputs, **attributes):
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(","), **attributes)


BOTH = {"direction": "bidirectional", "hidden_size": 3}
TURNED = node("Transpose", "x", "t", perm=[1, 0, 2])
GRAPHS = {
    "residual with the time first": (
        [TURNED, node("LSTM", "t w r", "s", hidden_size=3), node("Squeeze", "s one", "q"), node("Add", "t q", "a"),
         node("Relu", "a", "e"), node("Transpose", "e", "y", perm=[1, 0, 2])], ["residual", "relu"]),
    "state beside the last step": (
        [TURNED, node("LSTM", "t w r", "s,h", hidden_size=3), node("Squeeze", "h zero", "q"),
         node("Gather", "x last", "g", axis=1), node("Concat", "q g", "y", axis=1)], ["concat"]),
    "affine with the time first": (
        [TURNED, node("GRU", "t w2 r2", "s", **BOTH), node("Transpose", "s", "d", perm=[0, 2, 1, 3]),
         node("Reshape", "d joined", "j"), node("MatMul", "j m", "k"), node("Add", "k b", "a"),
         node("Gather", "a last", "y", axis=0)], ["bidirectional", "affine", "last_step"]),
    "one of two directions": (
        [TURNED, node("GRU", "t w2 r2", ",h", **BOTH), node("Gather", "h last", "y", axis=0)],
        "takes index -1 of 2 directions"),
    "directions in the other order": (
        [TURNED, node("GRU", "t w2 r2", ",h", **BOTH), node("Gather", "h last", "c", axis=0),
         node("Gather", "h first", "d", axis=0), node("Concat", "c d", "y", axis=1)], "takes index -1 of 2 directions"),
    "cell state": ([TURNED, node("LSTM", "t w r", ",,c"), node("Squeeze", "c zero", "y")], "its last cell state is"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "expected"), GRAPHS.values(), ids=GRAPHS.keys())
def test_values_with_the_time_first_are_followed(tmp_path, nodes, expected):
    import onnxruntime

    rng = np.random.default_rng(0)
    shapes = {"w": (1, 12, 3), "r": (1, 12, 3), "w2": (2, 9, 3), "r2": (2, 9, 3), "m": (6, 3), "b": (3,)}
    constants = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    constants |= {"one": np.array([1]), "zero": np.array([0]), "joined": np.array([0, 0, -1])}
    constants |= {"first": np.array(0), "last": np.array(-1)}
    value = onnx.helper.make_tensor_value_info
    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 5, 3])], [value("y", 1, None)], arrays)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    if isinstance(expected, str):
        with pytest.raises(specnet.CheckpointError, match=expected):
            import_model(tmp_path / "m.onnx")
        return
    imported = import_model(tmp_path / "m.onnx").model
    x = rng.normal(size=(4, 5, 3)).astype("f4")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.abs(imported.predict(x) - session.run(None, {"x": x})[0]).max() < 1e-6
    assert [layer.type for layer in imported.spec.layers] == expected
