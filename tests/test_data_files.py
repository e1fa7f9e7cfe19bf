"""Test data files: every format, and the errors for files that do not fit."""

import gzip
import os
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest

import specnet
from specnet import DataError
from specnet.data.conform import conform_inputs, conform_targets
from specnet.data.files import read_array, read_rows
from specnet.data.large_arrays import open_large
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy

X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])
SPEC = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 3}])
NAMED = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 3}], labels=["a", "b", "c"])
SHARED_DATA = "../shared/data"


def idx(array, dtype=">u1"):
    """Return the bytes of an IDX file."""
    codes = {">u1": 8, ">i4": 12, ">f4": 13, ">f8": 14}
    head = bytes([0, 0, codes[dtype], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(dtype).tobytes()


def test_npz_files_are_read(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    x, y = read_rows(tmp_path / "d.npz", "x", "y")[:2]
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    with pytest.raises(DataError, match=r'd\.npz: there is no array "xx"; did you mean "x"'):
        read_rows(tmp_path / "d.npz", "xx", "y")


def test_npz_files_with_pickled_objects_are_rejected(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], object), y=Y)
    with pytest.raises(DataError, match="allow_pickle"):
        read_rows(tmp_path / "d.npz", "x", "y")


def test_hdf5_files_are_read(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["group/x"], file["y"] = X, Y
        file["names"] = ["a", "b", "c", "a", "b", "c"]
    x, y = read_rows(tmp_path / "d.h5", "group/x", "names")[:2]
    assert np.array_equal(x, X)
    assert y.tolist() == ["a", "b", "c"] * 2
    with pytest.raises(DataError, match='no dataset "x"'):
        read_rows(tmp_path / "d.h5", "x", "y")


@pytest.mark.parametrize("dtype", [">u1", ">i4", ">f4", ">f8"])
@pytest.mark.parametrize("name", ["d.idx", "images-idx2-ubyte", "images-idx2-ubyte.gz", "d.idx.gz"])
def test_idx_files_are_read(tmp_path, dtype, name):
    data = idx(X, dtype)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert np.array_equal(read_array(tmp_path / name), X)


@pytest.mark.parametrize("cut", [2, 6, 20])
def test_truncated_idx_files_are_rejected(tmp_path, cut):
    (tmp_path / "d.idx").write_bytes(idx(X, ">f8")[:cut])
    with pytest.raises(DataError, match=r"d\.idx: (is not an IDX file|does not match its header)"):
        read_array(tmp_path / "d.idx")
    (tmp_path / "d.idx.gz").write_bytes(gzip.compress(idx(X))[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        read_array(tmp_path / "d.idx.gz")


def test_csv_files_are_read(tmp_path):
    (tmp_path / "d.csv").write_text('a,kind,"b"\n1,u,2\n3,v,4.5e0\n5,u,-6\n')
    pytest.importorskip("polars")
    x, y, _, names = read_rows(tmp_path / "d.csv", None, "kind")[:4]
    assert names == ("a", "b")
    assert x.tolist() == [[1, 2], [3, 4.5], [5, -6]]
    assert y.tolist() == ["u", "v", "u"]
    x, y = read_rows(tmp_path / "d.csv", ["b"], "a")[:2]
    assert x.tolist() == [[2], [4.5], [-6]]
    assert y.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("text", "message_pattern"),
    [
        ("a,b\n1,2\n3\n", r'row 2, column "b": a value is missing'),
        ("a,b\n1,2,3\n", "cannot be read as a table: found more fields"),
        ("a,b\n1,2\n3,x\n", r'row 2, column "b": expected a number, got the string "x"'),
        ("a,b\n1,\n3,4\n", r'row 1, column "b": a value is missing \(1 in the column\); .* fill'),
        ("a,b\n", "no rows"),
        ("", "no rows"),
        ("a,a\n1,2\n", '"a" appears twice in the header'),
        ('a,b\n"1,2\n', "cannot be read as a table"),
        ("a,b\n1,2\n\n3,nan\n", r'row 2, column "b": a value is missing'),
        ("a,b\n1,2024-01-01\n", r'row 1, column "b": expected a number, got the string "2024-01-01"'),
    ],
)
def test_invalid_csv_files_are_rejected_with_row_and_column(tmp_path, text, message_pattern):
    pytest.importorskip("polars")
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message_pattern) as caught:
        read_rows(tmp_path / "d.csv", ["b"] if "b" in text else ["a"], None)
    assert str(caught.value).startswith(str(tmp_path / "d.csv"))


def test_missing_and_malformed_files_are_rejected(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04nonsense")
    (tmp_path / "bad.npy").write_bytes(b"nonsense")
    (tmp_path / "bad.h5").write_bytes(b"nonsense")
    for name in ("bad.npz", "bad.h5", "none.npz", "none.h5", "none.csv", "none.npy", "a.txt", "bad.npy"):
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path / name, "x", None)
        assert str(caught.value).startswith(str(tmp_path / name)), caught.value
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message_pattern"),
    [
        (np.ones((6, 3)), r"\(batch, 2\), got \(6, 3\)"),
        (np.ones((0, 2)), "no rows"),
        (np.array(3.0), "no rows"),
        (np.array([["a", "b"]]), "numbers"),
        (np.array([[1, 2], [3, np.nan]]), r"row 2, column 2: .*got nan"),
        (np.array([[1, np.inf]]), "got inf"),
        (np.array([[1e300, 0]]), "row 1, column 1: .*float32 cannot hold"),
        (np.ones((6, 2, 1)), "flatten"),
    ],
)
def test_invalid_inputs_are_rejected(raw, message_pattern):
    with pytest.raises(DataError, match=message_pattern) as caught:
        conform_inputs(raw, SPEC, "d.npz")
    assert str(caught.value).startswith("d.npz: inputs")


def test_valid_inputs_are_converted():
    inputs = conform_inputs(X.astype(np.uint8), SPEC, "d")
    assert inputs.dtype == np.float32
    assert inputs.flags.c_contiguous


@pytest.mark.parametrize(
    ("raw", "message_pattern"),
    [
        (Y[:5], "expected 6 rows"),
        (np.array([0, 1, 3, 0, 1, 2]), r"row 3: .*0 to 2, got 3"),
        (np.array([0, -1, 2, 0, 1, 2]), r"row 2: .*got -1"),
        (np.array([0, 1.5, 2, 0, 1, 2]), r"row 2: .*class from 0 to 2, got 1.5"),
        (np.array([0, np.nan, 2, 0, 1, 2]), r"row 2: .*got nan"),
        (np.ones((6, 3)), "one class index per row"),
        (np.array(list("abcabd")), 'row 6: "d" is not one of the labels'),
        (np.array([1j] * 6), "numbers"),
    ],
)
def test_invalid_classes_are_rejected(raw, message_pattern):
    with pytest.raises(DataError, match=message_pattern):
        conform_targets(raw, NAMED, SoftmaxCrossEntropy(), 6, "d.npz")


def test_text_targets_need_labels():
    with pytest.raises(DataError, match=r"a, b, c, .*labels"):
        conform_targets(np.array(list("abcabc")), SPEC, SoftmaxCrossEntropy(), 6, "d.npz")
    assert conform_targets(np.array(list("abcabc")), NAMED, SoftmaxCrossEntropy(), 6, "d").tolist() == [
        0,
        1,
        2,
        0,
        1,
        2,
    ]


def test_targets_are_converted_to_dtype_and_shape_of_the_loss():
    for raw in (Y, Y.astype(np.uint8), Y.astype(float), Y[:, None]):
        targets = conform_targets(raw, SPEC, SoftmaxCrossEntropy(), 6, "d")
        assert targets.dtype == np.int64
        assert targets.tolist() == Y.tolist()
    single = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 1}])
    assert conform_targets(Y, single, MeanSquaredError(), 6, "d").shape == (6, 1)
    with pytest.raises(DataError, match=r"\(batch, 3\), got \(6,\)"):
        conform_targets(Y, SPEC, MeanSquaredError(), 6, "d")
    with pytest.raises(DataError, match="got nan"):
        conform_targets(np.array([[np.nan]] * 6), single, MeanSquaredError(), 6, "d")
    assert conform_targets(Y / 2, single, BinaryCrossEntropy(), 6, "d").max() == 1
    with pytest.raises(DataError, match=r"d: targets: row 3, column 1: binary_cross_entropy .* from 0 to 1, got 2"):
        conform_targets(Y, single, BinaryCrossEntropy(), 6, "d")


def experiment(train, **data):
    model = SPEC.model_dump(mode="json")
    return {
        "model": model,
        "data": {"train": train, **data},
        "training": {"loss": "softmax_cross_entropy", "seed": 5},
    }


def test_inputs_and_targets_from_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    (tmp_path / "y-idx1-ubyte").write_bytes(idx(Y))
    spec, folder = load_experiment(experiment({"inputs": "x.npy", "targets": "y-idx1-ubyte"}))
    _, train, validation = load_data(spec, folder)
    assert np.array_equal(train.inputs, X)
    assert np.array_equal(train.targets, Y)
    assert validation is None
    with pytest.raises(DataError, match=r"other\.npy: there is no such file"):
        load_data(*load_experiment(experiment({"inputs": "other.npy", "targets": "y-idx1-ubyte"})))


def test_inputs_of_a_csv_are_all_columns_but_the_target(tmp_path, monkeypatch):
    pytest.importorskip("polars")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("a,b,k\n1,2,0\n3,4,1\n5,6,2\n")
    _, train, _ = load_data(*load_experiment(experiment({"path": "d.csv", "targets": "k"})))
    assert train.inputs.tolist() == [[1, 2], [3, 4], [5, 6]]
    _, train, _ = load_data(*load_experiment(experiment({"path": "d.csv", "inputs": ["b", "a"], "targets": "k"})))
    assert train.inputs.tolist() == [[2, 1], [4, 3], [6, 5]]


def test_the_seed_selects_the_validation_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=np.arange(200.0).reshape(100, 2), y=np.arange(100) % 3)
    entry = {"path": "d.npz"}
    _, train, validation = load_data(*load_experiment(experiment(entry, validation={"fraction": 0.2})))
    assert (len(train), len(validation)) == (80, 20)
    rows = np.concatenate([train.inputs[:, 0], validation.inputs[:, 0]])
    assert sorted(rows) == list(range(0, 200, 2))
    _, same_seed, _ = load_data(*load_experiment(experiment(entry, validation={"fraction": 0.2})))
    assert same_seed.fingerprint() == train.fingerprint()
    _, other_seed, _ = load_data(
        *load_experiment(experiment(entry, validation={"fraction": 0.2}), {"training.seed": "6"})
    )
    assert other_seed.fingerprint() != train.fingerprint()
    np.savez("one.npz", x=X[:1], y=Y[:1])
    with pytest.raises(DataError, match="too few"):
        load_data(*load_experiment(experiment({"path": "one.npz"}, validation={"fraction": 0.2})))


def test_real_idx_files(root):
    images = root / SHARED_DATA / "mnist-t10k-images-idx3-ubyte.gz"
    if not images.exists():
        pytest.skip("the MNIST test images are not available")
    x = read_array(images)
    y = read_array(images.with_name("mnist-t10k-labels-idx1-ubyte.gz"))
    assert (x.shape, x.dtype, int(x.max())) == ((10_000, 28, 28), np.uint8, 255)
    assert np.bincount(y).sum() == 10_000


def test_parquet_files_and_columns_selected_by_name(tmp_path):
    pl = pytest.importorskip("polars", reason="polars is not installed")
    frame = pl.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "yes": [True, False], "k": ["u", "v"]})
    frame.write_parquet(tmp_path / "d.parquet")
    x, y, w, names = read_rows(tmp_path / "d.parquet", None, "k", "b")[:4]
    assert (x.tolist(), y.tolist(), w.tolist(), names) == ([[1, 1], [2, 0]], ["u", "v"], [0.5, 1.5], ("a", "yes"))
    assert read_rows(tmp_path / "d.parquet", ["yes"], ["a", "b"])[1].tolist() == [[1, 0.5], [2, 1.5]]
    with pytest.raises(DataError, match='"b" is both an input and a target or weight'):
        read_rows(tmp_path / "d.parquet", ["b"], ["a", "b"])
    assert read_rows(tmp_path / "d.parquet", ["a"], "yes")[1].tolist() == [1, 0]
    frame.with_columns(pl.col("k").cast(pl.Categorical)).write_parquet(tmp_path / "d.parquet")
    assert read_rows(tmp_path / "d.parquet", ["a"], "k")[1].tolist() == ["u", "v"]
    with pytest.raises(DataError, match="no columns for the inputs besides a, b, yes, k"):
        read_rows(tmp_path / "d.parquet", None, ["a", "b"], beside=("yes", "k"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read"):
        read_rows(tmp_path / "bad.parquet", None, "k")
    pl.DataFrame({"a": [{"b": 1}, {"b": 2}], "y": [1, 2]}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r'column "a": expected numbers, got Struct.*cannot be an input'):
        read_rows(tmp_path / "d.parquet", None, "y")


def test_missing_values_are_filled_if_declared(tmp_path, monkeypatch):
    pytest.importorskip("polars", reason="polars is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("a,b,k\n1,,0\n,4,1\nNA,6,2\n")
    assert read_rows(tmp_path / "d.csv", None, "k", fill=7)[0].tolist() == [[1, 7], [7, 4], [7, 6]]
    entry = {"path": "d.csv", "targets": "k", "fill": {"a": -1, "b": 0.5}}
    assert load_data(*load_experiment(experiment(entry))).train.inputs.tolist() == [[1, 0.5], [-1, 4], [-1, 6]]
    with pytest.raises(DataError, match=r'row 2, column "a": a value is missing \(2 in the column\)'):
        load_data(*load_experiment(experiment({**entry, "fill": {"b": 0}})))
    with pytest.raises(DataError, match='no column "c"'):
        load_data(*load_experiment(experiment({**entry, "fill": {"c": 0}})))
    with pytest.raises(specnet.SpecError, match=r"data\.train\.fill: expected a number, or an object"):
        load_experiment(experiment({**entry, "fill": "mean"}))
    (tmp_path / "d.csv").write_text("a,b,k\n1,2,x\n3,4,\n")
    with pytest.raises(DataError, match=r'row 2, column "k": a value is missing'):
        load_data(*load_experiment(experiment({"path": "d.csv", "targets": "k"})))


def test_tables_need_polars(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    (tmp_path / "d.csv").write_text("a,y\n1,2\n")
    with pytest.raises(specnet.SpecnetError, match=r"needs polars; pip install 'specnet-nn\[data\]'"):
        read_rows(tmp_path / "d.csv", None, "y")


def test_integer_targets_may_be_class_labels():
    spec = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 3}], labels=["3", "5", "9"])
    assert conform_targets(np.array([9, 3, 5]), spec, SoftmaxCrossEntropy(), 3, "d").tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r'row 2: "4" is not one of the labels'):
        conform_targets(np.array([9, 4, 5]), spec, SoftmaxCrossEntropy(), 3, "d")


def test_text_of_hdf5_files_is_utf8(tmp_path):
    names = ["caf\u00e9", "th\u00e9"]
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["variable"] = names
        file["fixed"] = np.array([name.encode() for name in names])
        file["marked"] = np.array([name.encode() for name in names], h5py.string_dtype("utf-8", 5))
    for key in ("variable", "fixed", "marked"):
        y = read_rows(tmp_path / "d.h5", "fixed", key).targets
        spec = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 2}], labels=names)
        assert conform_targets(y, spec, SoftmaxCrossEntropy(), 2, "d").tolist() == [0, 1]


@pytest.mark.parametrize("point", [0x110000, 0x7FFFFFFF, 0xD800])
def test_text_of_invalid_code_points_is_rejected(tmp_path, point):
    y = np.array(["a", "b", "c"], "<U8")
    y.view("<u4")[8] = point
    np.savez(tmp_path / "d.npz", x=X[:3], y=y)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(DataError, match=r"d\.npz: holds text with invalid code points"):
        read_rows(tmp_path / "d.npz", "x", "y")
    with pytest.raises(DataError, match=r"y\.npy: holds text with invalid code points"):
        read_array(tmp_path / "y.npy")


SPECIAL = ["d.npz", "d.npy", "d.csv", "d.parquet", "d.h5", "d.idx", "d.idx.gz"]


@pytest.mark.parametrize("name", SPECIAL)
def test_special_files_are_rejected_at_once(tmp_path, name):
    if name.endswith(("csv", "parquet")):
        pytest.importorskip("polars")
    os.mkfifo(tmp_path / name)
    other = tmp_path / f"folder-{name}"
    other.mkdir()
    device = tmp_path / f"device-{name}"
    device.symlink_to("/dev/zero")
    for path, pattern in (
        (tmp_path / name, "not a regular file"),
        (other, "directory"),
        (device, "not a regular file"),
    ):
        with pytest.raises(DataError, match=f"cannot be read: it is .*{pattern.split()[-1]}"):
            read_array(path) if "idx" in name or name.endswith("npy") else read_rows(path, "x", None)
        if name in ("d.npy", "d.h5"):
            with pytest.raises(DataError, match="cannot be read"):
                open_large(path, "x", in_memory=False)


def test_small_files_of_huge_arrays_are_rejected(tmp_path):
    zeros = np.zeros(2**29 // 8)
    np.savez_compressed(tmp_path / "d.npz", x=zeros, y=zeros[:3])
    with gzip.open(tmp_path / "d.idx.gz", "wb", compresslevel=1) as file:
        file.write(idx(zeros[:0], ">f8")[:4] + struct.pack(">I", len(zeros)))
        for _ in range(8):
            file.write(bytes(2**26))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("x", (2**17, 2**9), "f8", chunks=(2**10, 2**9), compression="gzip")
    for name in ("d.npz", "d.h5"):
        with pytest.raises(DataError, match=r"would unpack to 536,87[01],[0-9]+ bytes, more than"):
            read_rows(tmp_path / name, "x", None)
    with pytest.raises(DataError, match="would unpack to 536,870,912 bytes, more than"):
        read_array(tmp_path / "d.idx.gz")
    assert read_rows(tmp_path / "d.npz", "y", None)[0].tolist() == [0, 0, 0]


def test_other_ways_to_store_huge_arrays_in_small_files_are_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", bytes(2**20))
    with pytest.raises(DataError, match="another method than numpy's"):
        read_rows(tmp_path / "d.npz", "x", None)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("x", (100, 4), "f8", chunks=(2**24, 4), maxshape=(None, 4), compression="gzip")
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((100, 4))
        properties.set_deflate(9)
        properties.set_deflate(9)
        space = h5py.h5s.create_simple((100, 4))
        h5py.h5d.create(file.id, b"twice", h5py.h5t.IEEE_F64LE, space, properties)
    with pytest.raises(DataError, match="would unpack to 536,870,912 bytes"):
        read_rows(tmp_path / "d.h5", "x", None)
    with pytest.raises(DataError, match="compressed twice"):
        read_rows(tmp_path / "d.h5", "twice", None)


def test_texts_that_are_no_names_are_rejected(tmp_path):
    names = ["u", "v"] * 20 + ["Z" * 200_000]
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"], file["y"] = np.ones((41, 1)), names
    message = "row 41, .*y.*: expected a class name of at most 1,000, got a text of 200,000 characters"
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "d.h5", "x", "y")
    (tmp_path / "d.csv").write_text("x,y\n" + "".join(f"1,{name}\n" for name in names))
    pytest.importorskip("polars")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "d.csv", "x", "y")


def test_large_arrays_are_found_by_names_that_look_equal(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["\u00e9"] = X
    array = open_large(tmp_path / "d.h5", "e\u0301", in_memory=False)
    assert np.array_equal(array.read((0, 6))[0], X)


def test_datasets_stored_in_other_files_are_rejected(tmp_path):
    (tmp_path / "outside.bin").write_bytes(X.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = X
    layout = h5py.VirtualLayout(X.shape, "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", X.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    space = h5py.h5s.create_simple(X.shape, (h5py.h5s.UNLIMITED, 2))
    space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), (6, 1), (6, 2))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pattern = str(tmp_path / "other%b.h5").encode()
    properties.set_virtual(space, pattern, b"x", h5py.h5s.create_simple(X.shape))
    with h5py.File(tmp_path / "printf.h5", "w") as file:
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, properties)
    (tmp_path / "other.h5").rename(tmp_path / "other0.h5")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("x", X.shape, "f8", external=[(str(tmp_path / "outside.bin"), 0, X.nbytes)])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
    for name in ("virtual", "printf", "external", "linked"):
        with pytest.raises(DataError, match=rf"{name}\.h5: .*(other datasets|other files|no dataset)"):
            read_rows(tmp_path / f"{name}.h5", "x", None)
        with pytest.raises(DataError, match=rf"{name}\.h5: .*(other datasets|other files|no dataset)"):
            open_large(tmp_path / f"{name}.h5", "x", in_memory=False)
