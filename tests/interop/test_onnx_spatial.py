"""Test convolutions, pools and other spatial layers in ONNX: exports, what is read back, and graphs of torch."""

import warnings

import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import random_model, same_floats
from tests.interop.test_onnx import graph, without_document
from tests.support import SPATIAL_LAYERS

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
LIMITS = {"float32": 2e-6, "float64": 2e-14}
CONV = {"type": "conv2d", "filters": 4, "kernel_size": 3, "padding": "same"}


def inputs_of(model, rows=4):
    rng = np.random.default_rng(0)
    if model.input_dtype.kind == "i":
        return rng.integers(0, 7, (rows, *model.input_shape))
    return rng.normal(size=(rows, *model.input_shape)).astype(model.dtype)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type != "Identity"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("entry", "shape"), SPATIAL_LAYERS.values(), ids=SPATIAL_LAYERS.keys())
def test_every_layer_is_exported_and_read_back(tmp_path, entry, shape, dtype):
    model = random_model([entry], 3, dtype, shape)
    exported = export(tmp_path / "m.onnx", model)
    assert exported.difference <= LIMITS[dtype]
    imported = import_model(tmp_path / "m.onnx")
    assert imported.model.spec == model.spec
    assert imported.notes == ()
    assert same_floats(imported.model, model)


@pytest.mark.parametrize(("entry", "shape"), SPATIAL_LAYERS.values(), ids=SPATIAL_LAYERS.keys())
def test_layers_are_recognized_without_our_document(tmp_path, entry, shape):
    if entry["type"] == "channel_dropout":
        pytest.skip("it is left out of the graph, like dropout")
    model = random_model([entry], 3, "float32", shape)
    export(tmp_path / "m.onnx", model)
    without_document(tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx").model
    x = inputs_of(model)
    assert (imported.predict(x) == model.predict(x)).all()
    assert [layer.type for layer in imported.spec.layers] == [entry["type"]]
    fields, found = (m.spec.layers[0].fields() for m in (model, imported))
    if fields.get("padding") == "same" and set(fields["stride"]) != {1}:  # a graph has the numbers for one input size
        assert found["padding"] != "same"
    else:
        assert found == fields


NETS = {
    "one run": (
        [CONV, {"type": "batch_norm"}, {"type": "relu"}, {"type": "max_pool2d"}, {"type": "channel_dropout"},
         {**CONV, "bias": False}, {"type": "prelu"}, {"type": "dropout"}, {"type": "flatten"},
         {"type": "affine", "units": 3}],
        (8, 6, 2),
        ["Transpose", "Conv", "BatchNormalization", "Relu", "MaxPool", "Conv", "PRelu", "Transpose", "Reshape", "Gemm"],
    ),
    "residual": (
        [CONV, {"type": "residual", "layers": [{"type": "batch_norm"}, {"type": "silu"}, CONV]},
         {"type": "global_average_pool"}, {"type": "affine", "units": 3}],
        (8, 6, 2),
        ["Transpose", "Conv", "BatchNormalization", "Sigmoid", "Mul", "Conv", "Add", "GlobalAveragePool", "Flatten",
         "Gemm"],
    ),
    "residual of an input": (
        [{"type": "residual", "layers": [{"type": "tanh"}, {**CONV, "filters": 2}]}],
        (8, 6, 2),
        ["Tanh", "Transpose", "Conv", "Transpose", "Add", "Transpose"],
    ),
    "concat": (
        [{"type": "concat", "branches": [[], [CONV], [{"type": "layer_norm"}],
                                         [{"type": "crop2d", "cropping": 0}, {"type": "affine", "units": 2}]]},
         CONV, {"type": "softmax"}],
        (8, 6, 2),
        ["Transpose", "Conv", "LayerNormalization", "Slice", "Transpose", "MatMul", "Add", "Transpose", "Transpose",
         "Concat", "Conv", "Transpose", "Softmax"],
    ),
    "nested": (
        [CONV, {"type": "residual", "layers": [
            {"type": "residual", "layers": [CONV, {"type": "tanh"}]},
            {"type": "concat", "branches": [[{**CONV, "filters": 1}], [{**CONV, "filters": 3}]]}]}],
        (5, 4, 3),
        ["Transpose", "Conv", "Conv", "Tanh", "Add", "Conv", "Conv", "Concat", "Add", "Transpose"],
    ),
    "sequence": (
        [{"type": "embedding", "vocabulary": 9, "dimension": 4}, {"type": "conv1d", "filters": 5, "kernel_size": 3},
         {"type": "upsample1d", "interpolation": "linear"}, {"type": "layer_norm"}, {"type": "flatten"},
         {"type": "affine", "units": 2}],
        (7,),
        ["Gather", "Transpose", "Conv", "Resize", "Transpose", "LayerNormalization", "Reshape", "Gemm"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "shape", "expected"), NETS.values(), ids=NETS.keys())
def test_axes_move_only_where_a_layer_needs_it(tmp_path, layers, shape, expected):
    for dtype in ("float64", "float32"):
        model = random_model(layers, 1, dtype, shape)
        export(tmp_path / "m.onnx", model)
        assert import_model(tmp_path / "m.onnx").model.spec == model.spec
    assert operators(tmp_path / "m.onnx") == expected
    without_document(tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx")
    assert imported.notes == ()
    x = inputs_of(model)
    assert np.abs(imported.model.predict(x) - model.predict(x)).max() < 1e-5


def random_entry(rng):
    """Return a random spatial layer, and the shape of an input that is large enough for it."""
    axes = int(rng.integers(1, 3))
    kernel, stride, dilation = (rng.integers(1, most, axes).tolist() for most in (5, 4, 3))
    groups = int(rng.integers(1, 4))
    shape = (*(int(n) for n in rng.integers(9, 13, axes)), groups * int(rng.integers(1, 3)))
    pads = [[int(rng.integers(0, n)) for _ in range(2)] for n in kernel]
    padding = [str(rng.choice(["valid", "same"])), pads][int(rng.integers(0, 2))]
    kind = str(rng.choice(["conv", "conv_transpose", "max_pool", "average_pool", "upsample", "zero_pad", "crop"]))
    entry = {"type": f"{kind}{axes}d"}
    if kind in ("conv", "conv_transpose"):
        entry |= {"filters": groups * int(rng.integers(1, 3)), "kernel_size": kernel, "groups": groups}
        entry |= {"stride": stride, "padding": padding, "dilation": dilation, "bias": bool(rng.integers(0, 2))}
    if kind == "conv_transpose" and padding != "same":
        entry["output_padding"] = [int(rng.integers(0, n)) for n in stride]
    if kind.endswith("pool"):
        entry |= {"pool_size": kernel, "stride": stride, "padding": padding}
    if kind == "average_pool":
        entry["count_padding"] = bool(rng.integers(0, 2))
    if kind == "upsample":
        entry |= {"size": kernel, "interpolation": ["nearest", ["linear", "bilinear"][axes - 1]][rng.integers(0, 2)]}
    if kind in ("zero_pad", "crop"):
        entry["padding" if kind == "zero_pad" else "cropping"] = pads
    return entry, shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_settings_round_trip(tmp_path, dtype, full):
    rng = np.random.default_rng(7)
    for case in range(400 if full else 60):
        entry, shape = random_entry(rng)
        model = random_model([entry], case, dtype, shape)
        export(tmp_path / "m.onnx", model)
        assert same_floats(import_model(tmp_path / "m.onnx").model, model), entry
        if dtype == "float64":
            continue
        without_document(tmp_path / "m.onnx")
        imported = import_model(tmp_path / "m.onnx").model
        x = inputs_of(model)
        assert np.abs(imported.predict(x) - model.predict(x)).max() < 1e-6, entry


def torch_networks(nn):
    """Return networks of torch with the shape of an input row."""
    import torch

    class Residual(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.body = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.body(x)

    class Join(nn.Module):
        def __init__(self, *branches):
            super().__init__()
            self.branches = nn.ModuleList(branches)

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.branches], 1)

    class LastNorm(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    conv = nn.Conv2d
    pools = [nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)]
    return [
        (nn.Sequential(conv(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2, padding=1), conv(6, 3, 5), nn.Flatten(),
                       nn.Linear(3 * 25, 12), nn.ReLU(), nn.Linear(12, 10)), (1, 16, 16)),
        (nn.Sequential(conv(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                       Residual(conv(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.SiLU()),
                       nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), (3, 17, 19)),
        (nn.Sequential(conv(2, 3, 3), nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(36), nn.PReLU(36), nn.Linear(36, 4)),
         (2, 5, 6)),
        (nn.Sequential(conv(2, 3, 3), *pools, nn.Flatten(), nn.Linear(27, 2)), (2, 12, 13)),
        (nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), nn.PReLU(6),
                       nn.ConvTranspose2d(6, 3, 3, 3, 1, output_padding=2, dilation=2)), (4, 5, 4)),
        (nn.Sequential(nn.Conv1d(3, 4, 5, dilation=2), nn.GELU(), nn.MaxPool1d(2), nn.Upsample(scale_factor=2),
                       nn.ConvTranspose1d(4, 2, 3, 2), nn.Flatten(), nn.Linear(2 * 25, 2)), (3, 21)),
        (nn.Sequential(conv(2, 3, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample(scale_factor=3),
                       nn.Softmax(1)), (2, 6, 5)),
        (nn.Sequential(conv(2, 3, 1), Join(conv(3, 2, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.Identity()), nn.ReLU()),
         (2, 6, 5)),
        (nn.Sequential(conv(2, 4, 2, 2), LastNorm(4), Residual(conv(4, 4, 7, padding=3, groups=4), LastNorm(4),
                                                               conv(4, 8, 1), nn.GELU(), conv(8, 4, 1)),
                       nn.AdaptiveMaxPool2d(1)), (2, 8, 8)),
    ]  # fmt: skip


def test_networks_exported_by_torch_are_imported(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    for network, shape in torch_networks(torch.nn):
        with torch.no_grad():
            network(torch.randn(16, *shape))  # changes the running statistics
        network.eval()
        x = torch.randn(5, *shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=False, **names)
        imported = import_model(tmp_path / "m.onnx")
        last = (*shape[1:], shape[0])
        note = f"an input has the shape {shape} in the file, {last} here: the channels are on the last axis"
        assert imported.notes[0] == note
        with torch.no_grad():
            expected = np.moveaxis(network(x).numpy(), 1, -1)
        outputs = imported.model.predict(np.moveaxis(x.numpy(), 1, -1))
        assert np.abs(outputs - expected).max() < 1e-5, network
        assert len(imported.notes) == (2 if outputs.ndim > 2 else 1)
        export(tmp_path / "again.onnx", imported.model)


def node(kind, *names, **attributes):
    return (kind, ["x", *names], "y", attributes)


W = np.ones((4, 2, 3, 3), "f4")
POOL = {"kernel_shape": [2, 2]}
FAULTS = {
    "channels": ([node("Conv", "w")], {"w": np.ones((4, 3, 3, 3), "f4")}, "does not fit the 2 channels"),
    "groups": ([node("Conv", "w", group=3)], {"w": W}, "in 3 groups does not fit"),
    "huge groups": ([node("Conv", "w", group=2**62)], {"w": W}, "in 4611686018427387904 groups does not fit"),
    "no groups": ([node("Conv", "w", group=0)], {"w": W}, "in 0 groups does not fit"),
    "rank of the weight": ([node("Conv", "w")], {"w": W[0]}, "expected a weight of rank 4"),
    "empty weight": ([node("Conv", "w")], {"w": W[:0]}, "expected a weight of rank 4"),
    "bias": ([node("Conv", "w", "b")], {"w": W, "b": np.ones(1, "f4")}, r"expected a bias of shape \(4,\), got \(1,\)"),
    "kernel": ([node("Conv", "w", kernel_shape=[3, 4])], {"w": W}, r"kernel_shape \(3, 4\) is not that of its weight"),
    "no stride": ([node("Conv", "w", strides=[0, 1])], {"w": W}, r"strides: expected 2 numbers of at least 1"),
    "one stride": ([node("Conv", "w", strides=[1])], {"w": W}, r"strides: expected 2 numbers of at least 1, got \[1\]"),
    "huge stride": ([node("Conv", "w", strides=[2**62, 1])], {"w": W}, "stride"),
    "negative pads": ([node("Conv", "w", pads=[0, 0, -1, 0])], {"w": W}, "pads: expected 4 numbers of at least 0"),
    "huge pads": ([node("Conv", "w", pads=[2**62] * 4)], {"w": W}, "padding"),
    "large pads": ([node("Conv", "w", pads=[2**29] * 4)], {"w": W}, "more than 2147483648; use less padding"),
    "dilations": ([node("Conv", "w", dilations=[1, 0])], {"w": W}, "dilations: expected 2 numbers of at least 1"),
    "too large a window": ([node("Conv", "w", dilations=[3, 1])], {"w": W}, "is less than the window of 7"),
    "auto_pad": ([node("Conv", "w", auto_pad="SAME")], {"w": W}, "auto_pad: expected NOTSET, SAME_UPPER"),
    "constant input": ([("Conv", ["w", "x"], "y", {})], {"w": W}, "its first input is a constant"),
    "computed weight": ([("Relu", ["x"], "r", {}), node("Conv", "r")], {}, "combines values"),
    "output shape": ([node("ConvTranspose", "w", output_shape=[9, 9])], {"w": W[:2]}, "states no pads"),
    "transposed same": ([node("ConvTranspose", "w", auto_pad="SAME_UPPER")], {"w": W[:2]}, "states no pads"),
    "output_padding": ([node("ConvTranspose", "w", output_padding=[1, 0])], {"w": W[:2]}, "less than the stride"),
    "negative output_padding": ([node("ConvTranspose", "w", output_padding=[-1, 0])], {"w": W[:2]}, "output_padding"),
    "cut output": ([node("ConvTranspose", "w", pads=[8, 0, 8, 0])], {"w": W[:2]}, "cuts the whole output"),
    "kernel of one axis": ([node("MaxPool", kernel_shape=[2])], {}, "kernel_shape: expected 2 numbers of at least 1"),
    "huge kernel": ([node("MaxPool", kernel_shape=[2**40, 2])], {}, "pool_size"),
    "large kernel": ([node("MaxPool", kernel_shape=[2**30, 2])], {}, "is less than the window of 1073741824"),
    "pool dilations": ([node("MaxPool", **POOL, dilations=[2, 1])], {}, "specnet's pools have none"),
    "storage order": ([node("MaxPool", **POOL, storage_order=1)], {}, "has a storage_order"),
    "pool pads": ([node("AveragePool", **POOL, pads=[2, 0, 0, 0])], {}, "expected less than the window"),
    "count": ([node("AveragePool", **POOL, count_include_pad=2)], {}, "count_include_pad: expected 0 or 1"),
    "counted ceil": (
        [node("AveragePool", **POOL, strides=[2, 2], ceil_mode=1, count_include_pad=1)], {}, "ceil_mode and counts"),
    "window behind": (
        [node("MaxPool", kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, pads=[0, 1, 0, 1])], {}, "begins behind"),
    "mode": ([node("Pad", "p", mode="edge")], {"p": np.ones(8, int)}, "pads with something else than zeros"),
    "value": ([node("Pad", "p", "q")], {"p": np.ones(8, int), "q": np.float32(1)}, "something else than zeros"),
    "cutting pads": ([node("Pad", "p")], {"p": -np.ones(8, int)}, "pads: expected two numbers of at least 0"),
    "padded channels": ([node("Pad", "p")], {"p": np.ones(8, int)}, "changes the batch axis or the channels"),
    "seven pads": ([node("Pad", "p")], {"p": np.ones(7, int)}, "expected two numbers"),
    "many pads": ([node("Pad", "p")], {"p": np.zeros(2**16, int)}, "pads: expected a few integers"),
    "all is cut": ([node("Slice", "a", "b", "c")],
                   {"a": np.array([5]), "b": np.array([5]), "c": np.array([2])}, "leaves nothing"),
    "steps": ([node("Slice", "a", "b", "c", "d")], {"a": np.array([0]), "b": np.array([5]), "c": np.array([2]),
                                                    "d": np.array([2])}, "takes every second position"),
    "cut channels": ([node("Slice", "a", "b", "c")], {"a": np.array([1]), "b": np.array([2]), "c": np.array([1])},
                     "changes the batch axis or the channels"),
    "no such axis": ([node("Slice", "a", "b", "c")], {"a": np.array([1]), "b": np.array([2]), "c": np.array([4])},
                     "cuts the axis 4 of 4"),
    "half scale": ([node("Resize", "", "s")], {"s": np.array([1, 1, 0.5, 1], "f4")}, "enlarges by whole numbers"),
    "huge scale": ([node("Resize", "", "s")], {"s": np.array([1, 1, 1e30, 1], "f4")}, "size"),
    "large scale": ([node("Resize", "", "s")], {"s": np.array([1, 1, 2**15, 2**15], "f4")}, "an output would have"),
    "no number": ([node("Resize", "", "s")], {"s": np.array([1, 1, np.nan, 1], "f4")}, "enlarges by whole numbers"),
    "infinity": ([node("Resize", "", "s")], {"s": np.array([1, 1, np.inf, 1], "f4")}, "is used in an unsupported way"),
    "scaled channels": ([node("Resize", "", "s")], {"s": np.array([1, 2, 1, 1], "f4")}, "the channels"),
    "cubic": ([node("Resize", "", "s", mode="cubic")], {"s": np.ones(4, "f4")}, "interpolates as specnet does not"),
    "corners": ([node("Resize", "", "s", mode="linear", coordinate_transformation_mode="align_corners")],
                {"s": np.ones(4, "f4")}, "linear, align_corners"),
    "axes": ([("Transpose", ["x"], "t", {"perm": [0, 2, 1, 3]}), ("Relu", ["t"], "y", {})], {},
             "does more than move the channels"),
    "batch axis": ([("Transpose", ["x"], "t", {"perm": [1, 0, 2, 3]}), ("Relu", ["t"], "y", {})], {},
                   "does more than move the channels"),
    "no order": ([("Transpose", ["x"], "t", {"perm": [9, 9, 9, 9]}), ("Relu", ["t"], "y", {})], {},
                 "does more than move the channels"),
    "flattened output": ([("Conv", ["x", "w"], "c", {}), ("Flatten", ["c"], "y", {})], {"w": W},
                         "its output is a flattened"),
    "reshaped": ([("Conv", ["x", "w"], "c", {}), ("Reshape", ["c", "s"], "y", {})],
                 {"w": W, "s": np.array([0, 2, -1])}, "whose channels come first"),
    "product over columns": ([("Conv", ["x", "w"], "c", {}), ("MatMul", ["c", "m"], "y", {})],
                             {"w": W, "m": np.ones((3, 3), "f4")}, "multiplies along the last axis"),
    "slope of columns": ([("Conv", ["x", "w"], "c", {}), ("PRelu", ["c", "s"], "y", {})],
                         {"w": W, "s": np.ones(3, "f4")}, "does not fit the channels"),
    "norm of columns": ([("Conv", ["x", "w"], "c", {}), ("LayerNormalization", ["c", "s"], "y", {})],
                        {"w": W, "s": np.ones(3, "f4")}, "normalizes another axis than that of the channels"),
    "softmax of columns": ([("Conv", ["x", "w"], "c", {}), ("Softmax", ["c"], "y", {})], {"w": W},
                           "another axis than that of the channels"),
    "joined rows": ([("Conv", ["x", "w"], "c", {}), ("Relu", ["c"], "r", {}), ("Concat", ["c", "r"], "y", {"axis": 2})],
                    {"w": W}, "concatenates along another axis"),
    "two layouts": ([("Conv", ["x", "w"], "c", {}), ("Transpose", ["c"], "t", {"perm": [0, 2, 3, 1]}),
                     ("Transpose", ["t"], "u", {"perm": [0, 1, 2, 3]}), ("Add", ["c", "u"], "y", {})],
                    {"w": np.ones((5, 2, 1, 1), "f4")}, "combines values with their channels on different axes"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "message_pattern"), FAULTS.values(), ids=FAULTS.keys())
def test_invalid_and_foreign_settings_are_rejected_by_name(tmp_path, nodes, constants, message_pattern):
    last = [("Conv", ["x", "v"], "z", {})] if nodes[-1][0] in ("Pad", "Slice", "Resize") else []  # tells the layout
    nodes = [(kind, [{"x": "z"}.get(n, n) for n in names] if last else names, *rest) for kind, names, *rest in nodes]
    (tmp_path / "m.onnx").write_bytes(
        graph([*last, *nodes], {"v": np.ones((2, 2, 1, 1), "f4"), **constants}, ("n", 2, 5, 5))
    )
    with pytest.raises(specnet.CheckpointError, match=message_pattern) as caught:
        import_model(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_flattened_convolution_keeps_its_meaning(tmp_path):
    """Check the order of the features behind a flatten in the weights, slopes, norms and constants that follow."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(3, 2, 2, 2)).astype("f4"), "m": rng.normal(size=(36, 4)).astype("f4")}
    constants |= {name: rng.uniform(0.5, 2, 36).astype("f4") for name in ("slope", "mean", "scale")}
    nodes = [
        ("Conv", ["x", "w"], "c", {}),
        ("Flatten", ["c"], "f", {}),
        ("PRelu", ["f", "slope"], "p", {}),
        ("Sub", ["p", "mean"], "s", {}),
        ("LayerNormalization", ["s", "scale"], "n", {}),
        ("MatMul", ["n", "m"], "y", {}),
    ]
    data = graph(nodes, constants, ("n", 2, 5, 4))
    (tmp_path / "m.onnx").write_bytes(data)
    x = rng.normal(size=(6, 2, 5, 4)).astype("f4")
    import onnxruntime

    (expected,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.abs(import_model(tmp_path / "m.onnx").model.predict(np.moveaxis(x, 1, -1)) - expected).max() < 1e-5


def test_a_matrix_for_float64_is_bounded(tmp_path):
    model = random_model([{"type": "average_pool1d", "pool_size": 2}], 1, "float64", (3000, 1))
    with pytest.raises(specnet.SpecnetError, match=r"average_pool1d_1: ONNX Runtime has no average_pool1d in float64"):
        export(tmp_path / "m.onnx", model)
    assert list(tmp_path.iterdir()) == []
