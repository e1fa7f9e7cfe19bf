"""Hostile checkpoints: each is refused with a clear word, soon, in little memory, or it is the good one."""

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
from specnet.checkpoint import digests, read, write
from specnet.checkpoint import format as layout
from specnet.checkpoint.hdf5.metadata import Reader, lookup3
from specnet.files.sparse import SparseFile
from tests.forge import Forge
from tests.support import arrays_of, model_of, same_arrays

CHILD = """
import json, pathlib, resource, sys, time
sys.path.insert(0, sys.argv[3])
import numpy as np, specnet, specnet.spec
from tests.forge import Forge
from tests.support import arrays_of, same_arrays

good, forged = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".forged")
count, seed = int(sys.argv[4]), int(sys.argv[5])
forge = Forge(good)
expected = specnet.load(good)
files = forge.mutants(count, seed) if count else forge.variants()
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event in ("open", "subprocess.Popen") else None)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 96 * 2**20 + 6 * len(forge.good), -1))

def run(model):
    return {key: np.asarray(value) for key, value in model.run_state.items()}

wrong, refused, names = [], 0, []
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
            told = str(error)
            if len(told.splitlines()) != 1 or len(told) > 1000 or not told.isprintable() or str(forged) not in told:
                wrong.append([name, "told badly", told[:200]])
        except BaseException as error:
            wrong.append([name, type(error).__name__, str(error)[:200]])
        else:
            same = same_arrays(arrays_of(model), arrays_of(expected)) and same_arrays(run(model), run(expected))
            if not same or model.spec != expected.spec:
                wrong.append([name, "accepted, and other content", ""])
        if time.monotonic() - begin > 1:
            wrong.append([name, "slow", str(time.monotonic() - begin)])
        if {str(what) for what in opened if not isinstance(what, int)} - {str(forged)}:
            wrong.append([name, "opened", str(opened)])
print(json.dumps({"wrong": wrong, "refused": refused, "names": names}))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint with every structure: large groups, continuations, composites, buffers, a run."""
    folder = tmp_path_factory.mktemp("forgery")
    block = {"type": "residual", "layers": [{"type": "affine", "units": 2}, {"type": "batch_norm"}]}
    model = model_of({"type": "affine", "units": 2}, block, input_shape=(2,), dtype="float32")
    model.backward(model.forward(np.ones((4, 2)), training=True))
    history = {f"history/{name}": np.arange(3.0) for name in ("loss", "accuracy")} | {"history/epoch": np.arange(3)}
    moments = {f"optimizer/first_moment/layer_{index * 7919 % 60}.weight": np.ones(2) * index for index in range(60)}
    model.run_state = {"experiment": "{}\n", "step": 3, "sums/loss": 0.5, **history, **moments}
    specnet.save(folder / "good.h5", model)
    return folder / "good.h5"


def attack(good, root, count=0, seed=0):
    command = [sys.executable, "-c", CHILD, good, "", root, str(count), str(seed)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout)


def test_every_field_of_every_structure(good, root):
    found = attack(good, root)
    assert found["wrong"] == []
    assert len(set(found["names"])) > 400
    assert found["refused"] > 1.5 * len(found["names"])  # of two loads each; some fields say nothing that is used
    kinds = {name.partition(":")[0] for name in found["names"]}
    assert kinds >= {"superblock", "OHDR", "FRHP", "FHDB", "FHIB", "BTHD", "BTLF", "link", "attribute", "layout"}


@pytest.mark.parametrize("seed", [0, 1])
def test_random_forgeries(good, root, seed):
    found = attack(good, root, 1000, seed)
    assert found["wrong"] == []
    assert found["refused"] > 1000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_random_forgeries(good, root, seed):
    assert attack(good, root, 2000, seed)["wrong"] == []


def test_the_forge_repairs_what_it_changes(good, tmp_path):
    forge = Forge(good)
    for structure in forge.structures:
        assert forge.repaired(bytearray(forge.good), structure) == forge.good
    told, files, unrepaired = set(), 0, 0
    for _, data in forge.variants():
        files += 1
        (tmp_path / "x.h5").write_bytes(data)
        try:
            specnet.load(tmp_path / "x.h5")
        except CheckpointError as error:
            told.add(str(error).partition(": ")[2][:40])
            unrepaired += "the checksum of" in str(error)
    assert unrepaired < files / 10  # a structure's other length moves the place of its checksum
    assert len(told) > 40


def test_a_list_of_free_bytes_with_a_wrong_checksum(good, tmp_path):
    data = bytearray(good.read_bytes())
    data[data.index(b"FSSE") + 20] ^= 1
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(CheckpointError, match="the checksum of the FSSE structure"):
        specnet.load(tmp_path / "x.h5")


def test_a_heap_of_heaps_as_hdf5_makes_it_and_as_it_cannot_be(tmp_path):
    model = model_of({"type": "affine", "units": 1}, input_shape=(1,))
    model.run_state = {f"optimizer/{'long' * 400}{index}": float(index) for index in range(700)}
    specnet.save(tmp_path / "m.h5", model)
    assert specnet.load(tmp_path / "m.h5").run_state == model.run_state
    forge = Forge(tmp_path / "m.h5")
    for structure in [structure for structure in forge.structures if structure[2] == "FRHP"]:
        data = bytearray(forge.good)
        heap, _, _ = structure
        rows = 32  # of blocks that double in size: more than 32 bits can address
        block = b"FHIB\0" + heap.to_bytes(8, "little") + bytes(4) + b"\xff" * (8 * 4 * rows)
        data[heap + 132 : heap + 142] = len(data).to_bytes(8, "little") + rows.to_bytes(2, "little")
        data += block + lookup3(block).to_bytes(4, "little")
        data[28:36] = len(data).to_bytes(8, "little")
        data = bytearray(forge.repaired(data, structure))
        (tmp_path / "x.h5").write_bytes(forge.repaired(data, (0, 44, "superblock")))
        with pytest.raises(CheckpointError, match="a heap of links is larger than it can be"):
            specnet.load(tmp_path / "x.h5")


# ---------------------------------------------------------------- files that are right but for one thing


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


ODD = {
    "another format": (with_attribute("format", "other"), "no specnet checkpoint"),
    "another version": (with_attribute("format_version", 0), "format_version 1, the file has 0"),
    "a newer version": (with_attribute("format_version", 2), "install a newer specnet"),
    "a version in words": (with_attribute("format_version", "1"), "the file has 1"),
    "one more attribute": (with_attribute("more", "x"), "the attributes of / are"),
    "one attribute less": (lambda _, a: a.pop("specnet_version"), "the attributes of / are"),
    "no date": (with_attribute("created", "yesterday, at noon.."), "created is no date"),
    "another default": (with_attribute("default", "training/history/x"), "does not point at the history"),
    "another identity": (with_attribute("model_sha256", "0" * 64), "not the identity of this document"),
    "a dataset more": (with_dataset("/layers/a1/parameters/more", np.ones(2)), "is not a part of this model"),
    "a layer more": (with_dataset("/layers/a3/parameters/weight", np.ones(2)), "is not a part of this model"),
    "a dataset at the root": (with_dataset("/more", np.ones(2)), "is not a part of this model"),
    "gradients of one": (with_dataset("/layers/a1/gradients/weight", np.ones((2, 2))), "gradients/bias is missing"),
    "a parameter less": (without("/layers/a2/parameters/bias"), "/layers/a2/parameters/bias is missing"),
    "no document": (without("/model_spec"), "the model document, is missing"),
    "another shape": (replaced("/layers/a1/parameters/bias", np.ones(3)), r"expected <f8 of shape \(2,\)"),
    "another dtype": (replaced("/layers/a1/parameters/bias", np.ones(2, "<f4")), "found <f4|got <f4|<f4 of shape"),
    "a document of numbers": (replaced("/model_spec", np.ones(2)), "the model document, is missing"),
    "a document of 17 MB": (replaced("/model_spec", b" " * (17 * 2**20)), "expected at most 16777216"),
    "a document of bytes": (replaced("/model_spec", b"\xff\xfe"), "expected UTF-8"),
    "a run of bytes": (replaced("/training/experiment", b"\xff\xfe"), "is not UTF-8 text"),
    "plugins of numbers": (with_dataset("/provenance/plugins", np.ones(2)), "plugins is no text"),
    "more provenance": (with_dataset("/provenance/more", "x"), "is not a part of this model"),
}


@pytest.mark.parametrize(("change", "words"), ODD.values(), ids=ODD.keys())
def test_a_file_that_is_right_but_for_one_thing(tmp_path, model, monkeypatch, change, words):
    original_datasets, original_attributes = write._datasets, write._root_attributes
    attributes = {}

    def odd_datasets(model):
        datasets = list(original_datasets(model))
        attributes.update(original_attributes(model, datasets))
        change(datasets, attributes)
        return datasets

    monkeypatch.setattr(write, "_datasets", odd_datasets)
    monkeypatch.setattr(write, "_root_attributes", lambda *_: attributes)
    specnet.save(tmp_path / "odd.h5", model)
    for mmap in (False, True):
        with pytest.raises(CheckpointError, match=words) as caught:
            specnet.load(tmp_path / "odd.h5", mmap=mmap, verify=True)
        assert str(caught.value).startswith(str(tmp_path / "odd.h5"))
        assert "\n" not in str(caught.value)


def test_other_attributes_of_groups_and_digests(tmp_path, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(layout, "HISTORY_ATTRIBUTES", {"NX_class": "NXdata", "signal": "epoch", "axes": "epoch"})
        specnet.save(tmp_path / "odd.h5", model)
    with pytest.raises(CheckpointError, match="the attributes of /training/history are"):
        specnet.load(tmp_path / "odd.h5")
    with monkeypatch.context() as patch:
        patch.setattr(layout, "DATASET_DIGEST", "sha255")
        specnet.save(tmp_path / "odd.h5", model)
    with pytest.raises(CheckpointError, match="/model_spec do not match their sha256"):
        specnet.load(tmp_path / "odd.h5")
    with monkeypatch.context() as patch:
        patch.setattr(layout, "content_digest", lambda _rows: "0" * 64)
        specnet.save(tmp_path / "odd.h5", model)
    with pytest.raises(CheckpointError, match="content_sha256 is not the hash"):
        specnet.load(tmp_path / "odd.h5")


def test_names_that_stand_twice(tmp_path, model):
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
        (tmp_path / "x.h5").write_bytes(forge.repaired(data, structure))
        with pytest.raises(CheckpointError, match=words):
            specnet.load(tmp_path / "x.h5")


def test_a_digest_under_another_name(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    forge = Forge(tmp_path / "m.h5")
    at = forge.good.rindex(b"\0sha256\0") + 1
    data = bytearray(forge.good)
    data[at : at + 6] = b"sha255"
    (structure,) = [s for s in forge.structures if s[0] <= at < s[0] + s[1]]
    (tmp_path / "x.h5").write_bytes(forge.repaired(data, structure))
    with pytest.raises(CheckpointError, match="has not its one attribute sha256"):
        specnet.load(tmp_path / "x.h5")


def test_signatures_are_looked_at(good, tmp_path):
    forge = Forge(good)
    kinds = {kind: (offset, used, kind) for offset, used, kind in forge.structures if kind != "superblock"}
    assert {"OHDR", "FRHP", "FHDB", "FHIB", "BTHD", "BTIN", "BTLF"} <= kinds.keys()
    for kind, structure in kinds.items():
        data = bytearray(forge.good)
        data[structure[0]] ^= 0x20
        (tmp_path / "x.h5").write_bytes(forge.repaired(data, structure))
        with pytest.raises(CheckpointError, match=rf"no ({kind} structure|object header).* stands at byte"):
            specnet.load(tmp_path / "x.h5")


def test_two_names_of_one_object(tmp_path, model):
    model.parameters["a2.weight"][...] = model.parameters["a1.weight"]
    specnet.save(tmp_path / "m.h5", model)
    forge = Forge(tmp_path / "m.h5")
    first, second = (forge.good.index(name) for name in (b"\x02a1", b"\x02a2"))
    data = bytearray(forge.good)
    data[second + 3 : second + 11] = data[first + 3 : first + 11]
    (structure,) = [s for s in forge.structures if s[0] <= second < s[0] + s[1]]
    (tmp_path / "x.h5").write_bytes(forge.repaired(data, structure))
    with pytest.raises(CheckpointError, match="two structures share the bytes from"):
        specnet.load(tmp_path / "x.h5")


def test_an_empty_group_is_refused(tmp_path, model, monkeypatch):
    original = write._Skeleton.pages

    def with_group(self, *arguments):
        self._group("/layers/empty")
        return original(self, *arguments)

    monkeypatch.setattr(write._Skeleton, "pages", with_group)
    specnet.save(tmp_path / "m.h5", model)
    with pytest.raises(CheckpointError, match="the group /layers/empty is empty"):
        specnet.load(tmp_path / "m.h5")


def test_pages_that_nobody_wrote_to_are_not_made():
    memory = SparseFile()
    memory.clear(0, 3 * write.PAGE)
    memory.put_ends(100, memoryview(bytes(range(256)) * 64))
    assert memory.pages == {}
    memory.write(b"\1" * 10)
    memory.put_ends(write.PAGE - 2, memoryview(b"\2" * 3))
    memory.clear(5, 2 * write.PAGE)
    assert {at: bytes(page) for at, page in memory.pages.items()} == {0: (b"\1" * 5).ljust(write.PAGE, b"\0")}


def test_large_arrays_over_several_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SESSION", 3)
    layers = [{"type": "affine", "units": 130, "bias": False}] * 20
    model = specnet.build(specnet.ModelSpec(input_shape=(130,), layers=layers))
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_more_datasets_than_one_session_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SESSION", 16)
    layers = [{"type": "affine", "units": 2}] * 150
    model = specnet.build(specnet.ModelSpec(input_shape=(2,), layers=layers))
    model.run_state = {f"optimizer/m/{name}": array for name, array in model.parameters.items()}
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))
    with h5py.File(tmp_path / "m.h5") as file:
        assert len(file["layers"]) == 150


def test_a_file_that_shrinks_while_it_is_read(tmp_path, model, monkeypatch):
    specnet.save(tmp_path / "m.h5", model)
    size = (tmp_path / "m.h5").stat().st_size
    original = read._File._checked

    def cut(self, pinned):
        found = original(self, pinned)
        os.truncate(tmp_path / "m.h5", size // 4)
        return found

    monkeypatch.setattr(read._File, "_checked", cut)
    with pytest.raises(CheckpointError, match="it became shorter while it was read"):
        specnet.load(tmp_path / "m.h5")


def test_a_thread_that_cannot_be_had_is_done_without(tmp_path, monkeypatch):
    def none(*_):
        raise RuntimeError("can't start new thread")

    model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=[{"type": "affine", "units": 700}]))
    monkeypatch.setattr(digests._thread, "start_new_thread", none)
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_a_read_that_stops_short():
    with pytest.raises(CheckpointError, match="it became shorter while it was read"):
        Reader(io.BytesIO(b"short"), "m.h5", 10).peek(0, 10)


def test_too_deep_in_a_programs_calls(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)

    def deep(calls):
        return deep(calls - 1) if calls else specnet.load(tmp_path / "m.h5")

    outcomes = set()
    for left in range(20, 200, 4):
        try:
            deep(sys.getrecursionlimit() - len(inspect.stack(0)) - left)
        except CheckpointError as error:
            assert "so deep in a program's calls" in str(error)
            outcomes.add("refused")
        except RecursionError:
            outcomes.add("not begun")
        else:
            outcomes.add("loaded")
    assert outcomes >= {"refused", "loaded"}


@pytest.fixture
def counted_threads(monkeypatch):
    """Threads that tracers see; what they do is the same."""

    def start(function, arguments):
        threading.Thread(target=function, args=arguments).start()

    monkeypatch.setattr(digests._thread, "start_new_thread", start)


def test_two_threads_share_the_hashing(tmp_path, counted_threads):
    layers = [{"type": "affine", "units": 700, "bias": False}] * 8
    model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=layers))
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_a_failure_of_the_second_thread_is_told_by_the_first(monkeypatch, counted_threads):
    asked, real = threading.Event(), digests.sha256

    def failing(data):
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            raise MemoryError
        asked.wait(10)
        return real(data)

    monkeypatch.setattr(digests, "sha256", failing)
    with digests.Digests() as found, pytest.raises(MemoryError):
        for key in "abc":
            found.add(key, bytes(digests.WORTH_A_THREAD))
        found.finish()


def test_a_failure_of_the_second_thread_is_raised(tmp_path, monkeypatch):
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
