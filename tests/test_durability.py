"""Saving is atomic: whatever happens to the writer, the path holds the complete old or the complete new checkpoint."""

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
from specnet.files import atomic
from tests.support import arrays_of, model_of, same_arrays


@pytest.fixture
def model():
    return model_of({"type": "affine", "name": "hidden", "units": 4}, {"type": "affine", "units": 2}, dtype="float32")


@pytest.fixture
def path(tmp_path, model):
    specnet.save(tmp_path / "m.h5", model)
    return tmp_path / "m.h5"


def test_an_h5py_whose_files_cannot_be_loaded_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    path.write_bytes(b"old")
    monkeypatch.setattr(h5py.version, "version_tuple", (3, 14, 0, "", "", ""))
    with pytest.raises(CheckpointError, match=r"m\.h5: not saved: h5py .*pip install 'h5py>=3\.15'"):
        specnet.save(path, model_of({"type": "relu"}))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["m.h5"]


def test_a_failed_save_leaves_the_previous_file(path, model, tmp_path, monkeypatch):
    before = path.read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(CheckpointError, match=r"m\.h5: not saved: No space left on device; .* intact"):
        specnet.save(path, specnet.build(model.spec, seed=9))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]


def test_an_interrupt_leaves_the_previous_file(path, model, tmp_path, monkeypatch):
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        specnet.save(path, model)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.mark.parametrize("timestamp", ["abc", "1e20", "nan", "-5", "253402300800", "1.5"])
def test_an_invalid_source_date_epoch_is_rejected(path, model, monkeypatch, timestamp):
    before = path.read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", timestamp)
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
def test_a_run_state_that_cannot_be_stored_is_rejected(path, model, state):
    before = path.read_bytes()
    model.run_state = state
    with pytest.raises(CheckpointError, match=r"m\.h5: not saved"):
        specnet.save(path, model)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_synced_is_reported(path, model, monkeypatch):
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


def test_valid_and_invalid_target_paths(tmp_path, model, monkeypatch):
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


def test_links_and_permissions_are_kept(tmp_path, model):
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


def test_temporary_files_are_removed_unless_their_writer_is_alive(tmp_path, model):
    import fcntl

    abandoned, locked = (tmp_path / f".specnet-{16 * c}.tmp" for c in "0f")
    (tmp_path / ".specnet-of-a-user.tmp").touch()
    abandoned.write_bytes(b"x")
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        specnet.save(tmp_path / "m.h5", model)
        assert sorted(os.listdir(tmp_path)) == [locked.name, ".specnet-of-a-user.tmp", "m.h5"]


KILLED = """
import mmap, os, random, signal, sys, time
import numpy as np, specnet

path, rounds, units = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
layers = [{"type": "affine", "units": units}, {"type": "affine", "units": units}]
model = specnet.build(specnet.ModelSpec(input_shape=(units,), layers=layers))
specnet.save(path, model)
begin = time.monotonic()
for array in model.parameters.values():
    array.fill(0)
specnet.save(path, model)
duration = time.monotonic() - begin
done = mmap.mmap(-1, 8)  # the number of saves the child has finished
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
    time.sleep(rng.uniform(0, 4 * duration))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    minimum = value + int.from_bytes(done[:], "little")
    weights = specnet.load(path).parameters.values()
    (value_read,) = {v for array in weights for v in np.unique(array)} if value or minimum else {0}
    assert minimum <= value_read <= minimum + 1 or not minimum, (minimum, value_read)
    value = max(int(value_read), minimum)
    if value > 2**23:
        value = 0
print("done", value)
"""


def kill_writers(folder, python, rounds, units):
    """Kill a process that saves in a loop at random times; check that the path holds the last complete checkpoint."""
    command = [python, "-c", KILLED, folder / "m.h5", str(rounds), str(units)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert process.stdout.startswith("done"), process.stderr
    assert int(process.stdout.split()[1]) > rounds / 10  # in some rounds the child finished a save before it was killed
    specnet.save(folder / "m.h5", specnet.load(folder / "m.h5"))
    assert os.listdir(folder) == ["m.h5"]


def test_a_killed_writer_leaves_a_complete_checkpoint(tmp_path, python, full):
    kill_writers(tmp_path, python, 200 if full else 60, 40)


@pytest.mark.full
def test_a_killed_writer_of_50_mb_leaves_a_complete_checkpoint(tmp_path, python):
    kill_writers(tmp_path, python, 10, 2500)


@pytest.mark.long
@pytest.mark.parametrize(("rounds", "units"), [(2000, 40), (100, 2500)], ids=["small", "50 MB"])
def test_many_killed_writers_leave_a_complete_checkpoint(tmp_path, python, rounds, units):
    kill_writers(tmp_path, python, rounds, units)


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
        kept = specnet.load(sys.argv[1]).parameters["affine_1.weight"]
        assert np.array_equal(kept, model.parameters["affine_1.weight"])
    else:
        raise SystemExit(f"saved {size} bytes although the limit is {limit}")
print("done")
"""


def test_a_disk_that_is_full_at_any_byte_keeps_the_previous_file(tmp_path, python):
    process = subprocess.run([python, "-c", FULL_DISK, tmp_path / "m.h5"], capture_output=True, text=True, check=False)
    assert process.stdout == "done\n", process.stderr
    assert os.listdir(tmp_path) == ["m.h5"]


WRITER = """
import itertools, sys, time
import numpy as np, specnet
model = specnet.build(specnet.ModelSpec(input_shape=(200,), layers=[{"type": "affine", "units": 400}]))
deadline = time.monotonic() + float(sys.argv[2])
for count in itertools.count(1):
    model.parameters["affine_1.weight"].fill(count)
    specnet.save(sys.argv[1], model)
    if time.monotonic() > deadline:
        break
print(count)
"""
READER = """
import itertools, sys, time
import numpy as np, specnet
deadline = time.monotonic() + float(sys.argv[2])
for count in itertools.count(1):
    weight = specnet.load(sys.argv[1], mmap=count % 2 == 0, verify=True).parameters["affine_1.weight"]
    assert (weight == weight[0, 0]).all()
    if time.monotonic() > deadline:
        break
print(count)
"""


def read_and_write_concurrently(path, python, seconds):
    """Save to one path in two processes and load it in four; check that every load sees a complete checkpoint."""
    specnet.save(path, specnet.build(specnet.ModelSpec(input_shape=(200,), layers=[{"type": "affine", "units": 400}])))
    model = specnet.load(path)
    model.parameters["affine_1.weight"].fill(0)
    specnet.save(path, model)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    codes = [WRITER] * 2 + [READER] * 4
    processes = [subprocess.Popen([python, "-c", code, path, str(seconds)], **pipes) for code in codes]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert int(out) > 5
    assert os.listdir(path.parent) == [path.name]


def test_readers_never_see_an_incomplete_checkpoint(tmp_path, python):
    read_and_write_concurrently(tmp_path / "m.h5", python, 3)


@pytest.mark.long
def test_readers_never_see_an_incomplete_checkpoint_for_a_minute(tmp_path, python):
    read_and_write_concurrently(tmp_path / "m.h5", python, 60)


LITTLE_MEMORY = """
import resource, sys
import numpy as np, specnet
from specnet.checkpoint import write

def address_space():
    pages = open("/proc/self/statm").read().split()[0]
    return int(pages) * resource.getpagesize()

path = sys.argv[1]
layers = [{"type": "affine", "units": 700}] * 6
model = specnet.build(specnet.ModelSpec(input_shape=(700,), layers=layers))
model.backward(model.forward(np.ones((1, 700))))
specnet.save(path, model)
other = specnet.build(model.spec, seed=1)
old, new = (m.parameters["affine_1.weight"].copy() for m in (model, other))
outcomes = {}
for step in range(160, -1, -8):
    for operation, call in (("save", lambda: specnet.save(path, other)), ("load", lambda: specnet.load(path))):
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + step * 2**18, -1))
        loaded = None
        try:
            loaded = call()
            outcome = "ok"
        except specnet.CheckpointError as error:
            outcome = "no memory" if "memory" in str(error) else str(error)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        outcomes.setdefault(operation, []).append(outcome)
        weight = specnet.load(path).parameters["affine_1.weight"]
        assert np.array_equal(weight, old) or np.array_equal(weight, new)
        if loaded is not None:
            assert np.array_equal(loaded.parameters["affine_1.weight"], weight)
        loaded = None
        specnet.save(path, model)
for operation, results in outcomes.items():
    print(operation, sorted(set(results)))
"""


@pytest.mark.full
def test_running_out_of_memory_is_reported(tmp_path, python):
    command = [python, "-c", LITTLE_MEMORY, tmp_path / "m.h5"]
    # Freed memory returns to the system at once, so that the address-space limit takes effect.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert process.stdout == "save ['no memory', 'ok']\nload ['no memory', 'ok']\n", process.stdout + process.stderr
    assert os.listdir(tmp_path) == ["m.h5"]


# ---------------------------------------------------------------- other operating and file systems


def test_saving_without_advisory_locks_keeps_temporary_files(tmp_path, model, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    abandoned = tmp_path / f".specnet-{16 * '0'}.tmp"
    abandoned.touch()
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))
    assert abandoned.exists()  # without locks it is unknown whether its writer is alive, so it is kept


def test_full_fsync_is_used_if_the_system_has_it(tmp_path, model, monkeypatch):
    commands = []
    real = atomic.fcntl
    full = types.SimpleNamespace(
        F_FULLFSYNC=51, fcntl=lambda _, command: commands.append(command), flock=real.flock, LOCK_EX=real.LOCK_EX,
        LOCK_NB=real.LOCK_NB,
    )  # fmt: skip
    monkeypatch.setattr(atomic, "fcntl", full)
    specnet.save(tmp_path / "m.h5", model)
    assert commands == [51]


def test_a_temporary_file_that_another_process_removed_is_created_again(tmp_path, model, monkeypatch):
    real, removed = os.open, []

    def open_and_remove(path, *rest):
        descriptor = real(path, *rest)
        if str(path).endswith(".tmp") and not removed:
            removed.append(path)
            os.unlink(path)  # another process had the lock first
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    specnet.save(tmp_path / "m.h5", model)
    assert removed
    assert os.listdir(tmp_path) == ["m.h5"]


@pytest.fixture
def large():
    """Return a model so large that saving reserves disk space and syncs while it writes."""
    return specnet.build(specnet.ModelSpec(input_shape=(2200,), layers=[{"type": "affine", "units": 2200}]))


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_saving_works_if_space_cannot_be_reserved(tmp_path, large, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))
    monkeypatch.delattr(os, "posix_fallocate")
    specnet.save(tmp_path / "n.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "n.h5")), arrays_of(large))


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, large, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(CheckpointError, match="not saved: No space left on device"):
        specnet.save(tmp_path / "m.h5", large)
    assert os.listdir(tmp_path) == []


def test_saving_works_without_hints_and_folder_syncs(tmp_path, large, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "O_DIRECTORY")
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))


def test_a_failing_hint_is_ignored(tmp_path, large, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "posix_fadvise", broken)
    specnet.save(tmp_path / "m.h5", large)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(large))


def test_atomic_replacement_without_fcntl(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    module = runpy.run_path(atomic.__file__)
    (tmp_path / ".specnet-0123456789abcdef.tmp").touch()
    module["replace_file"](tmp_path / "f", lambda descriptor: module["write_at"](descriptor, 0, b"whole"))
    assert (tmp_path / "f").read_bytes() == b"whole"
    # Without locks it is unknown whether the writer of this file is alive, so it is kept.
    assert (tmp_path / ".specnet-0123456789abcdef.tmp").exists()


def test_an_error_while_checking_the_temporary_file_is_reported(tmp_path, model, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os.path, "samestat", broken)
    with pytest.raises(CheckpointError, match="not saved: Input/output error"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []


def test_an_old_temporary_file_that_cannot_be_opened_is_kept(tmp_path, model):
    (tmp_path / ".specnet-0123456789abcdef.tmp").symlink_to("nowhere")
    specnet.save(tmp_path / "m.h5", model)
    assert same_arrays(arrays_of(specnet.load(tmp_path / "m.h5")), arrays_of(model))


def test_memory_for_hdf5_is_checked_before_saving(tmp_path, model, monkeypatch):
    monkeypatch.setattr(write, "HDF5_MEMORY", 2**62)
    with pytest.raises(CheckpointError, match="not saved: there is not enough memory"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []


def test_an_hdf5_library_that_does_not_align_is_reported(tmp_path, model, monkeypatch):
    unaligned = types.SimpleNamespace(File=lambda memory, mode, **_: h5py.File(memory, mode, libver=("v108", "v108")))
    monkeypatch.setattr(write, "h5py", unaligned)
    with pytest.raises(CheckpointError, match="HDF5 did not align a dataset"):
        specnet.save(tmp_path / "m.h5", model)
    assert os.listdir(tmp_path) == []
