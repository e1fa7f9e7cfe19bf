"""Hostile checkpoints: each is rejected with a clear message, in bounded time and memory, or loads unchanged."""

import inspect
import io
import json
import os
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest

import specnet
from specnet import CheckpointError
from specnet.checkpoint import checked_file, digests, write
from specnet.checkpoint import format as layout
from specnet.checkpoint.hdf5.metadata import Reader, lookup3
from specnet.files.sparse import SparseFile
from tests.forge import Forge
from tests.support import arrays_of, model_of, same_arrays

CHILD = """
import json, pathlib, resource, sys, time
sys.path.insert(0, sys.argv[3])
import numpy as np, specnet, specnet.layers.composite
from specnet.spec.registry import layer_types
from tests.forge import Forge
from tests.support import arrays_of, same_arrays

good, forged = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".forged")
count, seed = int(sys.argv[4]), int(sys.argv[5])
forge = Forge(good)
expected = specnet.load(good)
layer_types()  # import all layers now: importing opens files, which the audit hook below records
files = forge.mutants(count, seed) if count else forge.variants()
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event in ("open", "subprocess.Popen") else None)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 96 * 2**20 + 6 * len(forge.good), -1))

def run_state(model):
    return {key: np.asarray(value) for key, value in model.run_state.items()}

failures, refused, names = [], 0, []
for name, data in files:
    forged.write_bytes(data)
    names.append(name)
    for mmap in (False, True):
        opened.clear()
        begin = time.monotonic()
        try:
            model = specnet.load(forged, mmap=mmap, verify=True)
        except specnet.CheckpointError as error:
            refused += 1
            text = str(error)
            if len(text.splitlines()) != 1 or len(text) > 1000 or not text.isprintable() or str(forged) not in text:
                failures.append([name, "unclear message", text[:200]])
        except BaseException as error:
            failures.append([name, type(error).__name__, str(error)[:200]])
        else:
            same = same_arrays(arrays_of(model), arrays_of(expected))
            if not same or not same_arrays(run_state(model), run_state(expected)) or model.spec != expected.spec:
                failures.append([name, "accepted with different content", ""])
        if time.monotonic() - begin > 1:
            failures.append([name, "slow", str(time.monotonic() - begin)])
        if {str(path) for path in opened if not isinstance(path, int)} - {str(forged)}:
            failures.append([name, "opened other files", str(opened)])
print(json.dumps({"failures": failures, "refused": refused, "names": names}))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the path of a checkpoint with every kind of structure: large groups, continuations, buffers, a run."""
    folder = tmp_path_factory.mktemp("forgery")
    block = {"type": "residual", "layers": [{"type": "affine", "units": 2}, {"type": "batch_norm"}]}
    model = model_of({"type": "affine", "units": 2}, block, input_shape=(2,), dtype="float32")
    model.backward(model.forward(np.ones((4, 2)), training=True))
    history = {f"history/{name}": np.arange(3.0) for name in ("loss", "accuracy")} | {"history/epoch": np.arange(3)}
    moments = {f"optimizer/first_moment/layer_{index * 7919 % 60}.weight": np.ones(2) * index for index in range(60)}
    model.run_state = {"experiment": "{}\n", "step": 3, "sums/loss": 0.5, **history, **moments}
    specnet.save(folder / "good.h5", model)
    return folder / "good.h5"


def load_forged_files(good, root, count=0, seed=0):
    """Load all variants, or `count` random mutants, in a child process with little memory; return its result."""
    command = [sys.executable, "-c", CHILD, good, "", root, str(count), str(seed)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.mark.full
def test_every_field_of_every_structure(good, root):
    result = load_forged_files(good, root)
    assert result["failures"] == []
    assert len(set(result["names"])) > 400
    assert result["refused"] > 1.5 * len(result["names"])  # two loads per file; some fields do not affect loading
    kinds = {name.partition(":")[0] for name in result["names"]}
    assert kinds >= {"superblock", "OHDR", "FRHP", "FHDB", "FHIB", "BTHD", "BTLF", "link", "attribute", "layout"}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
def test_random_forgeries(good, root, seed, full):
    count = 1000 if full else 200
    result = load_forged_files(good, root, count, seed)
    assert result["failures"] == []
    assert result["refused"] > count


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_random_forgeries(good, root, seed):
    assert load_forged_files(good, root, 2000, seed)["failures"] == []


def test_the_forge_corrects_the_checksums_of_its_changes(good, tmp_path):
    forge = Forge(good)
    for structure in forge.structures:
        assert forge.repair_checksum(bytearray(forge.good), structure) == forge.good
    messages, files, checksum_errors = set(), 0, 0
    for _, data in forge.variants():
        files += 1
        (tmp_path / "x.h5").write_bytes(data)
        try:
            specnet.load(tmp_path / "x.h5")
        except CheckpointError as error:
            messages.add(str(error).partition(": ")[2][:40])
            checksum_errors += "the checksum of" in str(error)
    assert checksum_errors < files / 10  # a changed length field moves the position of the checksum
    assert len(messages) > 40


def test_a_free_space_list_with_a_wrong_checksum_is_rejected(good, tmp_path):
    data = bytearray(good.read_bytes())
    data[data.index(b"FSSE") + 20] ^= 1
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(CheckpointError, match="the checksum of the FSSE structure"):
        specnet.load(tmp_path / "x.h5")


@pytest.mark.full
def test_nested_heaps_load_unless_they_exceed_their_maximum_size(tmp_path):
    model = model_of({"type": "affine", "units": 1}, input_shape=(1,))
    model.run_state = {f"optimizer/{'long' * 400}{index}": float(index) for index in range(700)}
    specnet.save(tmp_path / "m.h5", model)
    assert specnet.load(tmp_path / "m.h5").run_state == model.run_state
    forge = Forge(tmp_path / "m.h5")
    for structure in [structure for structure in forge.structures if structure[2] == "FRHP"]:
        data = bytearray(forge.good)
        heap, _, _ = structure
        rows = 32  # block sizes double with each row: together more than 32 bits can address
        block = b"FHIB\0" + heap.to_bytes(8, "little") + bytes(4) + b"\xff" * (8 * 4 * rows)
        data[heap + 132 : heap + 142] = len(data).to_bytes(8, "little") + rows.to_bytes(2, "little")
        data += block + lookup3(block).to_bytes(4, "little")
        data[28:36] = len(data).to_bytes(8, "little")
        data = bytearray(forge.repair_checksum(data, structure))
        (tmp_path / "x.h5").write_bytes(forge.repair_checksum(data, (0, 44, "superblock")))
        with pytest.raises(CheckpointError, match="a heap of links is larger than its maximum size"):
            specnet.load(tmp_path / "x.h5")


# ---------------------------------------------------------------- files that are valid except for one change


@pytest.fixture
def model():
    model = model_of(*[{"type": "affine", "units": 2, "name": f"a{n}"} for n in (1, 2)], input_shape=(2,))
    model.run_state = {"experiment": "{}\n", "step": 3, "history/epoch": np.arange(3), "history/loss": np.arange(3.0)}
    return model


def with_attribute(name, value):
    return lambda _, attributes: attributes.update({name: value})


def with_dataset(path, value):
    return lambda datasets, _: datasets.append(layout.dataset(path, value))


def replaced(path, value):
    def change(datasets, attributes):
        (index,) = [i for i, entry in enumerate(datasets) if entry.path == path]
        datasets[index] = layout.Entry(path, value)

    return change


def without(path):
    def change(datasets, attributes):
        datasets[:] = [entry for entry in datasets if entry.path != path]

    return change


SINGLE_CHANGES = {
    "another format": (with_attribute("format", "other"), "not a specnet checkpoint"),
    "another version": (with_attribute("format_version", 0), "format_version 1, the file has 0"),
    "a newer version": (with_attribute("format_version", 2), "install a newer specnet"),
    "a version as text": (with_attribute("format_version", "1"), "the file has 1"),
    "an extra attribute": (with_attribute("more", "x"), "the attributes of / are"),
    "a missing attribute": (lambda _, a: a.pop("specnet_version"), "the attributes of / are"),
    "an invalid date": (with_attribute("created", "yesterday, at noon.."), "created is not a date"),
    "another default": (with_attribute("default", "training/history/x"), "does not point at the history"),
    "another identity": (with_attribute("model_sha256", "0" * 64), "model_sha256 does not match this document"),
    "an extra dataset": (with_dataset("/layers/a1/parameters/more", np.ones(2)), "is not a part of this model"),
    "an extra layer": (with_dataset("/layers/a3/parameters/weight", np.ones(2)), "is not a part of this model"),
    "an extra dataset at the root": (with_dataset("/more", np.ones(2)), "is not a part of this model"),
    "gradients of one parameter only": (
        with_dataset("/layers/a1/gradients/weight", np.ones((2, 2))),
        "gradients/bias is missing",
    ),
    "a missing parameter": (without("/layers/a2/parameters/bias"), "/layers/a2/parameters/bias is missing"),
    "a missing document": (without("/model_spec"), "the model document, is missing"),
    "another shape": (replaced("/layers/a1/parameters/bias", np.ones(3)), r"expected <f8 of shape \(2,\)"),
    "another dtype": (replaced("/layers/a1/parameters/bias", np.ones(2, "<f4")), "found <f4|got <f4|<f4 of shape"),
    "a document of numbers": (replaced("/model_spec", np.ones(2)), "the model document, is missing"),
    "a document of 17 MB": (replaced("/model_spec", b" " * (17 * 2**20)), "expected at most 16777216"),
    "a document that is not UTF-8": (replaced("/model_spec", b"\xff\xfe"), "expected UTF-8"),
    "an experiment that is not UTF-8": (replaced("/training/experiment", b"\xff\xfe"), "is not UTF-8 text"),
    "plugins of numbers": (with_dataset("/provenance/plugins", np.ones(2)), "plugins is not text"),
    "extra provenance": (with_dataset("/provenance/more", "x"), "is not a part of this model"),
}


@pytest.mark.parametrize(("change", "words"), SINGLE_CHANGES.values(), ids=SINGLE_CHANGES.keys())
def test_a_file_with_one_change_is_rejected(tmp_path, model, monkeypatch, change, words):
    original_datasets, original_attributes = write._datasets, write._root_attributes
    attributes = {}

    def changed_datasets(model):
        datasets = list(original_datasets(model))
        attributes.update(original_attributes(model, datasets))
        change(datasets, attributes)
        return datasets

    monkeypatch.setattr(write, "_datasets", changed_datasets)
    monkeypatch.setattr(write, "_root_attributes", lambda *_: attributes)
    specnet.save(tmp_path / "changed.h5", model)
    for mmap in (False, True):
        with pytest.raises(CheckpointError, match=words) as caught:
            specnet.load(tmp_path / "changed.h5", mmap=mmap, verify=True)
        assert str(caught.value).startswith(str(tmp_path / "changed.h5"))
        assert "\n" not in str(caught.value)


def test_wrong_group_attributes_and_digests_are_rejected(tmp_path, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(layout, "HISTORY_ATTRIBUTES", {"NX_class": "NXdata", "signal": "epoch", "axes": "epoch"})
        specnet.save(tmp_path / "changed.h5", model)
    with pytest.raises(CheckpointError, match="the attributes of /training/history are"):
        specnet.load(tmp_path / "changed.h5")
    with monkeypatch.context() as patch:
        patch.setattr(layout, "DATASET_DIGEST", "sha255")
        specnet.save(tmp_path / "changed.h5", model)
    with pytest.raises(CheckpointError, match="/model_spec do not match their sha256"):
        specnet.load(tmp_path / "changed.h5")
    with monkeypatch.context() as patch:
        patch.setattr(layout, "content_digest", lambda _rows: "0" * 64)
        specnet.save(tmp_path / "changed.h5", model)
    with pytest.raises(CheckpointError, match="content_sha256 does not match its datasets"):
        specnet.load(tmp_path / "changed.h5")


def test_duplicate_names_are_rejected(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    forge = Forge(tmp_path / "m.h5")
    for old, new, words in (
        (b"\x02a2", b"\x02a1", "has the name 'a1' twice"),
        (b"default\0", b"created\0", "has the attribute 'created' twice"),
        (b"\x05\x02\0\1\3\5", b"\x08\x02\0\1\3\5", "two header messages of type 8"),
    ):
        at = forge.good.index(old)
        data = bytearray(forge.good)
        data[at : at + len(old)] = new
        (structure,) = [s for s in forge.structures if s[0] <= at < s[0] + s[1]]
        (tmp_path / "x.h5").write_bytes(forge.repair_checksum(data, structure))
        with pytest.raises(CheckpointError, match=words):
            specnet.load(tmp_path / "x.h5")


def test_a_digest_under_another_name_is_rejected(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    forge = Forge(tmp_path / "m.h5")
    at = forge.good.rindex(b"\0sha256\0") + 1
    data = bytearray(forge.good)
    data[at : at + 6] = b"sha255"
    (structure,) = [s for s in forge.structures if s[0] <= at < s[0] + s[1]]
    (tmp_path / "x.h5").write_bytes(forge.repair_checksum(data, structure))
    with pytest.raises(CheckpointError, match="must have exactly one attribute, sha256"):
        specnet.load(tmp_path / "x.h5")


def test_wrong_signatures_are_rejected(good, tmp_path):
    forge = Forge(good)
    kinds = {kind: (offset, used, kind) for offset, used, kind in forge.structures if kind != "superblock"}
    assert {"OHDR", "FRHP", "FHDB", "FHIB", "BTHD", "BTIN", "BTLF"} <= kinds.keys()
    for kind, structure in kinds.items():
        data = bytearray(forge.good)
        data[structure[0]] ^= 0x20
        (tmp_path / "x.h5").write_bytes(forge.repair_checksum(data, structure))
        with pytest.raises(CheckpointError, match=rf"there is no ({kind} structure|object header).* at byte"):
            specnet.load(tmp_path / "x.h5")


def test_two_links_to_one_object_are_rejected(tmp_path, model):
    model.parameters["a2.weight"][...] = model.parameters["a1.weight"]
    specnet.save(tmp_path / "m.h5", model)
    forge = Forge(tmp_path / "m.h5")
    first, second = (forge.good.index(name) for name in (b"\x02a1", b"\x02a2"))
    data = bytearray(forge.good)
    data[second + 3 : second + 11] = data[first + 3 : first + 11]
    (structure,) = [s for s in forge.structures if s[0] <= second < s[0] + s[1]]
    (tmp_path / "x.h5").write_bytes(forge.repair_checksum(data, structure))
    with pytest.raises(CheckpointError, match="two structures share the bytes from"):
        specnet.load(tmp_path / "x.h5")


def test_an_empty_group_is_rejected(tmp_path, model, monkeypatch):
    original = write._Skeleton.pages

    def with_group(self, *arguments):
        self._group("/layers/empty")
        return original(self, *arguments)

    monkeypatch.setattr(write._Skeleton, "pages", with_group)
    specnet.save(tmp_path / "m.h5", model)
    with pytest.raises(CheckpointError, match="the group /layers/empty is empty"):
        specnet.load(tmp_path / "m.h5")


def test_unwritten_pages_are_not_allocated():
    memory = SparseFile()
    memory.clear(0, 3 * write.PAGE)
    memory.put_ends(100, memoryview(bytes(range(256)) * 64))
    assert memory.pages == {}
    memory.write(b"\1" * 10)
    memory.put_ends(write.PAGE - 2, memoryview(b"\2" * 3))
    memory.clear(5, 2 * write.PAGE)
    assert {at: bytes(page) for at, page in memory.pages.items()} == {0: (b"\1" * 5).ljust(write.PAGE, b"\0")}


def test_large_arrays_are_saved_in_several_hdf5_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SESSION", 3)
    layers = [{"type": "affine", "units": 130, "bias": False}] * 20
    model = specnet.build(specnet.ModelSpec(input_shape=(130,), layers=layers))
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_many_datasets_are_saved_in_several_hdf5_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SESSION", 16)
    layers = [{"type": "affine", "units": 2}] * 150
    model = specnet.build(specnet.ModelSpec(input_shape=(2,), layers=layers))
    model.run_state = {f"optimizer/m/{name}": array for name, array in model.parameters.items()}
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))
    with h5py.File(tmp_path / "m.h5") as file:
        assert len(file["layers"]) == 150


def test_a_file_that_shrinks_while_it_is_read_is_reported(tmp_path, model, monkeypatch):
    specnet.save(tmp_path / "m.h5", model)
    size = (tmp_path / "m.h5").stat().st_size
    original = checked_file.CheckedFile._check_file

    def cut(self, pinned):
        result = original(self, pinned)
        os.truncate(tmp_path / "m.h5", size // 4)
        return result

    monkeypatch.setattr(checked_file.CheckedFile, "_check_file", cut)
    with pytest.raises(CheckpointError, match="it became shorter while it was read"):
        specnet.load(tmp_path / "m.h5")


def test_saving_works_if_no_thread_can_be_started(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=[{"type": "affine", "units": 700}]))
    monkeypatch.setattr(digests._thread, "start_new_thread", refuse)
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_a_short_read_is_reported():
    with pytest.raises(CheckpointError, match="it became shorter while it was read"):
        Reader(io.BytesIO(b"short"), "m.h5", 10).peek(0, 10)


def test_loading_near_the_recursion_limit_is_reported(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)

    def load_at_depth(calls):
        return load_at_depth(calls - 1) if calls else specnet.load(tmp_path / "m.h5")

    outcomes = set()
    for left in range(20, 200, 4):
        try:
            load_at_depth(sys.getrecursionlimit() - len(inspect.stack(0)) - left)
        except CheckpointError as error:
            assert "too deeply for the remaining call stack" in str(error)
            outcomes.add("refused")
        except RecursionError:
            outcomes.add("not started")
        else:
            outcomes.add("loaded")
    assert outcomes >= {"refused", "loaded"}


@pytest.fixture
def traced_threads(monkeypatch):
    """Start hashing threads with `threading`, so that coverage tracers see them."""

    def start(function, arguments):
        threading.Thread(target=function, args=arguments).start()

    monkeypatch.setattr(digests._thread, "start_new_thread", start)


def test_two_threads_share_the_hashing(tmp_path, traced_threads):
    layers = [{"type": "affine", "units": 700, "bias": False}] * 8
    model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=layers))
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_an_error_in_the_second_thread_is_raised_in_the_first(monkeypatch, traced_threads):
    second_thread_failed, real = threading.Event(), digests.sha256

    def failing(data):
        if threading.current_thread() is not threading.main_thread():
            second_thread_failed.set()
            raise MemoryError
        second_thread_failed.wait(10)
        return real(data)

    monkeypatch.setattr(digests, "sha256", failing)
    with digests.Digests() as pending, pytest.raises(MemoryError):
        for key in "abc":
            pending.add(key, bytes(digests.WORTH_A_THREAD))
        pending.finish()


def test_running_out_of_memory_while_hashing_is_reported(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, _data):
            raise MemoryError

    model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=[{"type": "affine", "units": 700}]))
    specnet.save(tmp_path / "m.h5", model)
    monkeypatch.setattr(digests, "sha256", Failing)
    with pytest.raises(CheckpointError, match="not enough memory"):
        specnet.load(tmp_path / "m.h5")
    with pytest.raises(CheckpointError, match="not saved: there is not enough memory"):
        specnet.save(tmp_path / "n.h5", model)
    assert os.listdir(tmp_path) == ["m.h5"]
