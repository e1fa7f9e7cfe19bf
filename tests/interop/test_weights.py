"""Test the import of weights without architecture: Caffe snapshots, Keras weights and torch state dicts."""

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import random_model, same_floats
from tests.support import SEQUENCE_LAYERS, SPATIAL_LAYERS
from tests.test_cli import run

LAYERS = [
    {"type": "affine", "name": "ip1", "units": 4},
    {"type": "prelu", "name": "act"},
    {"type": "affine", "name": "ip2", "units": 3, "bias": False},
]


@pytest.fixture
def model():
    model = random_model(LAYERS, 1)
    model.backward(model.forward(np.random.default_rng(2).normal(size=(6, 5)), training=True))
    return model


def write_caffe(path, model, names=None, *, diff=True, old=False):
    """Write a snapshot as Caffe's Net::ToHDF5 does: (out, in) weights under /data, gradients under /diff."""
    kinds = {"weight": 0, "bias": 1, "slope": 0}
    with h5py.File(path, "w") as file:
        for group, arrays in [("data", model.parameters), *([("diff", model.gradients)] if diff else [])]:
            for full, array in arrays.items():
                layer, _, short = full.rpartition(".")
                value = array.T if short == "weight" else array
                value = value[np.newaxis, np.newaxis] if old and short == "weight" else value
                file[f"{group}/{(names or {}).get(layer, layer)}/{kinds[short]}"] = value
            file.create_group(f"{group}/relu_without_blobs")


def test_weights_and_gradients_of_a_caffe_snapshot_are_imported(tmp_path, model):
    for old in (False, True):
        write_caffe(tmp_path / "net.caffemodel.h5", model, old=old)
        imported = import_model(tmp_path / "net.caffemodel.h5", model.spec)
        assert imported.notes == ("its gradients were imported as well",)
        for name in model.parameters:
            assert (imported.model.parameters[name] == model.parameters[name]).all()
            assert (imported.model.gradients[name] == model.gradients[name]).all()
    write_caffe(tmp_path / "plain.caffemodel.h5", model, diff=False)
    assert not import_model(tmp_path / "plain.caffemodel.h5", model.spec).model.has_gradients


def test_caffe_layer_names_are_mapped(tmp_path, model):
    write_caffe(tmp_path / "net.caffemodel.h5", model, {"ip1": "encoder/fc1"})
    (tmp_path / "m.json").write_text(model.spec.to_json())
    arguments = ("import", "net.caffemodel.h5", "--model", "m.json", "--out", "m.h5")
    _, err = run(*arguments, cwd=tmp_path, code=1)
    assert "/data/encoder/fc1: no layer with arrays is named 'encoder/fc1'" in err
    assert "map it with --map encoder/fc1=NAME" in err
    run(*arguments, "--map", "encoder/fc1=ip1", cwd=tmp_path)
    imported = specnet.load(tmp_path / "m.h5")
    assert (imported.gradients["ip1.weight"] == model.gradients["ip1.weight"]).all()
    _, err = run(*arguments, "--map", "ip1", cwd=tmp_path, code=2)
    assert "expected THEIRS=OURS" in err
    _, err = run(*arguments, "--map", "a=ip1", "--map", "b=ip1", cwd=tmp_path, code=2)
    assert "mapped to one layer" in err


def test_mismatches_with_a_snapshot_are_reported(tmp_path, model):
    path = tmp_path / "net.caffemodel.h5"
    for change, message_pattern in (
        (lambda f: f.__delitem__("data/ip1/1"), r"ip1\.bias is missing"),
        (lambda f: f.__delitem__("diff/ip1/1"), r"/diff: the gradient of ip1\.bias is missing"),
        (lambda f: f.create_dataset("data/act/1", data=np.ones(3)), "/data/act/1: a layer of type 'prelu'"),
        (lambda f: f.__setitem__("data/ip1/2", np.ones(3)), "has no such array in Caffe"),
    ):
        write_caffe(path, model)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(specnet.CheckpointError, match=message_pattern):
            import_model(path, model.spec)
    with pytest.raises(specnet.CheckpointError, match="pass a document of the same layers: --model FILE"):
        import_model(path)


def test_names_of_state_dicts_are_mapped(tmp_path, model):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    layer_of_module = {"z": "ip1", "y": "act", "x": "ip2"}  # not in alphabetical order
    torch_names = {"slope": "weight"}
    arrays = {}
    for module, layer_name in layer_of_module.items():
        for full, array in model.parameters.items():
            layer, _, short = full.rpartition(".")
            if layer == layer_name:
                value = array.T if array.ndim == 2 else array
                arrays[f"net.{module}.{torch_names.get(short, short)}"] = np.ascontiguousarray(value)
    safetensors.save_file(arrays, tmp_path / "t.safetensors")
    with pytest.raises(specnet.CheckpointError):
        import_model(tmp_path / "t.safetensors", model.spec)
    names = {f"net.{module}": layer_name for module, layer_name in layer_of_module.items()}
    imported = import_model(tmp_path / "t.safetensors", model.spec, names).model
    assert all((imported.parameters[name] == array).all() for name, array in model.parameters.items())
    for invalid_names, message_pattern in (
        ({"net.q": "ip1"}, r"--map net\.q=ip1: the file has net\."),
        ({"net.z": "ip9"}, "the model has ip1, act, ip2"),
        ({"net.z": "ip1"}, "has no module for act, ip2"),
    ):
        with pytest.raises(specnet.CheckpointError, match=message_pattern):
            import_model(tmp_path / "t.safetensors", model.spec, invalid_names)
    arrays_by_module = {f"{module}.{full.rpartition('.')[2]}": array for module, layer_name in layer_of_module.items()
                        for full, array in model.parameters.items() if full.startswith(layer_name + ".")}  # fmt: skip
    np.savez(tmp_path / "t.npz", **arrays_by_module)
    imported = import_model(tmp_path / "t.npz", model.spec, layer_of_module).model
    assert all((imported.parameters[name] == array).all() for name, array in model.parameters.items())


def test_rounding_to_float32_is_reported(tmp_path, model):
    arrays = {name: array.astype("f8") + 1e-12 for name, array in model.parameters.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    assert import_model(tmp_path / "m.npz", model.spec).notes == (
        "4 arrays were rounded to float32, the first is ip1.weight",
    )
    np.savez(tmp_path / "m.npz", **{name: array.astype("f8") for name, array in model.parameters.items()})
    assert import_model(tmp_path / "m.npz", model.spec).notes == ()


def test_integers_and_large_numbers_are_not_rounded_silently(tmp_path):
    spec = specnet.ModelSpec(input_shape=(1,), layers=[{"type": "affine", "units": 1, "bias": False}])
    np.savez(tmp_path / "m.npz", **{"affine_1.weight": np.array([[16777217]])})
    assert import_model(tmp_path / "m.npz", spec).notes == (
        "1 arrays were rounded to float32, the first is affine_1.weight",
    )
    np.savez(tmp_path / "m.npz", **{"affine_1.weight": np.array([[1e300]])})
    with pytest.raises(specnet.CheckpointError, match="its numbers are too large for float32"):
        import_model(tmp_path / "m.npz", spec)
    np.savez(tmp_path / "m.npz", **{"affine_1.weight": np.array([[np.nan]])})
    assert import_model(tmp_path / "m.npz", spec).notes == ()


def test_modules_assigned_by_order_are_reported(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    safetensors.save_file(
        {f"{n}.weight": np.ones((4, 4), "f4") for n in ("encoder", "decoder")}, tmp_path / "t.safetensors"
    )
    layers = [{"type": "affine", "units": 4, "bias": False}] * 2
    imported = import_model(tmp_path / "t.safetensors", specnet.ModelSpec(input_shape=(4,), layers=layers))
    assert imported.notes == ("modules were assigned in the order of their names: decoder=affine_1, encoder=affine_2",)


def test_keras_weights_must_match_the_document(tmp_path):
    keras_layers = [{"type": "affine", "name": "a", "units": 2}, {"type": "batch_norm", "name": "b"}]
    model = random_model(keras_layers, 1)

    def write(change=lambda file: None, names=("a", "b")):
        with h5py.File(tmp_path / "k.weights.h5", "w") as file:
            arrays = [*model.parameters.values(), *(model.buffers[f"b.{n}"] for n in ("running_mean", "running_var"))]
            for key, name, span in (("dense", names[0], slice(2)), ("batch_normalization", names[1], slice(2, 6))):
                group = file.create_group(f"layers/{key}/vars")
                group.attrs["name"] = name
                for index, array in enumerate(arrays[span]):
                    group[str(index)] = array
            change(file)
        return tmp_path / "k.weights.h5"

    imported = import_model(write(), model.spec).model
    assert all((imported.parameters[name] == array).all() for name, array in model.parameters.items())
    imported = import_model(write(names=("other", "names")), model.spec).model
    assert all((imported.parameters[name] == array).all() for name, array in model.parameters.items())
    for change, message_pattern in (
        (lambda f: f.__delitem__("layers/dense/vars/1"), "a has 1 arrays in the file, 2 in the network"),
        (lambda f: f.create_dataset("layers/dense_1/vars/0", data=np.ones(3)), "/layers/dense_1"),
        (lambda f: f.__delitem__("layers/dense"), "has 0 arrays"),
        (
            lambda f: (f.__delitem__("layers/dense/vars/0"), f.__setitem__("layers/dense/vars/0", np.ones((2, 5)))),
            "shape",
        ),
    ):
        with pytest.raises(specnet.CheckpointError, match=message_pattern):
            import_model(write(change), model.spec)
    residual = specnet.ModelSpec(
        input_shape=(5,), layers=[{"type": "residual", "layers": [{"type": "affine", "units": 5}]}]
    )
    with pytest.raises(
        specnet.CheckpointError, match="--model: residual_1: a Keras Sequential has no layer of type 'residual'"
    ):
        import_model(write(), residual)


def test_state_dicts_of_convolutional_networks_are_imported(tmp_path):
    """Check kernels with groups, and the order of the features behind a flatten, with the predictions of torch."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2), nn.ReLU(), nn.BatchNorm2d(6)),
        *(nn.ConvTranspose2d(6, 4, 3, 2, groups=2), nn.PReLU(4), nn.Flatten(), nn.BatchNorm1d(4 * 7 * 5)),
        *(nn.PReLU(4 * 7 * 5), nn.Dropout(), nn.Linear(4 * 7 * 5, 5), nn.Linear(5, 2)),
    )
    network(torch.randn(16, 4, 6, 5))  # changes the running statistics
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network.eval()
    layers = [
        {"type": "conv2d", "filters": 6, "kernel_size": [3, 2], "stride": 2, "padding": [1, 0], "groups": 2},
        *({"type": "relu"}, {"type": "batch_norm"}),
        {"type": "conv_transpose2d", "filters": 4, "kernel_size": 3, "stride": 2, "groups": 2},
        *({"type": "prelu"}, {"type": "flatten"}, {"type": "batch_norm"}, {"type": "prelu"}, {"type": "dropout"}),
        *({"type": "affine", "units": 5}, {"type": "affine", "units": 2}),
    ]
    spec = specnet.ModelSpec(input_shape=(6, 5, 4), layers=layers)
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    imported = import_model(tmp_path / "t.safetensors", spec)
    x = torch.randn(7, 4, 6, 5)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.abs(imported.model.predict(np.moveaxis(x.numpy(), 1, -1)) - expected).max() < 2e-6
    note = "affine_1.weight: its features, a flattened (4, 7, 5) in torch, are in the order of (7, 5, 4) here"
    assert note in imported.notes
    assert len(imported.notes) == 6  # the weight, the slopes, and the four arrays of the norm
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    export(tmp_path / "back.safetensors", imported.model)
    network.load_state_dict(safetensors.load_file(tmp_path / "back.safetensors"))
    with torch.no_grad():
        assert np.abs(network(x).numpy() - expected).max() < 2e-6


def test_a_flatten_behind_a_residual_of_convolutions_is_reordered(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    nn = torch.nn

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    network = nn.Sequential(Residual(nn.Conv2d(2, 2, 3, padding=1)), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    conv = {"type": "conv2d", "filters": 2, "kernel_size": 3, "padding": "same"}
    layers = [{"type": "residual", "layers": [conv]}, {"type": "relu"}, {"type": "flatten"}]
    spec = specnet.ModelSpec(input_shape=(4, 3, 2), layers=[*layers, {"type": "affine", "units": 3}])
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    model = import_model(tmp_path / "t.safetensors", spec, {"0.0": "residual_1.conv2d_1"}).model
    x = torch.randn(5, 2, 4, 3)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.abs(model.predict(np.moveaxis(x.numpy(), 1, -1)) - expected).max() < 1e-6


def test_conv1d_and_its_transpose_are_imported_from_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    nn = torch.nn
    network = nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.ConvTranspose1d(4, 3, 4, 3, padding=1, output_padding=2))
    layers = [
        {"type": "conv1d", "filters": 4, "kernel_size": 3, "dilation": 2},
        {"type": "conv_transpose1d", "filters": 3, "kernel_size": 4, "stride": 3, "padding": 1, "output_padding": 2},
    ]
    spec = specnet.ModelSpec(input_shape=(9, 2), layers=layers)
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    imported = import_model(tmp_path / "t.safetensors", spec)
    assert imported.notes == ()
    x = torch.randn(5, 2, 9)
    with torch.no_grad():
        expected = np.moveaxis(network(x).numpy(), 1, -1)
    assert np.abs(imported.model.predict(np.moveaxis(x.numpy(), 1, -1)) - expected).max() < 1e-6


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_spatial_layers_round_trip_bit_for_bit(tmp_path, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    for dtype in ("float32", "float64"):
        for entry, shape in SPATIAL_LAYERS.values():
            tail = [{"type": "flatten"}, {"type": "affine", "units": 2}] if len(shape) > 1 else []
            tail = tail if not entry["type"].startswith("global") else []
            model = random_model([entry, *tail], 1, dtype, shape)
            assert export(tmp_path / f"m.{suffix}", model).difference == 0
            imported = import_model(tmp_path / f"m.{suffix}")
            assert imported.model.spec == model.spec
            assert imported.notes == ()
            assert same_floats(imported.model, model)


def test_a_weight_of_another_shape_is_reported_in_torchs_layout(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    conv = {"type": "conv2d", "filters": 3, "kernel_size": 2, "bias": False}
    spec = specnet.ModelSpec(
        input_shape=(3, 3, 2), layers=[conv, {"type": "flatten"}, {"type": "affine", "units": 6, "bias": False}]
    )
    right = {"0.weight": np.ones((3, 2, 2, 2), "f4"), "2.weight": np.ones((6, 12), "f4")}
    for key, shape, expected in (
        ("0.weight", (2, 2, 2, 3), r"conv2d_1.weight: expected the shape \(3, 2, 2, 2\) in torch's layout"),
        ("0.weight", (24,), r"got \(24,\)"),
        ("2.weight", (12, 6), r"affine_1.weight: expected the shape \(6, 12\) in torch's layout, got \(12, 6\)"),
    ):
        safetensors.save_file({**right, key: np.ones(shape, "f4")}, tmp_path / "t.safetensors")
        with pytest.raises(specnet.CheckpointError, match=expected):
            import_model(tmp_path / "t.safetensors", spec)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_layers_over_sequences_round_trip_bit_for_bit(tmp_path, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    for dtype in ("float32", "float64"):
        for entry, shape in SEQUENCE_LAYERS.values():
            model = random_model([entry], 1, dtype, shape)
            assert export(tmp_path / f"m.{suffix}", model).difference == 0
            imported = import_model(tmp_path / f"m.{suffix}")
            assert imported.model.spec == model.spec
            assert imported.notes == ()
            assert same_floats(imported.model, model)


def recurrent_networks(nn):
    """Return modules of torch, and entries of the same layers; all take (batch, 5, 4)."""
    many = {"batch_first": True}
    return {
        "lstm": (nn.LSTM(4, 3, **many), [{"type": "lstm", "units": 3}]),
        "gru": (nn.GRU(4, 3, **many), [{"type": "gru", "units": 3}]),
        "without bias": (nn.GRU(4, 3, bias=False, **many), [{"type": "gru", "units": 3, "bias": False}]),
        "relu": (nn.RNN(4, 3, nonlinearity="relu", **many), [{"type": "simple_rnn", "units": 3, "activation": "relu"}]),
        "two layers": (nn.LSTM(4, 3, 2, **many), [{"type": "lstm", "units": 3}] * 2),
        "both directions": (
            nn.GRU(4, 3, 2, bidirectional=True, **many),
            [{"type": "bidirectional", "layers": [{"type": "gru", "units": 3}]}] * 2,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "gru", "without bias", "relu", "two layers", "both directions"])
def test_state_dicts_of_recurrent_networks_are_imported(tmp_path, name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    torch.manual_seed(0)
    module, entries = recurrent_networks(torch.nn)[name]
    network = torch.nn.ModuleDict({"encoder": module, "output": torch.nn.Linear(6 if module.bidirectional else 3, 2)})
    layers = []
    for entry in entries:
        inner = {**entry.get("layers", [entry])[0], "return_sequences": True}
        layers.append({**entry, "layers": [inner]} if "layers" in entry else inner)
    spec = specnet.ModelSpec(input_shape=(5, 4), layers=[*layers, {"type": "affine", "units": 2}])
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    x = torch.randn(6, 5, 4)
    with torch.no_grad():
        expected = network["output"](module(x)[0]).numpy()
    first = f"{layers[0]['type']}_1"
    for names in ({}, {"encoder": first, "output": "affine_1"}) if len(layers) == 1 else ({},):
        model = import_model(tmp_path / "t.safetensors", spec, names).model
        assert np.abs(model.predict(x.numpy()) - expected).max() < 1e-6
    if len(layers) == 1:  # the names of an export are those of a torch module
        export(tmp_path / "back.safetensors", model)
        state = safetensors.load_file(tmp_path / "back.safetensors")
        module.load_state_dict({key.removeprefix("0."): array for key, array in state.items() if key[0] == "0"})
        with torch.no_grad():
            assert np.abs(network["output"](module(x)[0]).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("bias", [True, False])
def test_attention_of_torch_is_imported(tmp_path, bias):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, bias=bias, batch_first=True)
    network = nn.ModuleDict({"attention": attention, "norm": nn.LayerNorm(6)})
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    layers = [{"type": "attention", "heads": 2, "bias": bias}, {"type": "layer_norm"}]
    model = import_model(tmp_path / "t.safetensors", specnet.ModelSpec(input_shape=(5, 6), layers=layers)).model
    x = torch.randn(3, 5, 6)
    with torch.no_grad():
        expected = network["norm"](network["attention"](x, x, x)[0]).numpy()
    assert np.abs(model.predict(x.numpy()) - expected).max() < 2e-6
    export(tmp_path / "back.safetensors", model)
    state = safetensors.load_file(tmp_path / "back.safetensors")
    network["attention"].load_state_dict({key.removeprefix("0."): a for key, a in state.items() if key[0] == "0"})


def test_a_recurrent_weight_of_another_shape_is_reported_in_torchs_layout(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    spec = specnet.ModelSpec(input_shape=(5, 4), layers=[{"type": "gru", "units": 3}])
    shapes = {"weight_ih_l0": (9, 4), "weight_hh_l0": (9, 3), "bias_ih_l0": (9,), "bias_hh_l0": (9,)}
    right = {f"0.{name}": np.ones(shape, "f4") for name, shape in shapes.items()}
    for change, expected in (
        (
            {"0.weight_ih_l0": np.ones((4, 9), "f4")},
            r"gru_1: expected weight_ih_l0 of shape \(9, 4\) in torch's layout",
        ),
        ({"0.bias_hh_l0": np.ones((8,), "f4")}, r"gru_1: expected bias_hh_l0 of shape \(9,\) .*, got \(8,\)"),
        ({"0.bias_hh_l0": None}, r"gru_1: expected bias_hh_l0 of shape \(9,\) in torch's layout, got none"),
        ({"0.weight_ih_l0_reverse": np.ones((9, 4), "f4")}, "'0.weight_ih_l0_reverse' is not part of the model"),
        ({"0.weight_ih_l1": np.ones((9, 3), "f4")}, r"2 modules with arrays \(0.l0, 0.l1\), the model has 1"),
    ):
        arrays = {name: array for name, array in {**right, **change}.items() if array is not None}
        safetensors.save_file(arrays, tmp_path / "t.safetensors")
        with pytest.raises(specnet.CheckpointError, match=expected):
            import_model(tmp_path / "t.safetensors", spec)
