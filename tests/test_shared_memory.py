"""Processes of one machine that sum their gradients in shared memory, with a real launcher."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import specnet
from tests import test_mpi
from tests.test_mpi import document, mpi, start_endless_run, wait_until_gone

if not Path("/dev/shm").is_dir():
    pytest.skip("this system has no file system in memory", allow_module_level=True)

folder = test_mpi.folder

BEGIN = """
import gc, json, os, time, warnings
from pathlib import Path
import numpy as np
from specnet.mpi import MpiWorld, launched_world, shared_memory
warnings.simplefilter("error")
def mapped():
    return Path("/proc/self/maps").read_text().count("/dev/shm/specnet-")
def descriptors():
    return len(os.listdir("/proc/self/fd"))
def check_sum(world, vector):
    rng = np.random.default_rng(vector.size)
    for _ in range(5):
        parts = rng.normal(size=(world.size, vector.size)).astype(vector.dtype)
        vector[:] = parts[world.rank]
        if world.rank == world.size - 1:
            time.sleep(0.001)
        world.sum(vector)
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        assert np.allclose(vector, total, rtol=1e-5, atol=1e-5)
        assert len(set(world.gather(vector.tobytes()))) == 1
    return vector.tobytes() == total.tobytes()
world = launched_world()
"""
"""Lines before the script of every process."""


def python(folder, count, script):
    """Run a script in `count` processes; return the first one's standard output."""
    (folder / "script.py").write_text(BEGIN + script)
    return mpi(count, sys.executable, "script.py", cwd=folder, timeout=60)[0]


def names():
    return [path.name for path in Path("/dev/shm").glob("specnet-*")]


def wait_until_no_name_is_left():
    limit = time.monotonic() + 5  # another test may be just making one
    while names():
        assert time.monotonic() < limit, names()
        time.sleep(0.02)


@pytest.mark.parametrize("count", [2, 3])
def test_a_sum_has_the_bits_of_an_addition_in_order_of_rank(tmp_path, count):
    script = """
for dtype in ("f4", "f8"):
    for length in (16_384, 16_385, 100_003, 400_009):
        vector = world.shared_zeros(length, dtype)
        assert mapped() == 1 and vector.shape == (length,) and vector.dtype == dtype and not vector.any()
        assert vector.ctypes.data % 4096 == 0 and vector.flags.carray
        assert check_sum(world, vector)
        vector[:] = 0
        vector[0] = [np.nan, np.inf, np.finfo(dtype).max][world.rank]
        vector[-1] = [1, 4097, -1][world.rank]
        with np.errstate(all="raise"):
            world.sum(vector)
        assert np.isnan(vector[0]) and vector[-1] == (4098 if world.size == 2 else 4097)
        ordinary, other = np.ones(length, dtype), vector[:]
        world.sum(ordinary)
        world.sum(other)  # a view: summed like any other array
        assert (ordinary == world.size).all() and (other[1:-1] == 0).all() and np.isnan(other[0])
        del vector, other
        assert mapped() == 0
"""
    python(tmp_path, count, script)
    wait_until_no_name_is_left()


def test_the_memory_is_freed_with_the_array(tmp_path):
    script = """
before, kept = descriptors(), world.shared_zeros(20_000, "f4")
for _ in range(100):  # as many runs in one process
    vector = world.shared_zeros(1_000_000, "f4")
    part = vector[10:20]
    world.sum(vector)
    assert mapped() == 2
    del vector
    assert mapped() == 2  # by the part
    del part
assert mapped() == 1 and descriptors() <= before + 1
assert check_sum(world, kept)
del kept
assert mapped() == 0 and descriptors() == before and not world._shared_sums
"""
    python(tmp_path, 2, script)


NO_FOLDER = "shared_memory.FOLDER = '/nonexistent'"
NO_SPACE = """
import resource
if world.rank in {ranks}:  # at least the last, which reserves the end of the file
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
"""
NO_ADDRESSES = """
import mmap
def refuse(*_):
    raise OSError(12, "Cannot allocate memory")
if world.rank == 1:
    mmap.mmap = refuse
"""


@pytest.mark.parametrize(
    ("count", "hindrance"),
    [
        (2, NO_FOLDER),
        (2, NO_SPACE.format(ranks=[0, 1])),
        (2, NO_SPACE.format(ranks=[1])),
        (2, NO_ADDRESSES),
        (2, "length = 16_383"),
        (3, "world.__dict__['_machine'] = world.comm.Split(world.rank // 2)  # machines with two and one"),
        (2, "world.__dict__['_machine'] = world.comm.Split(world.rank)  # two machines with one each"),
        (1, ""),
    ],
)
def test_all_processes_fall_back_to_an_ordinary_array_together(tmp_path, count, hindrance):
    script = f"""
length, before = 100_003, descriptors()
{hindrance}
vector = world.shared_zeros(length, "f8")
assert vector.shape == (length,) and vector.dtype == "f8" and not vector.any()
assert mapped() == 0 and not world._shared_sums and descriptors() <= before + 1
check_sum(world, vector)
"""
    python(tmp_path, count, script)
    wait_until_no_name_is_left()


def test_vectors_of_different_lengths_are_not_shared(tmp_path):
    script = "vector = world.shared_zeros(100_000 + world.rank, 'f4')\nassert mapped() == 0 and vector.size > 99_999"
    python(tmp_path, 2, script)


def test_several_machines_sum_the_sums_of_each(tmp_path):
    script = """
world.__dict__["_machine"] = world.comm.Split(world.rank // 2)  # two processes on each of two machines
for dtype in ("f4", "f8"):
    vector = world.shared_zeros(100_003, dtype)
    assert mapped() == 1
    check_sum(world, vector)
"""
    python(tmp_path, 4, script)


def wide(**training):
    """Return the experiment of test_mpi with more parameters, so that their gradients are shared."""
    doc = document(**training)
    layers = doc["model"]["layers"]
    for layer in (layers[1], layers[5]["layers"][0]):
        layer["units"] = 130
    return doc


TRAINING = """
import specnet
calls = []
plain = shared_memory.SharedSum.__call__
def counted(self):
    calls.append(1)
    plain(self)
shared_memory.SharedSum.__call__ = counted
def check(event):
    if event.kind != "step":
        return
    run = event.run
    shared = run.model.store.shared_vector
    assert mapped() == (world.size > 1) and len(calls) == (run.step - first if world.size > 1 else 0)
    layers = [run.model["affine_1"].weight_grad, run.model["residual_1.batch_norm_1"].scale_grad]
    for array in (*run.optimizer.gradients, *run.model.gradients.values(), *layers):
        assert np.shares_memory(array, shared) and array.any()
def train(name, **options):
    calls.clear()
    gc.collect()  # a run and its events refer to each other
    return specnet.train(name, world=world, listeners=[check], **options)
"""


def test_a_wide_model_trains_in_shared_memory_to_the_same_result(folder):
    experiments = {"adam": wide(), "accumulated": wide(batch_size=7, accumulate=3, optimizer="sgd")}
    experiments["float32"] = wide()
    experiments["float32"]["model"]["dtype"] = "float32"
    (folder / "wide.json").write_text(json.dumps(experiments))
    script = """
first = 0
for name, document in json.loads(Path("wide.json").read_text()).items():
    for again in range(1 + (world.size == 2)):
        train(document, out=f"{name}-{world.size}-{again}")
gc.collect()
assert mapped() == 0
"""
    for count in (1, 2, 3):
        python(folder, count, TRAINING + script)
    for name in experiments:
        single = specnet.load(folder / f"{name}-1-0/last.h5")
        assert single.parameter_count > 16_384
        tolerance = 2e-4 if name == "float32" else 1e-9
        for count in (2, 3):
            shared = specnet.load(folder / f"{name}-{count}-0/last.h5")
            for key, value in {**single.parameters, **single.buffers}.items():
                array = {**shared.parameters, **shared.buffers}[key]
                assert np.abs(array - value).max() <= tolerance * max(1, np.abs(value).max()), (name, count, key)
        again = [(folder / f"{name}-2-{run}/last.h5").read_bytes() for run in (0, 1)]
        assert again[0] == again[1]
    wait_until_no_name_is_left()


def test_a_run_in_shared_memory_stops_saves_and_resumes_to_the_same_bits(folder):
    (folder / "wide.json").write_text(json.dumps(wide(checkpoint={"every_epochs": 1_000_000})))
    script = """
first = 0
train("wide.json", out="whole")
saved = []
def ask(event):
    run = event.run
    if event.kind == "step" and world.rank == 1 and run.step in (3, 6):
        run.save() if run.step == 3 else run.stop()
    if event.kind == "step" and world.rank == 0 and os.path.exists("parts/last.h5"):
        saved.append(specnet.load("parts/last.h5").run_state["step"])
specnet.train("wide.json", out="parts", world=world, listeners=[ask])
assert world.broadcast(saved)[0] == 4, saved
assert specnet.load("parts/last.h5").run_state["step"] == 7
first = 7
train("wide.json", out="parts", resume=True)
"""
    python(folder, 2, TRAINING + script)
    whole, parts = specnet.load(folder / "whole/last.h5"), specnet.load(folder / "parts/last.h5")
    for name, value in {**whole.parameters, **whole.gradients}.items():
        assert value.tobytes() == {**parts.parameters, **parts.gradients}[name].tobytes()


def test_a_run_made_in_python_needs_no_shared_memory(tmp_path):
    script = """
import specnet
from specnet.data.dataset import Dataset
from specnet.training.runs.train import make_run
from specnet.training.spec.training_spec import TrainingSpec
layers = [{"type": "affine", "units": 3000}, {"type": "relu"}, {"type": "affine", "units": 1}]
model = specnet.build(specnet.ModelSpec(input_shape=(6,), layers=layers))
rng = np.random.default_rng(0)
data = Dataset(rng.normal(size=(50, 6)).astype("f4"), rng.normal(size=(50, 1)).astype("f4"), None, ())
settings = {"loss": "mean_squared_error", "optimizer": "adam", "epochs": 2, "batch_size": 16}
run = make_run(TrainingSpec.model_validate(settings), model, data, None, world=world)
run.go()
assert mapped() == 0 and run.step == 8
assert len(set(world.gather(model.store.value_vector.tobytes()))) == 1
"""
    python(tmp_path, 2, script)


def test_gradients_move_with_their_values_into_another_vector():
    layers = [{"type": "affine", "units": 5}, {"type": "residual", "layers": [{"type": "affine", "units": 5}]}]
    model = specnet.build(specnet.ModelSpec(input_shape=(4,), layers=layers))
    x, dy = np.ones((2, 4), "f4"), np.ones((2, 5), "f4")
    model.forward(x)
    model.backward(dy)
    before = {name: gradient.copy() for name, gradient in model.gradients.items()}
    model.store.shared_vector[-1] = 7
    vector = np.zeros(model.parameter_count + 1, "f4")
    for _ in range(2):  # again into the same one
        model.move_gradients(vector)
        assert vector[-1] == 7
        assert model.gradients.keys() == before.keys()
        for name, gradient in before.items():
            assert np.array_equal(model.gradients[name], gradient)
    vector[:] = 0
    model.forward(x)
    model.backward(dy)
    for name, gradient in before.items():
        assert np.array_equal(model.gradients[name], gradient)
        assert np.shares_memory(model.gradients[name], vector)
    assert np.shares_memory(model["residual_1.affine_1"].weight_grad, vector)


def test_nothing_is_left_by_a_killed_process(folder):
    (folder / "e.json").write_text(json.dumps(wide()))
    process, workers = start_endless_run(folder, 2)
    for worker in workers:
        assert "/dev/shm/specnet-" in Path(f"/proc/{worker}/maps").read_text()
    os.kill(workers[1], signal.SIGKILL)
    process.communicate(timeout=10)
    assert process.returncode != 0
    wait_until_gone(workers)
    wait_until_no_name_is_left()


def test_nothing_is_left_if_opening_fails(tmp_path):
    script = """
def fail(self, *_):
    raise KeyboardInterrupt
class Machine:
    Get_rank = lambda self: 0
    Get_size = lambda self: 2
    bcast = Barrier = fail
try:
    shared_memory.map_together(Machine(), 4096)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert "interrupted" in python(tmp_path, 1, script)
    wait_until_no_name_is_left()
