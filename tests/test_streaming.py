"""Test streaming of rows from files: the same training results, every row once per epoch, bounded memory."""

import json
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet import DataError
from specnet.data import large_arrays, streaming
from specnet.data.dataset import Dataset, Order
from specnet.data.large_arrays import HDF5Array, NpyArray
from specnet.data.prefetch import prefetch
from specnet.data.streaming import StreamedDataset
from specnet.mpi.batch_shares import BatchShare
from specnet.mpi.world import World
from tests.support import arrays_of, same_arrays

SPEC = specnet.ModelSpec(input_shape=(3,), layers=[{"type": "standardize"}, {"type": "affine", "units": 2}])


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 8 * 3 * 40)  # 40 rows


def write_files(rows=500, width=3):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)), rng.integers(0, 2, rows)
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("w.npy", rng.uniform(1, 2, rows))
    with h5py.File("d.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(16, width), compression="gzip")
        file["y"] = y
    return x, y


def rows_of(rows=500, path="x.npy"):
    x, _ = write_files(rows)
    array = NpyArray(Path(path)) if path.endswith("npy") else HDF5Array(
        Path(path), "x"
    )  # fmt: skip
    return x, StreamedDataset(array, np.arange(rows), None, SPEC, path)


def document(shuffle=True, **entry):
    return {
        "name": "large",
        "model": SPEC.model_dump(mode="json"),
        "data": {"train": entry, "validation": {"inputs": "x.npy", "targets": "y.npy"}},
        "training": {
            "loss": "softmax_cross_entropy",
            "epochs": 3,
            "batch_size": 16,
            "shuffle": shuffle,
            "checkpoint": {"every_steps": 5},
        },
    }


NPY = {"inputs": "x.npy", "targets": "y.npy"}
FORMATS = {"npy": NPY, "npy, weighted": {**NPY, "weights": "w.npy"}, "h5": {"path": "d.h5"}}


@pytest.mark.parametrize("entry", FORMATS.values(), ids=FORMATS.keys())
def test_streaming_without_shuffling_trains_as_from_memory(entry):
    write_files()
    in_memory = specnet.train(document(shuffle=False, **entry, in_memory=True), out="whole")
    streamed = specnet.train(document(shuffle=False, **entry, in_memory=False), out="parts")
    for name, value in in_memory.model.parameters.items():
        assert np.allclose(value, streamed.model.parameters[name], rtol=1e-6)
    assert in_memory.history["loss"] == pytest.approx(streamed.history["loss"])
    assert np.allclose(in_memory.model.buffers["standardize_1.mean"], streamed.model.buffers["standardize_1.mean"])


@pytest.mark.parametrize("path", ["x.npy", "d.h5"])
@pytest.mark.parametrize("size", [1, 7, 16, 100])
def test_every_epoch_has_each_row_once_in_a_new_order(path, size):
    x, rows = rows_of(path=path)
    orders = []
    for epoch in range(3):
        blocks = list(rows.blocks(size, Order(5, epoch)))
        assert all(len(block) % size == 0 for block in blocks[:-1])
        row_numbers = np.concatenate([block.targets for block in blocks])
        assert sorted(row_numbers) == list(range(len(x)))
        inputs = np.concatenate([block.inputs for block in blocks])
        assert np.array_equal(inputs, x[row_numbers].astype(np.float32))
        orders.append(row_numbers.tolist())
    assert orders[0] != orders[1] != orders[2]
    repeated = np.concatenate([block.targets for block in rows.blocks(size, Order(5, 0))])
    assert repeated.tolist() == orders[0]
    in_file_order = np.concatenate([block.targets for block in rows.blocks(size, None)])
    assert in_file_order.tolist() == list(range(len(x)))
    assert [part.targets[0] for part in rows.in_order(size)] == list(range(0, len(x), min(size, 40)))


@pytest.mark.parametrize("first", [0, 16, 160, 176, 480, 496])
def test_an_epoch_can_be_resumed_at_any_row(first):
    _, rows = rows_of()
    all_rows = np.concatenate([block.targets for block in rows.blocks(16, Order(1, 2))])
    remaining = np.concatenate([block.targets for block in rows.blocks(16, Order(1, 2), first)])
    assert remaining.tolist() == all_rows[first:].tolist()


@pytest.mark.parametrize("stop", [3, 5, 17, 32, 40])
def test_a_resumed_run_ends_with_the_same_bytes(stop):
    write_files()
    doc = document(**NPY, in_memory=False)
    uninterrupted = specnet.train(doc, out="whole")
    specnet.train(doc, out="part", listeners=[lambda e: e.run.stop() if e.run.step >= stop else None])
    resumed = specnet.train(doc, out="part", resume=True)
    assert same_arrays(arrays_of(uninterrupted.model), arrays_of(resumed.model))
    assert resumed.history == uninterrupted.history


def test_an_invalid_value_is_reported_with_its_row_in_the_file():
    x, _ = write_files()
    x[333, 1] = np.nan
    np.save("x.npy", x)
    with pytest.raises(DataError, match=r"x\.npy: inputs: row 334, column 2: expected a finite number, got nan"):
        specnet.train(document(**NPY, in_memory=False), out="r")


def test_files_that_cannot_be_streamed_are_rejected():
    x, y = write_files()
    np.save("f.npy", np.asfortranarray(x))
    with pytest.raises(DataError, match="not stored row by row"):
        specnet.train(document(inputs="f.npy", targets="y.npy", in_memory=False), out="r")
    np.savez("d.npz", x=x, y=y)
    with pytest.raises(DataError, match=r"only \.npy and \.h5 files can be read in parts"):
        specnet.train(document(path="d.npz", in_memory=False), out="r")
    doc = document(**NPY, in_memory=False)
    doc["data"]["validation"] = {"fraction": 0.2}
    with pytest.raises(DataError, match=r"none of its rows can be held out; name a separate file in data\.validation"):
        specnet.train(doc, out="r")
    with open("x.npy", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(DataError, match=r"x\.npy: is truncated"):
        specnet.train(document(**NPY, in_memory=False), out="r")


@pytest.mark.parametrize("rows", [440, 498, 501])
def test_a_run_stops_if_its_file_changes(rows):
    write_files()

    def change(event):
        if event.kind == "epoch":
            np.save("x.npy", np.zeros((rows, 3)))

    doc = document(shuffle=False, **NPY, in_memory=False)
    del doc["data"]["validation"]
    with pytest.raises(DataError, match=r"x\.npy: has changed since it was opened"):
        specnet.train(doc, out="r", listeners=[change])


def test_an_epoch_with_too_few_rows_is_an_error(monkeypatch):
    write_files()
    original_blocks = StreamedDataset.blocks
    monkeypatch.setattr(
        StreamedDataset, "blocks", lambda self, *a: (b.rows(slice(0, 16)) for b in original_blocks(self, *a))
    )
    with pytest.raises(DataError, match="the rows of epoch 1 ended after"):
        specnet.train(document(**NPY, in_memory=False), out="r")


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
@pytest.mark.parametrize("order", [None, Order(1, 2)])
def test_blocks_of_wide_rows_are_bounded_in_bytes(monkeypatch, dtype, order):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 2**20)
    width = 20_000
    np.save("x.npy", np.ones((400, width), dtype))
    spec = specnet.ModelSpec(input_shape=(width,), layers=[{"type": "affine", "units": 1}])
    rows = StreamedDataset(NpyArray(Path("x.npy")), np.zeros(400), None, spec, "x.npy")
    assert max(len(part) for part in rows.in_order(1024)) * width * 4 <= 2**20
    largest = max(len(block) for block in rows.blocks(8, order))
    assert largest * width * 4 <= 4 * 2**20
    tracemalloc.start()
    for _ in rows.blocks(8, order):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.working_bytes(8) + 2 * 2**20


class IsolatedProcess(World):
    """Stand in for one of several processes that exchange no messages."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize("gap", [0, 24, 2**16], ids=["no gap", "a row", "whole chunks"])
@pytest.mark.parametrize("order", [None, Order(1, 2)], ids=["in order", "shuffled"])
@pytest.mark.parametrize(("path", "count"), [("x.npy", 1), ("x.npy", 3), ("x.npy", 20), ("d.h5", 3)])
def test_each_process_reads_only_its_rows(monkeypatch, path, count, order, gap):
    """Check that all shares together hold every row of an epoch once, at its place in the whole block."""
    x, rows = rows_of(path=path)
    (expected,) = [np.concatenate([block.inputs for block in rows.blocks(16, order)])]
    monkeypatch.setattr(streaming, "GAP_BYTES", gap)
    original_read, spans = rows._file.read, []
    monkeypatch.setattr(rows._file, "read", lambda *parts: spans.extend(parts) or original_read(*parts))
    collected, row_count = np.full_like(x, np.nan), 0
    for rank in range(count):
        share, offset = BatchShare(IsolatedProcess(rank, count), 16), 0
        for block in rows.blocks(16, order, share=share):
            places = share.places(0, block.block_rows, 16) + offset
            assert np.array_equal(x[block.targets].astype("f4"), block.inputs)
            collected[places] = block.inputs
            row_count += len(block)
            offset += block.block_rows
    assert row_count == len(x)
    assert np.array_equal(collected, expected)
    lengths = [stop - start for start, stop in spans]
    if gap == 0 and path == "x.npy":
        assert sum(lengths) == len(x)


def test_each_chunk_is_read_once_even_if_rows_between_are_not_needed(monkeypatch):
    _, rows = rows_of(path="d.h5")
    assert rows._file.stride == 16
    monkeypatch.setattr(streaming, "GAP_BYTES", 0)
    assert rows._spans_to_read(np.array([0, 3, 19, 36, 70])) == [(0, 20), (36, 37), (70, 71)]
    assert rows._spans_to_read(np.array([], int)) == []


def test_large_files_are_streamed_by_default(monkeypatch):
    write_files()
    monkeypatch.setattr(large_arrays, "LARGE", 1000)
    kinds = []
    specnet.train(document(**NPY), out="r", listeners=[lambda event: kinds.append(type(event.run.data))])
    assert set(kinds) == {StreamedDataset}
    specnet.train(document(**NPY, in_memory=True), out="s", listeners=[lambda e: kinds.append(type(e.run.data))])
    assert kinds[-1] is Dataset


def test_prefetch_threads_end_with_their_consumer():
    def prefetch_threads():
        return [thread.name for thread in threading.enumerate() if "reading ahead" in thread.name]

    endless = prefetch(iter(range(10**9)))
    assert [next(endless) for _ in range(3)] == [0, 1, 2]
    endless.close()
    deadline = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert prefetch_threads() == []

    def failing():
        yield 1
        raise DataError("broken")

    items = prefetch(failing())
    assert next(items) == 1
    with pytest.raises(DataError, match="broken"):
        next(items)


CHILD = """
import json, sys, time
import specnet
begin = time.monotonic()
result = specnet.train("e.json", out="run")
(peak,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"peak": peak, "loss": result.history["loss"],
                  "seconds": time.monotonic() - begin}))
"""


def train_on_large_file(rows, python):
    """Train one epoch on rows of 784 features in a child process; return its measurements and the size of the file."""
    width = 784
    x = np.lib.format.open_memmap("x.npy", "w+", "f4", (rows, width))
    for start in range(0, rows, 10_000):
        part = np.random.default_rng(start).random((min(10_000, rows - start), width), np.float32)
        x[start : start + 10_000] = part
    x.flush()
    size = x.nbytes
    del x
    np.save("y.npy", np.arange(rows) % 10)
    doc = {
        "model": {"input_shape": [width], "layers": [{"type": "affine", "units": 10}]},
        "data": {"train": {"inputs": "x.npy", "targets": "y.npy", "in_memory": False}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1, "batch_size": 512},
    }
    with open("e.json", "w") as file:
        json.dump(doc, file)
    process = subprocess.run([python, "-c", CHILD], capture_output=True, text=True, check=True)
    return json.loads(process.stdout), size


@pytest.mark.parametrize(
    "rows", [120_000, pytest.param(250_000, marks=pytest.mark.full), pytest.param(1_300_000, marks=pytest.mark.long)]
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not report peak memory")
def test_memory_is_bounded_independently_of_the_file_size(python, rows):
    measured, size = train_on_large_file(rows, python)
    limit = 500e6 if rows >= 250_000 else 310e6
    assert size > 1.2 * limit
    assert measured["peak"] < limit, f"{measured['peak'] / 1e6:.0f} MB of memory for a file of {size / 1e6:.0f} MB"
    assert np.isfinite(measured["loss"]).all()
    print(f"{size / 1e9:.1f} GB in {measured['seconds']:.1f} s within {measured['peak'] / 1e6:.0f} MB")
