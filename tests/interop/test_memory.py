"""Test that importing takes memory in proportion to the file: files made to exhaust it are refused before they do."""

import io
import json
import struct
import subprocess
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from specnet.interop.foreign_file import unpacked_limit

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
CONSTANT = 256 * 2**20
"""What importing a small file may take, besides the interpreter and the libraries."""

CODE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))  # if the limits fail, only this process does
from specnet.interop.importing import import_model
sys.argv[1].endswith("onnx") and __import__("onnx")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    import_model(sys.argv[1])
    print("imported")
except ValueError as error:
    print(error)
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(1024 * max(peaks[0] - before, peaks[1] - before))
"""
PATTERN = np.tile(np.random.default_rng(0).normal(size=1024).astype("f4"), 2**10)
"""4 MiB that deflate packs into 1/200."""


def keras(path, config=None, weights=None):
    """Write the golden .keras file with another config or other weights, packed."""
    with zipfile.ZipFile(GOLDEN / "keras3.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = config or members["config.json"]
    members["model.weights.h5"] = members["model.weights.h5"] if weights is None else weights
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def keras_weights(path, repeats):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for index in range(repeats):
            file[f"layers/dense/vars/{index}"] = PATTERN
    keras(path, weights=buffer.getvalue())


def keras_packed_twice(path):
    """Pack arrays in weights that zeros make large enough to hold them, and pack these."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = np.zeros(3 * 2**20, "f4")
        for index in range(1, 26):
            file.create_dataset(f"layers/dense/vars/{index}", data=PATTERN, chunks=PATTERN.shape, compression=9)
    keras(path, weights=buffer.getvalue())


def keras_fills(path):
    norm = {"class_name": "LayerNormalization", "config": {"scale": False, "center": False}}
    layers = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 2**24]}}, *[norm] * 20]
    empty = io.BytesIO()
    h5py.File(empty, "w").close()
    keras(path, json.dumps({"class_name": "Sequential", "config": {"layers": layers}}).encode(), empty.getvalue())


def keras_text(path, size):
    keras(path, b'{"class_name": "Sequential", "config": {"layers": [' + b"[]," * (size // 3) + b"1]}}")


def npz(path, repeats):
    np.savez_compressed(path, **{"affine_1.weight": np.tile(PATTERN, repeats)})


def npz_other_method(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", bytes(150_000_000))
    data = bytearray(path.read_bytes())  # claims 1,000 bytes
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = data.rfind(signature) + offset
        data[start : start + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)


def npz_document(path):
    document = {"input_shape": [2**30], "layers": [{"type": "relu"}, {"type": "standardize", "mean": 0, "std": 1}]}
    np.savez(path, **{"specnet.model": np.array(json.dumps(document))})


def npz_claim(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**36,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue())


def hdf5(path, repeats):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        for index in range(repeats):
            file.create_dataset(str(index), data=PATTERN, chunks=PATTERN.shape, compression=9)


def hdf5_text(path):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        file.create_dataset("t", (200_000,), dtype=h5py.string_dtype())[0] = "x" * 60_000


def hdf5_chunk(path):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        file.create_dataset("t", (10,), "f4", maxshape=(None,), chunks=(2**26,), compression=9)[:] = 1


def safetensors_header(path):
    path.write_bytes(struct.pack("<Q", 99_999_999) + b"{}")


def onnx_graph(path, nodes, constant):
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node[:3], **node[3]) for node in nodes],
        "g",
        [value("x", 1, ["n", constant.shape[0]])],
        [value(nodes[-1][2][0], 1, None)],
        [onnx.numpy_helper.from_array(constant, "c")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString())


def names(index):
    return f"v{index}" if index else "x"


def onnx_casts(path):
    casts = [("Cast", [f"c{i}" if i else "c"], [f"c{i + 1}"], {"to": 1 if i % 2 else 11}) for i in range(200)]
    onnx_graph(path, [*casts, ("MatMul", ["x", "c200"], ["y"], {})], np.eye(1000, dtype="f4"))


def onnx_shared(path):
    nodes = [("MatMul", [names(i), "c"], [names(i + 1)], {}) for i in range(400)]
    onnx_graph(path, nodes, np.eye(1000, dtype="f4"))


def onnx_lists(path):
    nodes = [("Add", [names(i), "c"], [names(i + 1)], {}) for i in range(100)]
    onnx_graph(path, nodes, np.ones(250_000, "f4"))


def onnx_nodes(path):
    inner = b"\x0a\x00" * 4_000_000
    path.write_bytes(b"\x3a" + bytes([len(inner) >> s & 127 | (128 if s < 21 else 0) for s in (0, 7, 14, 21)]) + inner)


def onnx_flattened(path):
    """Write products that share a weight of 4 MB, whose rows are reordered because a convolution comes before each."""
    import onnx

    node, turn = onnx.helper.make_node, {"perm": [0, 3, 1, 2]}
    nodes, value = [], "x"
    for index in range(400):
        names = [f"{kind}{index}" for kind in "tcfmr"]
        nodes += [
            node("Transpose", [value], [names[0]], **turn),
            node("Conv", [names[0], "k"], [names[1]]),
            node("Flatten", [names[1]], [names[2]]),
            node("MatMul", [names[2], "w"], [names[3]]),
            node("Reshape", [names[3], "s"], [names[4]]),
        ]
        value = names[4]
    arrays = {"k": np.ones((10, 10, 1, 1), "f4"), "w": np.ones((1000, 1000), "f4"), "s": np.array([0, 10, 10, 10])}
    made = onnx.helper.make_tensor_value_info
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", [made("x", 1, ["n", 10, 10, 10])], [made(value, 1, None)], tensors)
    path.write_bytes(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()
    )


def onnx_document(layers, shape):
    """Return a maker of a file whose document describes a far larger graph than it has."""

    def make(path):
        onnx_graph(path, [("Relu", ["x"], ["y"], {})], np.ones(4, "f4"))
        import onnx

        model = onnx.load(path)
        document = json.dumps({"dtype": "float64", "input_shape": shape, "layers": layers})
        onnx.helper.set_model_props(model, {"specnet.model": document})
        onnx.save(model, path)

    return make


def keras_spatial(class_name, **config):
    layers = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 64, 64, 3]}}]
    layers.append({"class_name": class_name, "config": config})
    config_text = json.dumps({"class_name": "Sequential", "config": {"layers": layers}}).encode()
    empty = io.BytesIO()
    h5py.File(empty, "w").close()
    return lambda path: keras(path, config_text, empty.getvalue())


BOMBS = {
    "flattened.onnx": (onnx_flattened, "the constants computed from others are far larger than the file"),
    "matrices.onnx": (onnx_document([{"type": "upsample1d", "size": 1}] * 300, [2048, 1]), "imported"),
    "matrix.onnx": (onnx_document([{"type": "upsample1d", "size": 2**30}], [2**10, 1]), "imported"),
    "taps.onnx": (onnx_document([{"type": "average_pool1d", "pool_size": 1}] * 9, [2**24, 1]), "imported"),
    "causal.onnx": (onnx_document([{"type": "attention", "heads": 1, "causal": True}] * 3, [2**15, 1]), "imported"),
    "positions.onnx": (onnx_document([{"type": "positional_encoding"}], [2**24, 8]), "imported"),
    "zeros.keras": (keras_spatial("ZeroPadding2D", padding=2**30), "an output would have"),
    "large.keras": (keras_spatial("UpSampling2D", size=2**15), "an output would have"),
    "depthwise.keras": (
        keras_spatial("DepthwiseConv2D", kernel_size=2**20, padding="same", depth_multiplier=2**12),
        "more than 2147483648; use less padding",
    ),
    "weights.keras": (lambda path: keras_weights(path, 25), "model.weights.h5 unpacks to 104,"),
    "twice.keras": (keras_packed_twice, "all arrays together are far larger than the file"),
    "fills.keras": (keras_fills, "its model would have 671,088,640 numbers"),
    "text.keras": (lambda path: keras_text(path, 15_000_000), "config.json unpacks to 15,"),
    "large.npz": (lambda path: npz(path, 25), "affine_1.weight.npy unpacks to 104,"),
    "method.npz": (npz_other_method, "a.npy is compressed by another method than deflate"),
    "document.npz": (npz_document, "its model would have 2,147,483,648 numbers, but the file holds 0"),
    "claim.npz": (npz_claim, ""),
    "large.h5": (lambda path: hdf5(path, 25), "all arrays together are far larger than the file"),
    "text.h5": (hdf5_text, "all arrays together are far larger than the file"),
    "chunk.h5": (hdf5_chunk, "all arrays together are far larger than the file"),
    "header.safetensors": (safetensors_header, "its header is longer than the file"),
    "casts.onnx": (onnx_casts, "the constants computed from others are far larger than the file"),
    "shared.onnx": (onnx_shared, "its model would have 400,000,000 numbers, but the file holds 1,000,000"),
    "lists.onnx": (onnx_lists, "the document would list more than 1,048,576 numbers"),
    "nodes.onnx": (onnx_nodes, "has more than 1,000,000 fields"),
    "within.keras": (lambda path: keras_weights(path, 15), "arrays in the file"),
    "within-text.keras": (lambda path: keras_text(path, 4_100_000), "its config is not one of Keras"),
    "within.npz": (lambda path: npz(path, 15), "contains no model document"),
    "within.h5": (lambda path: hdf5(path, 15), "its config is not one of Keras"),
}
"""Files that claim more than they hold, or, `within`, just less than the limits."""


DEFAULT = ("weights.keras", "fills.keras", "large.npz", "chunk.h5", "nodes.onnx", "shared.onnx", "within.keras")


@pytest.mark.parametrize("name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.full) for n in BOMBS])
@pytest.mark.full
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path, python, name):
    make, message_part = BOMBS[name]
    if name.endswith((".onnx", ".safetensors")):
        pytest.importorskip(name.rpartition(".")[2], reason="not installed")
    path = tmp_path / name
    make(path)
    done = subprocess.run([python, "-c", CODE, path], capture_output=True, text=True, timeout=120, check=True)
    *message, peak = done.stdout.splitlines()
    size = path.stat().st_size
    assert len(message) == 1
    assert message_part in message[0]
    assert int(peak) < CONSTANT + 25 * size, f"{int(peak) / 2**20:.0f} MiB for {size:,} bytes"


def test_the_limit_leaves_room_for_what_compresses():
    assert unpacked_limit(0) == 64 * 2**20
    assert unpacked_limit(10**9) == 64 * 2**20 + 8 * 10**9
