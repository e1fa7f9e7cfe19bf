"""One run shared by several MPI processes, with real launchers, signals and files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet.mpi.launcher import THREADS, cores
from tests.test_cli import run

pytest.importorskip("mpi4py", reason="mpi4py is not installed")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
if MPIEXEC is None:
    pytest.skip("mpiexec is not installed", allow_module_level=True)
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "0"}
PLAIN = {key: value for key, value in ENVIRONMENT.items() if not key.startswith(("PMI", "OMPI_COMM_WORLD", "SLURM"))}
ROOT = Path(__file__).parent.parent
VENDOR = subprocess.run(
    [sys.executable, "-c", "from mpi4py import MPI; print(MPI.get_vendor()[0])"],
    capture_output=True,
    text=True,
    check=True,
).stdout.strip()
TRAIN = [sys.executable, "-m", "specnet", "train", "e.json"]


def launch(*arguments, cwd, timeout=120, environment=ENVIRONMENT):
    """Run mpiexec and return the finished process."""
    return subprocess.run(
        [MPIEXEC, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def mpi(count, *command, cwd, code=0, timeout=120):
    """Run a command in `count` processes; return its standard output and standard error."""
    process = launch("-n", count, *command, cwd=cwd, timeout=timeout)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout, process.stderr


def error_lines(err):
    """Return the lines of standard error, without the ruled-off messages of Open MPI's launcher."""
    return re.sub(r"-{60,}\n.*?-{60,}\n?", "", err, flags=re.DOTALL).strip().splitlines()


def document(**training):
    """Return an experiment that uses every feature that needs the whole batch."""
    return {
        "model": {
            "dtype": "float64",
            "input_shape": [6],
            "layers": [
                {"type": "standardize"},
                {"type": "affine", "units": 8, "bias": False},  # the gradient of a bias before a norm is only rounding
                {"type": "batch_norm"},
                {"type": "relu"},
                {"type": "dropout", "rate": 0.3},
                {"type": "residual", "layers": [{"type": "affine", "units": 8, "bias": False}, {"type": "batch_norm"}]},
                {"type": "affine", "units": 3},
            ],
        },
        "data": {"train": {"path": "rows.npz"}, "validation": {"fraction": 0.2}},
        "training": {
            "loss": "softmax_cross_entropy",
            "epochs": 3,
            "batch_size": 16,
            "optimizer": "adam",
            "metrics": ["accuracy", "f1"],
            "clip_norm": 0.5,
            **training,
        },
    }


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(75, 6))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    weights = rng.uniform(0.5, 2, 75)
    steps = x.reshape(75, 3, 2) * (np.arange(3) < rng.integers(1, 4, (75, 1)))[..., np.newaxis]
    sums = np.cumsum(steps, axis=1)
    np.savez(tmp_path / "rows.npz", x=x, y=y, w=weights, z=x[:, :3] + 100, steps=steps, sums=sums)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "e.json").write_text(json.dumps(document()))
    return tmp_path


def variants():
    """Return experiments by name, whose training must not depend on the number of processes."""
    optimizers = ("sgd", {"type": "sgd", "momentum": 0.9}, "adam", "adamw", "rmsprop", "adagrad", "lion")
    experiments = {f"{index} {optimizer}": document(optimizer=optimizer) for index, optimizer in enumerate(optimizers)}
    experiments["accumulated"] = document(batch_size=7, accumulate=3)
    experiments["tiny batches"] = document(batch_size=2)
    experiments["in order, a schedule"] = document(shuffle=False, schedule="cosine")
    experiments["class weights"] = document(loss={"type": "softmax_cross_entropy", "class_weights": [1, 2, 5]})
    experiments["frozen"] = document(freeze=["affine_1.*"])
    experiments["row weights"] = document()
    experiments["row weights"]["data"]["train"]["weights"] = "w"
    experiments["regression"] = document(loss="mean_squared_error", metrics=["r2", "mae"])
    experiments["regression"]["data"]["train"]["targets"] = "z"
    experiments["stopped early"] = document(epochs=40, early_stopping={"patience": 2})
    experiments["images"] = document()
    experiments["images"]["model"]["layers"] = [
        {"type": "standardize"},
        {"type": "reshape", "shape": [3, 2, 1]},
        {"type": "conv2d", "filters": 5, "kernel_size": 2, "padding": "same", "bias": False},
        {"type": "batch_norm"},
        {"type": "relu"},
        {"type": "channel_dropout", "rate": 0.3},
        {"type": "max_pool2d", "pool_size": 2, "stride": 1},
        {"type": "conv_transpose2d", "filters": 3, "kernel_size": 2},
        {"type": "global_average_pool"},
    ]
    sequences = document(loss="mean_squared_error", metrics=["r2", "mae"], batch_size=5, accumulate=4)
    sequences["data"]["train"] |= {"inputs": "steps", "targets": "sums", "weights": "w"}
    sequences["model"] |= {"input_shape": [3, 2]}
    sequences["model"]["layers"] = [
        {"type": "mask"},
        {"type": "standardize"},
        {"type": "residual", "layers": [{"type": "attention", "heads": 2, "causal": True, "dropout": 0.2}]},
        {"type": "lstm", "units": 4, "return_sequences": True},
        {"type": "bidirectional", "layers": [{"type": "gru", "units": 3, "return_sequences": True}]},
        {"type": "affine", "units": 2},
    ]
    experiments["padded sequences, accumulated"] = sequences
    experiments["streamed"] = document()
    experiments["streamed"]["data"] = {
        "train": {"inputs": "x.npy", "targets": "y.npy", "in_memory": False},
        "validation": {"inputs": "x.npy", "targets": "y.npy"},
    }
    return experiments


PARITY = """
import json, sys
import numpy as np
import specnet
from specnet.mpi import launched_world
world = launched_world()
for number, doc in enumerate(json.load(open("variants.json")).values()):
    result = specnet.train(doc, out=f"out-{world.size}-{number}", world=world)
    if world.rank == 0:
        arrays = {**result.model.parameters, **result.model.buffers, **{f"h/{k}": v for k, v in result.history.items()}}
        np.savez(f"result-{world.size}-{number}.npz", **arrays)
"""


def test_the_trained_model_does_not_depend_on_the_number_of_processes(folder):
    (folder / "variants.json").write_text(json.dumps(variants()))
    (folder / "parity.py").write_text(PARITY)
    for count in (1, 2, 3):
        mpi(count, sys.executable, "parity.py", cwd=folder, timeout=300)
    for number, name in enumerate(variants()):
        single = np.load(folder / f"result-1-{number}.npz")
        for count in (2, 3):
            shared = np.load(folder / f"result-{count}-{number}.npz")
            assert shared.files == single.files
            # The share of zero gradients is left out: before a norm, gradients are 0 or rounding.
            for key in (key for key in single.files if "gradient_zeros" not in key):
                difference = np.abs(shared[key] - single[key]).max()
                assert difference <= 1e-9 * max(1, np.abs(single[key]).max()), (name, key)


def test_there_may_be_more_processes_than_rows_in_a_batch(folder):
    settings = ("--set", "training.batch_size=2", "--set", "training.epochs=1", "--quiet")
    mpi(5, *TRAIN, "--out", "five", *settings, cwd=folder)
    run("train", "e.json", "--out", "one", *settings, cwd=folder)
    five, one = specnet.load(folder / "five/last.h5"), specnet.load(folder / "one/last.h5")
    for name, value in one.parameters.items():
        assert np.abs(five.parameters[name] - value).max() < 1e-7


def test_runs_are_reproducible_and_only_the_first_process_prints(folder):
    for name in ("a", "b"):
        out, err = mpi(3, *TRAIN, "--out", name, cwd=folder)
        assert err.count("epoch 1/3") == 1
        assert out.count("contains the model after the last epoch") == 1
    for file in ("last.h5", "best.h5", "history.csv"):
        assert (folder / "a" / file).read_bytes() == (folder / "b" / file).read_bytes()
    assert run("replay", "a/best.h5", "a/last.h5", cwd=folder)[1].count("processes was 3, is 1") == 1


def test_a_run_can_be_resumed_with_another_number_of_processes(folder):
    every_step = ("--set", "training.checkpoint.every_steps=1", "--quiet")
    mpi(1, *TRAIN, "--out", "uninterrupted", *every_step, cwd=folder)
    code = (
        "import specnet\nfrom specnet.mpi import launched_world\nworld = launched_world()\n"
        "def stop(event):\n    run = event.run\n"
        "    if event.kind == 'step' and run.world.rank == 1 and run.step == 5:\n        run.stop()\n"
        "every_step = {'training.checkpoint.every_steps': '1'}\n"
        "specnet.train('e.json', out='resumed', overrides=every_step, listeners=[stop], world=world)\n"
    )
    (folder / "resumed.py").write_text(code)
    mpi(2, sys.executable, "resumed.py", cwd=folder)
    assert specnet.load(folder / "resumed/last.h5").run_state["batch"] == 2  # in the middle of an epoch
    _, err = mpi(3, *TRAIN, "--out", "resumed", "--resume", *every_step, cwd=folder)
    assert err.count("2 processes shared the run, now 3: the last bits may differ") == 1
    uninterrupted, resumed = specnet.load(folder / "uninterrupted/last.h5"), specnet.load(folder / "resumed/last.h5")
    for name, value in uninterrupted.parameters.items():
        assert np.abs(resumed.parameters[name] - value).max() < 1e-9
    assert np.allclose(uninterrupted.run_state["history/loss"], resumed.run_state["history/loss"], rtol=1e-12, atol=0)
    assert np.array_equal(uninterrupted.run_state["history/val_accuracy"], resumed.run_state["history/val_accuracy"])
    _, err = run(
        "train", "e.json", "--out", "resumed", "--resume", "--set", "training.epochs=4", *every_step[:2], cwd=folder
    )
    assert "3 processes shared the run, now 1" in err


def test_a_listener_in_one_process_stops_all_processes(folder):
    code = (
        "import specnet, time\nfrom specnet.mpi import launched_world\nworld = launched_world()\n"
        "begun = time.monotonic()\n"
        "def limit(event):\n    if time.monotonic() - begun > 1 + world.rank:\n        event.run.stop()\n"
        "far = {'training.epochs': '1000000'}\n"
        "result = specnet.train('e.json', out='limited', overrides=far, listeners=[limit], world=world)\n"
        "print(result.finished)\n"
    )
    (folder / "limited.py").write_text(code)
    out, _ = mpi(2, sys.executable, "limited.py", cwd=folder, timeout=30)
    assert out.replace("\n", "") == "FalseFalse"  # the launcher may join the lines of the processes
    specnet.load(folder / "limited/last.h5")


def train_with_different_files(folder, change):
    """Train in two processes, the second in a copy of the folder changed by `change`; return standard error."""
    (folder / "other").mkdir()
    for name in ("rows.npz", "e.json"):
        shutil.copy(folder / name, folder / "other" / name)
    change(folder / "other")
    command = (*TRAIN, "--out", "run")
    process = launch("-n", 1, *command, ":", "-n", 1, "-wdir", folder / "other", *command, cwd=folder, timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert not (folder / "run").exists()
    return process.stderr


def change_rows(folder):
    arrays = dict(np.load(folder / "rows.npz"))
    arrays["x"][0, 0] += 1
    np.savez(folder / "rows.npz", **arrays)


def change_document(folder):
    (folder / "e.json").write_text(json.dumps(document(optimizer="sgd")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_rows, "process 1 of 2: the data is not that of process 0"),
        (change_document, "process 1 of 2: the document is not that of process 0"),
        (lambda folder: (folder / "rows.npz").unlink(), "process 1 of 2: rows.npz: "),
        (lambda folder: (folder / "e.json").write_text("{"), "process 1 of 2: e.json:1:2"),
    ],
)
def test_differences_between_processes_are_reported_before_the_first_step(folder, change, message):
    err = train_with_different_files(folder, change)
    assert err.count(message) == 1
    assert len(error_lines(err)) == 1


def test_an_error_in_all_processes_is_reported_once(folder):
    for arguments, message in (
        (("--set", "training.optimizer=addam"), 'unknown optimizer "addam"'),
        (("--check-finite",), "check_finite looks at one process's arrays"),
    ):
        _, err = mpi(3, *TRAIN, "--out", "r", *arguments, cwd=folder, code=1)
        assert err.count(message) == 1
        assert len(error_lines(err)) == 1
    assert not (folder / "r").exists()


@pytest.mark.parametrize("units", [4, 2000])  # the gradients of the second are summed in shared memory
def test_a_loss_that_is_not_finite_names_process_and_rows(folder, units):
    arrays = dict(np.load(folder / "rows.npz"))
    x = np.ones((64, 6))
    x[45] = 1e200  # in the third step, in the last third of its batch
    np.savez(folder / "rows.npz", x=x, y=arrays["y"][:64])
    doc = document(shuffle=False, optimizer="sgd")
    doc["model"]["layers"] = [{"type": "affine", "units": units}, {"type": "mish"}, {"type": "affine", "units": 3}]
    doc["data"]["validation"] = None
    del doc["data"]["validation"]
    doc["training"] |= {"loss": "mean_squared_error", "metrics": ["mse"]}
    doc["data"]["train"]["targets"] = "t"
    np.savez(folder / "rows.npz", x=x, t=np.ones((64, 3)))
    (folder / "e.json").write_text(json.dumps(doc))
    _, err = mpi(3, *TRAIN, "--out", "r", "--quiet", cwd=folder, code=1)
    assert len(error_lines(err)) == 1
    assert "at step 3, in epoch 1" in err
    assert "in process 2 of 3, rows 10 to 15 of the step's 16" in err


def start(folder, count, *command, until):
    """Start a command in `count` processes and wait until the file `until` exists; return the launcher's process."""
    process = subprocess.Popen(
        [MPIEXEC, "-n", str(count), *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    limit = time.monotonic() + 60
    while not (folder / until).exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.05)
    return process


def start_endless_run(folder, count):
    """Start a practically endless run and wait for its first checkpoint; return the launcher and the worker pids."""
    options = ("--out", "long", "--set", "training.epochs=1000000", "--quiet")
    process = start(folder, count, *TRAIN, *options, until="long/last.h5")
    workers = [pid for pid in descendants(process.pid) if "specnet" in command_of(pid)]
    assert len(workers) == count
    return process, workers


def command_of(pid):
    """Return the command line of a process, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def wait_until_gone(pids):
    limit = time.monotonic() + 5
    while any("specnet" in command_of(pid) for pid in pids):
        assert time.monotonic() < limit, "worker processes are still running"
        time.sleep(0.05)


def descendants(pid):
    """Return the pids of all descendants of a process."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                pids += [int(entry.name), *descendants(int(entry.name))]
    return pids


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("kill", None),
        ("term", "stopped after a complete step; long/last.h5 is written"),
        ("ctrl-c", "stopped after a complete step; long/last.h5 is written"),
    ],
)
def test_all_processes_end_if_one_ends(folder, cause, message):
    process, workers = start_endless_run(folder, 3)
    steps = specnet.load(folder / "long/last.h5").run_state["step"]
    if cause == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(workers[1], signal.SIGKILL if cause == "kill" else signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert (
        process.returncode
        in {"kill": range(1, 256), "term": (143,), "ctrl-c": (130,) if VENDOR == "MPICH" else (1,)}[cause]
    )
    wait_until_gone(workers)
    if message is not None:
        assert err.count(message) == 1
    assert cause == "kill" or specnet.load(folder / "long/last.h5").run_state["step"] > steps
    mpi(2, *TRAIN, "--out", "long", "--resume", "--quiet", "--set", "training.epochs=1", cwd=folder)


FAILING = """
from specnet.cli.processes import joined
from specnet.errors import SpecnetError
with joined(None) as (world, _):
    if world.rank == 1:
        raise {error}
    world.gather(None)  # blocks, as process 1 never takes part
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [("SpecnetError('the disk is gone')", "process 1 of 3: the disk is gone"), ("KeyError('bug')", "KeyError: 'bug'")],
)
def test_an_error_in_one_process_ends_all_with_one_message(folder, error, message):
    (folder / "failing.py").write_text(FAILING.format(error=error))
    process = launch("-n", "3", sys.executable, "failing.py", cwd=folder, timeout=10)
    assert process.returncode == 1
    assert process.stderr.count(message) == 1


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("target", ["launcher", "process"])
def test_a_signal_ends_a_run_that_waits_for_a_hanging_process(folder, target):
    process, workers = start_endless_run(folder, 2)
    os.kill(workers[1], signal.SIGSTOP)  # stopped like a process on a hanging machine
    time.sleep(0.5)
    if target == "launcher":
        process.terminate()
    else:
        os.kill(workers[0], signal.SIGTERM)
    _, err = process.communicate(timeout=12)
    assert process.returncode != 0
    if VENDOR == "MPICH" or target == "process":  # Open MPI's launcher kills them after a second
        assert (
            error_lines(err)[0] == "process 0 of 2: stopped; all files are complete, and --resume continues from them"
        )
    wait_until_gone(workers)
    specnet.load(folder / "long/last.h5")


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_shared_run_locks_its_folder_saves_on_a_signal_and_ends_on_another(folder):
    options = ("--out", "long", "--set", "training.epochs=1000000", "--quiet", "--checkpoint-signal", "USR1")
    checkpoint = {"every_epochs": 1_000_000}
    (folder / "e.json").write_text(json.dumps(document(checkpoint=checkpoint)))
    process = start(folder, 2, *TRAIN, *options, until="long/experiment.json")
    workers = [pid for pid in descendants(process.pid) if "specnet" in command_of(pid)]
    for count in (1, 2):
        refused = launch("-n", count, *TRAIN, "--out", "long", "--resume", cwd=folder, timeout=30)
        assert refused.returncode == 1
        assert refused.stderr.count("long: a run (process ") == 1
    steps = []
    for worker in workers:  # any process may receive the signal
        limit, before = time.monotonic() + 20, steps[-1] if steps else 0
        os.kill(worker, signal.SIGUSR1)
        while not steps or steps[-1] == before:
            assert time.monotonic() < limit
            time.sleep(0.05)
            if (folder / "long/last.h5").exists():
                steps.append(specnet.load(folder / "long/last.h5").run_state["step"])
    assert 0 < steps[0] < steps[-1]
    os.kill(workers[1], signal.SIGHUP)
    process.communicate(timeout=20)
    assert process.returncode != 0
    wait_until_gone(workers)
    assert specnet.load(folder / "long/last.h5").run_state["step"] > steps[-1]
    assert not (folder / "long/.specnet.lock").exists()


def test_a_checkpoint_that_cannot_be_written_ends_all_processes(folder):
    """Only the first process writes, and without this check the others would wait for it forever."""
    (folder / "r/last.h5").mkdir(parents=True)
    process = launch("-n", "2", *TRAIN, "--out", "r", "--force", "--quiet", cwd=folder, timeout=20)
    assert process.returncode == 1
    assert process.stderr.count("process 0 of 2: r: cannot be written to") == 1


def test_predictions_do_not_depend_on_the_number_of_processes(folder):
    run("train", "e.json", "--out", "r", "--quiet", cwd=folder)
    x = np.random.default_rng(1).normal(size=(3000, 6))
    x[2100, 3] = 1e6
    np.save(folder / "big.npy", x)
    with h5py.File(folder / "big.h5", "w") as file:
        file["x"] = x
    model = specnet.load(folder / "r/best.h5")
    y = model.predict(x, batch_size=1024)
    e = np.exp(y - y.max(axis=1, keepdims=True))
    expected = e / e.sum(axis=1, keepdims=True)
    for suffix in ("npy", "h5"):
        files = []
        for count in (1, 2, 3):
            arguments = ("predict", "r/best.h5", "--data", f"big.{suffix}", "--out", f"{count}.{suffix}")
            _, err = mpi(count, sys.executable, "-m", "specnet", *arguments, cwd=folder)
            assert err.count("1 of 3000 rows have inputs far outside") == 1
            assert "row 2101, input 4 is 1e+06" in err
            assert err.count("3000 rows\n") == 1
            files.append((folder / f"{count}.{suffix}").read_bytes())
        assert files[0] == files[1] == files[2]
    assert np.array_equal(np.load(folder / "2.npy"), expected)
    with h5py.File(folder / "3.h5") as file:
        assert np.array_equal(file["outputs"], expected)
        assert np.array_equal(file["class"], expected.argmax(axis=1))
    assert not list(folder.glob(".specnet-*"))
    _, err = mpi(2, sys.executable, "-m", "specnet", "predict", "r/best.h5", "--data", "big.npy", cwd=folder, code=1)
    assert err.count("under MPI, predict needs a .npy or .h5 file for both --data and --out") == 1
    x[2999, 0] = np.nan
    np.save(folder / "bad.npy", x)
    arguments = ("predict", "r/best.h5", "--data", "bad.npy", "--out", "bad-out.npy")
    _, err = mpi(3, sys.executable, "-m", "specnet", *arguments, cwd=folder, code=1)
    assert "process 2 of 3: bad.npy: inputs" in err
    assert "row 3000" in err
    assert not (folder / "bad-out.npy").exists()
    assert not list(folder.glob(".specnet-*"))


def test_the_runs_of_a_sweep_are_shared_among_processes(folder):
    settings = ("--set", "training.optimizer.learning_rate=0.1,0.01,1e300", "--set", "training.epochs=2")
    mpi(3, sys.executable, "-m", "specnet", "sweep", "e.json", *settings, "--out", "shared", cwd=folder)
    run("sweep", "e.json", *settings, "--out", "alone", cwd=folder, env=ENVIRONMENT)
    for name in ("learning_rate=0.1", "learning_rate=0.01"):
        shared, alone = (specnet.load(folder / where / name / "last.h5") for where in ("shared", "alone"))
        differing = {
            k for k in alone.run_state if np.any(np.asarray(shared.run_state[k]) != np.asarray(alone.run_state[k]))
        }
        assert not differing
        assert all((shared.parameters[key] == value).all() for key, value in alone.parameters.items())
    _, err = mpi(
        2, sys.executable, "-m", "specnet", "sweep", "e.json", "--set", "training.loss=x,y", cwd=folder, code=1
    )
    assert err.count('unknown loss "x"') == 1


def test_a_signal_ends_a_shared_sweep(folder):
    rates = ("--set", "training.optimizer.learning_rate=0.1,0.01,0.001", "--set", "training.epochs=1000000")
    rare_checkpoints = ("--set", "training.checkpoint.every_epochs=1000000")
    command = (sys.executable, "-m", "specnet", "sweep", "e.json", *rates, *rare_checkpoints, "--out", "s")
    process = start(folder, 2, *command, until="s/learning_rate=0.1/experiment.json")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (130 if VENDOR == "MPICH" else 1)
    assert err.count("stopped; the same command continues with the missing runs") == 1
    assert specnet.load(folder / "s/learning_rate=0.1/last.h5").run_state["step"] > 0
    assert (folder / "s/sweep.csv").exists()
    assert not (folder / "s/learning_rate=0.01").exists()


def test_dry_runs_and_usage_errors_print_once(folder):
    out, _ = mpi(2, *TRAIN, "--dry-run", cwd=folder)
    assert out.count("rows to train on") == 1
    _, err = mpi(2, *TRAIN, "--set", "nonsense", cwd=folder, code=2)
    assert "expected PATH=VALUE" in err
    np.save(folder / "own.npy", np.zeros((3, 6)))
    run("train", "e.json", "--out", "r", "--quiet", cwd=folder)
    arguments = ("predict", "r/last.h5", "--data", "own.npy", "--out", "own.npy")
    _, err = mpi(2, sys.executable, "-m", "specnet", *arguments, cwd=folder, code=1)
    assert err.count("is the data itself") == 1


@pytest.mark.parametrize(
    "variables", [{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "2"}]
)
@pytest.mark.parametrize("command", [("train", "e.json"), ("sweep", "e.json", "--set", "training.epochs=1,2")])
def test_processes_not_connected_by_mpi_do_not_write_into_one_folder(folder, command, variables):
    """This happens under Open MPI's mpirun if mpi4py uses MPICH, or under Slurm's srun without its MPI option."""
    if "OMPI_COMM_WORLD_SIZE" in variables and VENDOR != "MPICH":
        pytest.skip("mpi4py's library is Open MPI itself")
    _, err = run(*command, "--out", "r", cwd=folder, code=1, env={**PLAIN, **variables})
    assert "do not match, so each process would work alone" in err
    assert len(err.splitlines()) == 1
    assert not (folder / "r").exists()
    run(*command, "--out", "r", "--no-mpi", "--quiet", cwd=folder, env={**PLAIN, **variables})
    assert (folder / "r").exists()


@pytest.mark.parametrize("threads", [None, "3"])
def test_processes_share_the_cores_unless_the_environment_sets_threads(folder, threads):
    environment = {key: value for key, value in PLAIN.items() if key not in THREADS}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    process = launch("-n", 2, *TRAIN, "--out", "r", "--set", "training.epochs=1", cwd=folder, environment=environment)
    assert process.returncode == 0, process.stderr
    record = json.loads(specnet.load(folder / "r/last.h5").run_state["machine"])
    assert record["threads"] == int(threads or max(cores() // 2, 1))


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "64", "MPI_LOCALNRANKS": "1"}, cores()),
        ({"PMI_RANK": "5", "PMI_SIZE": "64", "MPI_LOCALNRANKS": str(cores() * 2)}, 1),
        ({"SLURM_STEP_NUM_TASKS": "9", "SLURM_STEP_TASKS_PER_NODE": "1(x4),5"}, cores()),
        ({"SLURM_STEP_NUM_TASKS": "9", "SLURM_STEP_TASKS_PER_NODE": "9", "SLURM_CPUS_PER_TASK": "77"}, cores()),
        ({"SLURM_STEP_NUM_TASKS": "999", "SLURM_STEP_TASKS_PER_NODE": "999", "SLURM_CPUS_PER_TASK": "1"}, 1),
        ({"PMI_SIZE": "999", "MPI_LOCALNRANKS": "999", "SLURM_CPUS_PER_TASK": "2"}, 1),
        ({"PMI_SIZE": "999", "OPENBLAS_NUM_THREADS": "", "MPI_LOCALNRANKS": "999"}, 1),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "not a number"}, cores()),
    ],
)
def test_the_launchers_variables_determine_the_threads(variables, threads):
    code = "import os; from specnet.mpi.launcher import *; share_cores(); print(os.environ.get('OMP_NUM_THREADS'))"
    environment = {key: value for key, value in PLAIN.items() if key not in THREADS}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **variables}
    )
    assert process.stdout.strip() == str(threads)


def test_mpi_is_imported_only_under_a_launcher_or_with_mpi_option(folder):
    code = "import sys; from specnet.cli.app import run; sys.argv = ['specnet', *sys.argv[1:]]\n"
    code += "try:\n    run()\nfinally:\n    print('mpi4py' in sys.modules)"
    for options, expected in (((), "False"), (("--mpi",), "True")):
        process = subprocess.run(
            [sys.executable, "-c", code, "train", "e.json", "--out", f"r{expected}", "--quiet", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env={**PLAIN, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout.splitlines()[-1] == expected
