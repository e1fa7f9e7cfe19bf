"""Test export to ONNX, safetensors and .npz, and import of the exported files."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from specnet.interop.npz import from_npz
from specnet.interop.safetensors import from_safetensors
from tests.support import LAYERS, arrays_of, model_of, same_arrays
from tests.test_cli import run

NET = [{"type": "affine", "units": 4}, {"type": "batch_norm"}, {"type": "relu"}, {"type": "affine", "units": 3}]


def filled_model(*entries, dtype="float32", **settings):
    """Build a model with random arrays, including the running statistics of batch norms."""
    model = model_of(*entries, dtype=dtype, **settings)
    rng = np.random.default_rng(0)
    for parameter in model.parameters.values():
        parameter[...] = rng.normal(size=parameter.shape)
    if model.buffers and "count" in str(list(model.buffers)):
        shape = (9, *model.input_shape)
        integers = model.input_dtype.kind == "i"
        model.forward(rng.integers(0, 7, shape) if integers else rng.normal(size=shape), training=True)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
def test_every_layer_is_exported_to_onnx(tmp_path, entry, dtype):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = filled_model({"type": "affine", "units": 5}, entry, dtype=dtype)
    exact = any(layer.type == "gelu" and layer.approximate == "none" for _, layer, _ in model.spec.walk())
    if dtype == "float64" and exact:
        with pytest.raises(specnet.SpecnetError, match=r"gelu_1: ONNX Runtime has no exact gelu in float64"):
            export(tmp_path / "m.onnx", model)
        assert list(tmp_path.iterdir()) == []
        return
    exported = export(tmp_path / "m.onnx", model)
    assert exported.kind == "onnx"
    assert exported.difference < (1e-5 if dtype == "float32" else 1e-12) * 100


def test_exported_onnx_models_accept_batches_of_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    models = [
        filled_model(
            {"type": "embedding", "vocabulary": 7, "dimension": 3}, {"type": "flatten"}, *NET, input_shape=(4,)
        ),
        filled_model({"type": "standardize", "mean": [1, 2, 3], "std": [1, 2, 4]}, *NET, input_shape=(3,)),
        filled_model(*NET, {"type": "flatten"}, {"type": "softmax"}, input_shape=(2, 6)),
    ]
    for model in models:
        export(tmp_path / "m.onnx", model)
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
        for rows in (1, 7):
            x = np.random.default_rng(1).integers(0, 7, (rows, *model.input_shape)).astype(model.input_dtype)
            (y,) = session.run(None, {"input": x})
            assert np.allclose(y, model.predict(x), rtol=1e-5, atol=1e-5)
        properties = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
        assert specnet.ModelSpec.from_text(properties["specnet.model"]) == model.spec


def test_a_layer_without_onnx_operator_is_reported_by_name(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from specnet.interop.onnx import layer_writers

    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(layer_writers.LAYER_WRITERS, "tanh")
        with pytest.raises(specnet.SpecnetError, match=r"sequential_1\.tanh_1: ONNX has no operator for"):
            export(tmp_path / "m.onnx", model_of({"type": "sequential", "layers": [{"type": "tanh"}]}))


def test_an_export_with_different_predictions_is_not_written(tmp_path, monkeypatch):
    from specnet.interop import exporting

    model = filled_model(*NET)
    kind = exporting.KINDS["npz"]
    monkeypatch.setitem(exporting.KINDS, "npz", kind._replace(predict=lambda data, x: kind.predict(data, x) + 1e-3))
    with pytest.raises(specnet.SpecnetError, match=r"when read back, its predictions differ by 0\.001"):
        export(tmp_path / "m.npz", model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_npz_and_safetensors_round_trip_bit_for_bit(tmp_path, entry, dtype, kind):
    if kind == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = filled_model({"type": "affine", "units": 5}, entry, {"type": "affine", "units": 2}, dtype=dtype)
    path = tmp_path / f"m.{kind}"
    assert export(path, model).difference == 0
    imported = import_model(path).model
    assert imported.spec == model.spec
    assert same_arrays(arrays_of(imported), arrays_of(model))


def test_torch_reads_exported_safetensors(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model = filled_model(*NET)
    export(tmp_path / "m.safetensors", model)
    nn = torch.nn
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    network.load_state_dict(safetensors.load_file(tmp_path / "m.safetensors"))
    x = np.random.default_rng(1).normal(size=(8, 5)).astype("f4")
    with torch.no_grad():
        assert np.allclose(network.eval()(torch.tensor(x)).numpy(), model.predict(x), rtol=1e-5, atol=1e-6)


def test_a_torch_state_dict_is_imported(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 4) if i == 0 else nn.Linear(4, 4) for i in range(11)])
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.norm(x)

    network = Network().eval()
    network.norm.running_mean.uniform_()
    safetensors.save_file(network.state_dict(), tmp_path / "t.safetensors")
    layers = [{"type": "affine", "units": 4}, {"type": "tanh"}] * 11 + [{"type": "batch_norm"}]
    spec = specnet.ModelSpec(input_shape=(5,), layers=layers)
    model = from_safetensors(tmp_path / "t.safetensors", spec).model
    x = np.random.default_rng(1).normal(size=(8, 5)).astype("f4")
    with torch.no_grad():
        assert np.allclose(network(torch.tensor(x)).numpy(), model.predict(x), rtol=1e-5, atol=1e-6)


def test_the_commands_export_and_import(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = filled_model(*NET)
    specnet.save(tmp_path / "m.h5", model)
    for kind in ("npz", "safetensors"):
        out, err = run("export", "m.h5", "--out", f"m.{kind}", cwd=tmp_path)
        assert out == ""
        assert f"of {kind}; read back, its predictions differ by at most 0" in err
        run("import", f"m.{kind}", "--out", "back.h5", cwd=tmp_path)
        assert run("diff", "m.h5", "back.h5", cwd=tmp_path)[0] == ""
    (tmp_path / "model.json").write_text(model.spec.to_json())
    np.savez(tmp_path / "plain.npz", **model.parameters, **model.buffers)
    _, err = run("import", "plain.npz", "--out", "back.h5", cwd=tmp_path, code=1)
    assert "contains no model document; pass one: --model FILE" in err
    run("import", "plain.npz", "--model", "model.json", "--out", "back.h5", cwd=tmp_path)
    assert run("diff", "m.h5", "back.h5", cwd=tmp_path)[0] == ""
    for arguments, message_part in (
        (("export", "model.json", "--out", "x.npz"), "expected a checkpoint"),
        (("export", "m.h5", "--out", "x.txt"), "expected one of onnx, keras, safetensors, npz"),
        (("export", "m.h5", "--out", "m.h5", "--to", "npz"), "is the checkpoint itself"),
        (("import", "m.npz", "--out", "m.npz"), "would be overwritten"),
        (("import", "m.h5", "--model", "model.json", "--out", "x.h5"), "are only for files without an architecture"),
    ):
        assert message_part in run(*arguments, cwd=tmp_path, code=1)[1]


def malformed_files(tmp_path):
    """Yield malformed files, each with a pattern that the error message must match."""
    model = filled_model(*NET)
    arrays = {**model.parameters, **model.buffers}

    def npz(name, **changes):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{**arrays, "specnet.model": np.array(model.spec.to_json()), **changes})
        return path

    yield npz("extra", nonsense=np.ones(3)), "'nonsense' is not part of the model"
    yield npz("shape", **{"affine_1.weight": np.ones((4, 5))}), r"affine_1.weight: expected float32 of shape \(5, 4\)"
    yield npz("text", **{"affine_1.weight": np.full((5, 4), "x")}), "affine_1.weight: expected float32"
    yield npz("pickled", **{"affine_1.weight": np.array([{}] * 20, object)}), "cannot be read as .npz"
    yield npz("document", **{"specnet.model": np.array('{"input_shape": [5]}')}), "layers"
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for index in range(3):
            archive.writestr(f"a{index}.npy", bytes(30_000_000))
    yield bomb, "the archive unpacks to 90,000,000 bytes"
    for name, data in {
        "empty": b"",
        "short": b"\x01",
        "long": struct.pack("<Q", 2**62) + b"{}",
        "no json": struct.pack("<Q", 4) + b"{{{{",
        "pickle": pickle.dumps({"a": 1}),
        "array": struct.pack("<Q", 2) + b"[]",
    }.items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
        yield tmp_path / f"{name}.safetensors", "cannot be read as safetensors"
    for name in ("empty", "text"):
        (tmp_path / f"{name}2.npz").write_bytes(b"" if name == "empty" else b"PK no archive")
        yield tmp_path / f"{name}2.npz", "cannot be read as .npz"
    yield tmp_path / "missing.npz", "No such file"


def test_malformed_files_are_rejected_in_one_line(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    for path, message_pattern in malformed_files(tmp_path):
        read = from_npz if path.suffix == ".npz" else from_safetensors
        with pytest.raises(specnet.CheckpointError, match=message_pattern) as caught:
            read(path, None)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_safetensors_is_detected(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "m.safetensors"
    export(path, filled_model(*NET))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(specnet.CheckpointError, match=r"do not match specnet.sha256"):
        from_safetensors(path, None)


def test_a_different_number_of_modules_is_reported(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    safetensors.save_file({"fc.weight": np.ones((4, 5), "f4"), "fc.bias": np.ones(4, "f4")}, tmp_path / "t.safetensors")
    spec = model_of(*NET, dtype="float32").spec
    with pytest.raises(
        specnet.CheckpointError, match=r"contains 1 modules with arrays \(fc\), the model has 3: affine_1, batch_norm_1"
    ):
        from_safetensors(tmp_path / "t.safetensors", spec)
    spec_of_one = specnet.ModelSpec(input_shape=(5,), layers=[{"type": "affine", "units": 4}])
    assert from_safetensors(tmp_path / "t.safetensors", spec_of_one).model.parameters["affine_1.weight"].shape == (
        5,
        4,
    )


def test_exports_are_reproducible(tmp_path):
    model = filled_model(*NET)
    for kind in ("safetensors", "onnx"):
        pytest.importorskip(kind, reason=f"{kind} is not installed")
        first, second = (tmp_path / f"{n}.{kind}" for n in "ab")
        export(first, model)
        export(second, model)
        assert first.read_bytes() == second.read_bytes()
    assert json.loads(io.BytesIO((tmp_path / "a.safetensors").read_bytes()).read()[8:].split(b"}}")[0] + b"}}")
