"""Saving: whatever happens to the writer, the path holds one whole checkpoint, the old one or the new one."""

import errno
import os
import runpy
import stat
import subprocess
import sys
import types

import h5py
import numpy as np
import pytest

import specnet
from specnet import CheckpointError
from specnet.checkpoint import write
from specnet.files import atomic as durable
from tests.support import arrays_of, model_of, same_arrays


@pytest.fixture
def model():
    return model_of({"type": "affine", "name": "hidden", "units": 4}, {"type": "affine", "units": 2}, dtype="float32")


@pytest.fixture
def path(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    return tmp_path / "m.h5"


def test_a_failed_save_leaves_what_was_there(path, model, tmp_path, monkeypatch):
    before = path.read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(CheckpointError, match=r"m\.h5: not saved: No space left on device; .* intact"):
        specnet.save(path, specnet.build(model.spec, seed=9))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]


def test_an_interrupt_leaves_what_was_there(path, model, tmp_path, monkeypatch):
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        specnet.save(path, model)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.mark.parametrize("given", ["abc", "1e20", "nan", "-5", "253402300800", "1.5"])
def test_a_time_that_is_none_is_refused(path, model, monkeypatch, given):
    before = path.read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(CheckpointError, match="SOURCE_DATE_EPOCH"):
        specnet.save(path, model)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "state",
    [
        {"a": ""},
        {"a": None},
        {"a": 2**70},
        {"a": np.zeros(0)},
        {"a": np.ones(2, complex)},
        {"é": 1},
        {"a\n": 1},
        {"": 1},
    ],
)
def test_a_state_that_cannot_be_stored_is_refused(path, model, state):
    before = path.read_bytes()
    model.run_state = state
    with pytest.raises(CheckpointError, match=r"m\.h5: not saved"):
        specnet.save(path, model)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_synced_is_told_as_what_it_is(path, model, monkeypatch):
    synced = []

    def second_fails(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", second_fails)
    other = specnet.build(model.spec, seed=9)
    with pytest.raises(CheckpointError, match="saved, but its folder could not be synced"):
        specnet.save(path, other)
    assert same_arrays(arrays_of(specnet.load(path)), arrays_of(other))


def test_targets(tmp_path, model, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="regular file"):
        specnet.save(tmp_path / "pipe", model)
    for bad in (tmp_path, tmp_path / "none" / "m.h5", "a\0b"):
        with pytest.raises(CheckpointError):
            specnet.save(bad, model)
    with pytest.raises(CheckpointError, match="expected a Model"):
        specnet.save(tmp_path / "m.h5", "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/at home.h5", "här ✓.h5", "plain.h5", os.path.join("..", tmp_path.name, "up.h5")):
        specnet.save(name, model)
        assert specnet.load(name).spec == model.spec


def test_links_and_permissions(tmp_path, model):
    (tmp_path / "real.h5").touch(mode=0o640)
    os.chmod(tmp_path / "real.h5", 0o640)
    os.symlink("real.h5", tmp_path / "link.h5")
    specnet.save(tmp_path / "link.h5", model)
    assert os.readlink(tmp_path / "link.h5") == "real.h5"
    assert stat.S_IMODE((tmp_path / "real.h5").stat().st_mode) == 0o640
    umask = os.umask(0o027)
    try:
        specnet.save(tmp_path / "new.h5", model)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.h5").stat().st_mode) == 0o640


def test_leftovers_of_the_dead_are_cleared_and_those_of_the_living_are_not(tmp_path, model):
    import fcntl

    dead, living = (tmp_path / f".specnet-{16 * c}.tmp" for c in "0f")
    (tmp_path / ".specnet-of-a-user.tmp").touch()
    dead.write_bytes(b"x")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        specnet.save(tmp_path / "m.h5", model)
        assert sorted(os.listdir(tmp_path)) == [living.name, ".specnet-of-a-user.tmp", "m.h5"]


KILLED = """
import mmap, os, random, signal, sys, time
import numpy as np, specnet

path, rounds, units = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
layers = [{"type": "affine", "units": units}, {"type": "affine", "units": units}]
model = specnet.build(specnet.ModelSpec(input_shape=(units,), layers=layers))
specnet.save(path, model)
begin = time.monotonic()
specnet.save(path, model)
takes = time.monotonic() - begin
done = mmap.mmap(-1, 8)  # how often the child has saved
value, rng = 0, random.Random(0)
for _ in range(rounds):
    done[:] = bytes(8)
    child = os.fork()
    if not child:
        for count in range(1, 10**6):
            for array in model.parameters.values():
                array.fill(value + count)
            specnet.save(path, model)
            done[:] = count.to_bytes(8, "little")
    time.sleep(rng.uniform(0, 3 * takes))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    least = value + int.from_bytes(done[:], "little")
    weights = specnet.load(path).parameters.values()
    (found,) = {v for array in weights for v in np.unique(array)} if value or least else {0}
    assert least <= found <= least + 1 or not least, (least, found)
    value = max(int(found), least)
    if value > 2**23:
        value = 0
print("done", value)
"""


def kills(folder, python, rounds, units):
    """Kill a process that saves in a loop, at random moments: the path holds a whole checkpoint, never an old one."""
    command = [python, "-c", KILLED, folder / "m.h5", str(rounds), str(units)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert made.stdout.startswith("done"), made.stderr
    assert int(made.stdout.split()[1]) > rounds / 10  # some were quick enough to save
    specnet.save(folder / "m.h5", specnet.load(folder / "m.h5"))
    assert os.listdir(folder) == ["m.h5"]


@pytest.mark.parametrize(("rounds", "units"), [(200, 40), (10, 2500)], ids=["small", "50 MB"])
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path, python, rounds, units):
    kills(tmp_path, python, rounds, units)


@pytest.mark.long
@pytest.mark.parametrize(("rounds", "units"), [(2000, 40), (100, 2500)], ids=["small", "50 MB"])
def test_many_killed_writers_leave_a_whole_checkpoint(tmp_path, python, rounds, units):
    kills(tmp_path, python, rounds, units)


FULL_DISK = """
import resource, signal, sys
import numpy as np, specnet
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = specnet.build(specnet.ModelSpec(input_shape=(40,), layers=[{"type": "affine", "units": 30}]))
specnet.save(sys.argv[1], model)
size = len(open(sys.argv[1], "rb").read())
new = specnet.build(model.spec, seed=1)
for limit in range(0, size, 97):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        specnet.save(sys.argv[1], new)
    except specnet.CheckpointError:
        left = specnet.load(sys.argv[1]).parameters["affine_1.weight"]
        assert np.array_equal(left, model.parameters["affine_1.weight"])
    else:
        raise SystemExit(f"saved {size} bytes where {limit} fit")
print("done")
"""


def test_a_full_disk_at_any_byte(tmp_path, python):
    made = subprocess.run([python, "-c", FULL_DISK, tmp_path / "m.h5"], capture_output=True, text=True, check=False)
    assert made.stdout == "done\n", made.stderr
    assert os.listdir(tmp_path) == ["m.h5"]


WRITER = """
import itertools, sys, time
import numpy as np, specnet
model = specnet.build(specnet.ModelSpec(input_shape=(200,), layers=[{"type": "affine", "units": 400}]))
until = time.monotonic() + float(sys.argv[2])
for count in itertools.count(1):
    model.parameters["affine_1.weight"].fill(count)
    specnet.save(sys.argv[1], model)
    if time.monotonic() > until:
        break
print(count)
"""
READER = """
import itertools, sys, time
import numpy as np, specnet
until = time.monotonic() + float(sys.argv[2])
for count in itertools.count(1):
    weight = specnet.load(sys.argv[1], mmap=count % 2 == 0, verify=True).parameters["affine_1.weight"]
    assert (weight == weight[0, 0]).all()
    if time.monotonic() > until:
        break
print(count)
"""


def concurrently(path, python, seconds):
    """Two processes save to one path and four read it: every read sees a whole checkpoint."""
    specnet.save(path, specnet.build(specnet.ModelSpec(input_shape=(200,), layers=[{"type": "affine", "units": 400}])))
    model = specnet.load(path)
    model.parameters["affine_1.weight"].fill(0)
    specnet.save(path, model)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    codes = [WRITER] * 2 + [READER] * 4
    started = [subprocess.Popen([python, "-c", code, path, str(seconds)], **pipes) for code in codes]
    for process in started:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert int(out) > 5
    assert os.listdir(path.parent) == [path.name]


def test_readers_never_see_half_a_checkpoint(tmp_path, python):
    concurrently(tmp_path / "m.h5", python, 3)


@pytest.mark.long
def test_readers_never_see_half_a_checkpoint_for_a_minute(tmp_path, python):
    concurrently(tmp_path / "m.h5", python, 60)


LITTLE_MEMORY = """
import resource, sys
import numpy as np, specnet
from specnet.checkpoint import write

def size():
    pages = open("/proc/self/statm").read().split()[0]
    return int(pages) * resource.getpagesize()

path = sys.argv[1]
layers = [{"type": "affine", "units": 700}] * 6
model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=layers))
model.backward(model.forward(np.ones((1, 700))))
specnet.save(path, model)
other = specnet.build(model.spec, seed=1)
old, new = (m.parameters["affine_1.weight"].copy() for m in (model, other))
said = {}
for step in range(160, -1, -8):
    for what, call in (("save", lambda: specnet.save(path, other)), ("load", lambda: specnet.load(path))):
        resource.setrlimit(resource.RLIMIT_AS, (size() + step * 2**18, -1))
        loaded = None
        try:
            loaded = call()
            told = "ok"
        except specnet.CheckpointError as error:
            told = "no memory" if "memory" in str(error) else str(error)
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        said.setdefault(what, []).append(told)
        weight = specnet.load(path).parameters["affine_1.weight"]
        assert np.array_equal(weight, old) or np.array_equal(weight, new)
        if loaded is not None:
            assert np.array_equal(loaded.parameters["affine_1.weight"], weight)
        loaded = None
        specnet.save(path, model)
for what, told in said.items():
    print(what, sorted(set(told)))
"""


def test_memory_that_runs_out(tmp_path, python):
    command = [python, "-c", LITTLE_MEMORY, tmp_path / "m.h5"]
    # What is freed goes back to the system at once, so that the limit is felt.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert made.stdout == "save ['no memory', 'ok']\nload ['no memory', 'ok']\n", made.stdout + made.stderr
    assert os.listdir(tmp_path) == ["m.h5"]


# ---------------------------------------------------------------- systems of other kinds


def test_without_advisory_locks(tmp_path, model, monkeypatch):
    monkeypatch.setattr(durable, "fcntl", None)
    left = tmp_path / f".specnet-{16 * '0'}.tmp"
    left.touch()
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))
    assert left.exists()  # nobody can tell whether its writer lives


def test_where_fsync_alone_does_not_reach_the_disk(tmp_path, model, monkeypatch):
    asked = []
    real = durable.fcntl
    full = types.SimpleNamespace(
        F_FULLFSYNC=51, fcntl=lambda _, what: asked.append(what), flock=real.flock, LOCK_EX=real.LOCK_EX,
        LOCK_NB=real.LOCK_NB,
    )  # fmt: skip
    monkeypatch.setattr(durable, "fcntl", full)
    specnet.save(tmp_path / "m.h5", model)
    assert asked == [51]


def test_a_temporary_that_was_taken_for_a_leftover_is_made_anew(tmp_path, model, monkeypatch):
    real, taken = os.open, []

    def opened(path, *rest):
        descriptor = real(path, *rest)
        if str(path).endswith(".tmp") and not taken:
            taken.append(path)
            os.unlink(path)  # another process had the lock first
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    specnet.save(tmp_path / "m.h5", model)
    assert taken
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.fixture
def large():
    """A model whose arrays are worth reserving a place for, and syncing beside."""
    return specnet.build(specnet.ModelSpec(input_shape=(2200,), layers=[{"type": "affine", "units": 2200}]))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve(tmp_path, large, monkeypatch, number):
    def cannot(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))
    monkeypatch.delattr(os, "posix_fallocate")
    specnet.save(tmp_path / "n.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "n.h5")), arrays_of(large))


def test_a_full_disk_is_known_before_anything_is_written(tmp_path, large, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match="not saved: No space left on device"):
        specnet.save(tmp_path / "m.h5", large)
    assert os.listdir(tmp_path) == []


def test_a_system_that_takes_no_hints_and_syncs_no_folders(tmp_path, large, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "O_DIRECTORY")
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))


def test_a_hint_that_fails_is_no_failure(tmp_path, large, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "posix_fadvise", broken)
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    without = runpy.run_path(durable.__file__)
    (tmp_path / ".specnet-0123456789abcdef.tmp").touch()
    without["replace_file"](tmp_path / "f", lambda descriptor: without["write_at"](descriptor, 0, b"whole"))
    assert (tmp_path / "f").read_bytes() == b"whole"
    assert (tmp_path / ".specnet-0123456789abcdef.tmp").exists()  # nobody can tell whether its writer lives


def test_a_temporary_that_cannot_be_looked_at(tmp_path, model, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os.path, "samestat", broken)
    with pytest.raises(CheckpointError, match="not saved: Input/output error"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []


def test_a_leftover_that_cannot_be_opened_stays(tmp_path, model):
    (tmp_path / ".specnet-0123456789abcdef.tmp").symlink_to("nowhere")
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_memory_that_hdf5_may_need_is_asked_for_first(tmp_path, model, monkeypatch):
    monkeypatch.setattr(write, "HDF5_MEMORY", 2**62)
    with pytest.raises(CheckpointError, match="not saved: there is not enough memory"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []


def test_a_library_that_does_not_align(tmp_path, model, monkeypatch):
    careless = types.SimpleNamespace(File=lambda memory, mode, **_: h5py.File(memory, mode, libver=("v108", "v108")))
    monkeypatch.setattr(write, "h5py", careless)
    with pytest.raises(CheckpointError, match="off its alignment"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []
