"""One run shared by many processes, with real launchers, real kills and real files."""

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
    pytest.skip("there is no mpiexec", allow_module_level=True)
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
    """Run mpiexec; give the finished process."""
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
    """Run a command in so many processes; give its standard output and error."""
    made = launch("-n", count, *command, cwd=cwd, timeout=timeout)
    assert made.returncode == code, made.stderr
    assert "Traceback" not in made.stderr
    return made.stdout, made.stderr


def said(err):
    """Give the lines of standard error without those of Open MPI's launcher, which stand between rules."""
    return re.sub(r"-{60,}\n.*?-{60,}\n?", "", err, flags=re.DOTALL).strip().splitlines()


def document(**training):
    """An experiment with everything that looks at a whole batch."""
    return {
        "model": {
            "dtype": "float64",
            "input_shape": [6],
            "layers": [
                {"type": "standardize"},
                {"type": "affine", "units": 8, "bias": False},  # before a norm, its gradient is nothing but rounding
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
    np.savez(tmp_path / "rows.npz", x=x, y=y, w=weights, z=x[:, :3] + 100)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "e.json").write_text(json.dumps(document()))
    return tmp_path


def variants():
    """Experiments, by name, that one process and several have to train alike."""
    optimizers = ("sgd", {"type": "sgd", "momentum": 0.9}, "adam", "adamw", "rmsprop", "adagrad", "lion")
    found = {f"{index} {optimizer}": document(optimizer=optimizer) for index, optimizer in enumerate(optimizers)}
    found["accumulated"] = document(batch_size=7, accumulate=3)
    found["tiny batches"] = document(batch_size=2)
    found["in order, a schedule"] = document(shuffle=False, schedule="cosine")
    found["class weights"] = document(loss={"type": "softmax_cross_entropy", "class_weights": [1, 2, 5]})
    found["frozen"] = document(freeze=["affine_1.*"])
    found["row weights"] = document()
    found["row weights"]["data"]["train"]["weights"] = "w"
    found["regression"] = document(loss="mean_squared_error", metrics=["r2", "mae"])
    found["regression"]["data"]["train"]["targets"] = "z"
    found["stopped early"] = document(epochs=40, early_stopping={"patience": 2})
    found["in parts"] = document()
    found["in parts"]["data"] = {
        "train": {"inputs": "x.npy", "targets": "y.npy", "in_memory": False},
        "validation": {"inputs": "x.npy", "targets": "y.npy"},
    }
    return found


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


def test_any_number_of_processes_trains_what_one_does(folder):
    (folder / "variants.json").write_text(json.dumps(variants()))
    (folder / "parity.py").write_text(PARITY)
    for count in (1, 2, 3):
        mpi(count, sys.executable, "parity.py", cwd=folder, timeout=300)
    for number, name in enumerate(variants()):
        alone = np.load(folder / f"result-1-{number}.npz")
        for count in (2, 3):
            shared = np.load(folder / f"result-{count}-{number}.npz")
            assert shared.files == alone.files
            for key in (key for key in alone.files if "gradient_zeros" not in key):  # 0 or a rounding before a norm
                difference = np.abs(shared[key] - alone[key]).max()
                assert difference <= 1e-9 * max(1, np.abs(alone[key]).max()), (name, key)


def test_more_processes_than_rows_of_a_batch(folder):
    settings = ("--set", "training.batch_size=2", "--set", "training.epochs=1", "--quiet")
    mpi(5, *TRAIN, "--out", "five", *settings, cwd=folder)
    run("train", "e.json", "--out", "one", *settings, cwd=folder)
    five, one = specnet.load(folder / "five/last.h5"), specnet.load(folder / "one/last.h5")
    for name, value in one.parameters.items():
        assert np.abs(five.parameters[name] - value).max() < 1e-7


def test_the_same_number_makes_the_same_bytes_and_the_first_process_speaks(folder):
    for name in ("a", "b"):
        out, err = mpi(3, *TRAIN, "--out", name, cwd=folder)
        assert err.count("epoch 1/3") == 1
        assert out.count("holds the model after the last epoch") == 1
    for file in ("last.h5", "best.h5", "history.csv"):
        assert (folder / "a" / file).read_bytes() == (folder / "b" / file).read_bytes()
    assert run("replay", "a/best.h5", "a/last.h5", cwd=folder)[1].count("processes was 3, is 1") == 1


def test_a_run_goes_on_with_another_number_of_processes(folder):
    every = ("--set", "training.checkpoint.every_steps=1", "--quiet")
    mpi(1, *TRAIN, "--out", "whole", *every, cwd=folder)
    code = (
        "import specnet\nfrom specnet.mpi import launched_world\nworld = launched_world()\n"
        "def stop(event):\n    run = event.run\n"
        "    if event.kind == 'step' and run.world.rank == 1 and run.step == 5:\n        run.stop()\n"
        "every = {'training.checkpoint.every_steps': '1'}\n"
        "specnet.train('e.json', out='part', overrides=every, listeners=[stop], world=world)\n"
    )
    (folder / "part.py").write_text(code)
    mpi(2, sys.executable, "part.py", cwd=folder)
    assert specnet.load(folder / "part/last.h5").run_state["batch"] == 2  # in the midst of an epoch
    _, err = mpi(3, *TRAIN, "--out", "part", "--resume", *every, cwd=folder)
    assert err.count("2 processes shared the run, now 3: the last bits may differ") == 1
    whole, part = specnet.load(folder / "whole/last.h5"), specnet.load(folder / "part/last.h5")
    for name, value in whole.parameters.items():
        assert np.abs(part.parameters[name] - value).max() < 1e-9
    assert np.allclose(whole.run_state["history/loss"], part.run_state["history/loss"], rtol=1e-12, atol=0)
    assert np.array_equal(whole.run_state["history/val_accuracy"], part.run_state["history/val_accuracy"])
    _, err = run("train", "e.json", "--out", "part", "--resume", "--set", "training.epochs=4", *every[:2], cwd=folder)
    assert "3 processes shared the run, now 1" in err


def test_a_listener_of_one_process_stops_all(folder):
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
    assert out.replace("\n", "") == "FalseFalse"  # the launcher may join their lines
    specnet.load(folder / "limited/last.h5")


def different(folder, change):
    """Let the second process see other files under the same names."""
    (folder / "other").mkdir()
    for name in ("rows.npz", "e.json"):
        shutil.copy(folder / name, folder / "other" / name)
    change(folder / "other")
    command = (*TRAIN, "--out", "run")
    made = launch("-n", 1, *command, ":", "-n", 1, "-wdir", folder / "other", *command, cwd=folder, timeout=60)
    assert made.returncode == 1
    assert "Traceback" not in made.stderr
    assert not (folder / "run").exists()
    return made.stderr


def other_rows(folder):
    arrays = dict(np.load(folder / "rows.npz"))
    arrays["x"][0, 0] += 1
    np.savez(folder / "rows.npz", **arrays)


def other_document(folder):
    (folder / "e.json").write_text(json.dumps(document(optimizer="sgd")))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_rows, "process 1 of 2: the data is not that of process 0"),
        (other_document, "process 1 of 2: the document is not that of process 0"),
        (lambda folder: (folder / "rows.npz").unlink(), "process 1 of 2: rows.npz: "),
        (lambda folder: (folder / "e.json").write_text("{"), "process 1 of 2: e.json:1:2"),
    ],
)
def test_what_differs_between_processes_is_told_before_the_first_step(folder, change, told):
    err = different(folder, change)
    assert err.count(told) == 1
    assert len(said(err)) == 1


def test_a_fault_that_all_see_is_told_once(folder):
    for arguments, told in (
        (("--set", "training.optimizer=addam"), 'unknown optimizer "addam"'),
        (("--check-finite",), "check_finite looks at one process's arrays"),
    ):
        _, err = mpi(3, *TRAIN, "--out", "r", *arguments, cwd=folder, code=1)
        assert err.count(told) == 1
        assert len(said(err)) == 1
    assert not (folder / "r").exists()


def test_a_loss_that_is_not_finite_names_process_and_rows(folder):
    arrays = dict(np.load(folder / "rows.npz"))
    x = np.ones((64, 6))
    x[45] = 1e200  # in the third step, in the last third of its batch
    np.savez(folder / "rows.npz", x=x, y=arrays["y"][:64])
    doc = document(shuffle=False, optimizer="sgd")
    doc["model"]["layers"] = [{"type": "affine", "units": 4}, {"type": "mish"}, {"type": "affine", "units": 3}]
    doc["data"]["validation"] = None
    del doc["data"]["validation"]
    doc["training"] |= {"loss": "mean_squared_error", "metrics": ["mse"]}
    doc["data"]["train"]["targets"] = "t"
    np.savez(folder / "rows.npz", x=x, t=np.ones((64, 3)))
    (folder / "e.json").write_text(json.dumps(doc))
    _, err = mpi(3, *TRAIN, "--out", "r", "--quiet", cwd=folder, code=1)
    assert len(said(err)) == 1
    assert "at step 3, in epoch 1" in err
    assert "in process 2 of 3, rows 10 to 15 of the step's 16" in err


def begin(folder, count, *command, until):
    """Start a command in so many processes, and wait for a file of it; give the launcher."""
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


def begin_long(folder, count):
    """Start a run that takes for ever, and wait for its first checkpoint; give the launcher and its processes."""
    more = ("--out", "long", "--set", "training.epochs=1000000", "--quiet")
    process = begin(folder, count, *TRAIN, *more, until="long/last.h5")
    workers = [pid for pid in descendants(process.pid) if "specnet" in command_of(pid)]
    assert len(workers) == count
    return process, workers


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def wait_until_gone(pids):
    limit = time.monotonic() + 5
    while any("specnet" in command_of(pid) for pid in pids):
        assert time.monotonic() < limit, "an orphan"
        time.sleep(0.05)


def descendants(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("kill", None),
        ("term", "stopped after a whole step; long/last.h5 is written"),
        ("ctrl-c", "stopped after a whole step; long/last.h5 is written"),
    ],
)
def test_one_that_ends_ends_all(folder, how, told):
    process, workers = begin_long(folder, 3)
    steps = specnet.load(folder / "long/last.h5").run_state["step"]
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(workers[1], signal.SIGKILL if how == "kill" else signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert (
        process.returncode
        in {"kill": range(1, 256), "term": (143,), "ctrl-c": (130,) if VENDOR == "MPICH" else (1,)}[how]
    )
    wait_until_gone(workers)
    if told is not None:
        assert err.count(told) == 1
    assert how == "kill" or specnet.load(folder / "long/last.h5").run_state["step"] > steps
    mpi(2, *TRAIN, "--out", "long", "--resume", "--quiet", "--set", "training.epochs=1", cwd=folder)


FAILING = """
from specnet.cli.processes import joined
from specnet.errors import SpecnetError
with joined(None) as (world, _):
    if world.rank == 1:
        raise {error}
    world.gather(None)  # for ever
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [("SpecnetError('the disk is gone')", "process 1 of 3: the disk is gone"), ("KeyError('bug')", "KeyError: 'bug'")],
)
def test_one_that_fails_alone_ends_all_with_one_message(folder, error, told):
    (folder / "failing.py").write_text(FAILING.format(error=error))
    made = launch("-n", "3", sys.executable, "failing.py", cwd=folder, timeout=10)
    assert made.returncode == 1
    assert made.stderr.count(told) == 1


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("told", ["launcher", "process"])
def test_a_signal_ends_also_a_run_that_waits_for_a_process_for_ever(folder, told):
    process, workers = begin_long(folder, 2)
    os.kill(workers[1], signal.SIGSTOP)  # as on a machine that hangs
    time.sleep(0.5)
    if told == "launcher":
        process.terminate()
    else:
        os.kill(workers[0], signal.SIGTERM)
    _, err = process.communicate(timeout=12)
    assert process.returncode != 0
    if VENDOR == "MPICH" or told == "process":  # Open MPI's launcher leaves them a second
        assert said(err)[0] == "process 0 of 2: stopped; what was written is whole, and --resume goes on from it"
    wait_until_gone(workers)
    specnet.load(folder / "long/last.h5")


def test_a_checkpoint_that_cannot_be_written_ends_all(folder):
    """Only the first process writes; the others would wait for it for ever."""
    (folder / "r/last.h5").mkdir(parents=True)
    made = launch("-n", "2", *TRAIN, "--out", "r", "--force", "--quiet", cwd=folder, timeout=20)
    assert made.returncode == 1
    assert made.stderr.count("process 0 of 2: r: cannot be written to") == 1


def test_predictions_are_the_same_bytes_for_any_number(folder):
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
    assert err.count("under MPI, predict reads a .npy or .h5 file and writes one") == 1
    x[2999, 0] = np.nan
    np.save(folder / "bad.npy", x)
    arguments = ("predict", "r/best.h5", "--data", "bad.npy", "--out", "bad-out.npy")
    _, err = mpi(3, sys.executable, "-m", "specnet", *arguments, cwd=folder, code=1)
    assert "process 2 of 3: bad.npy: inputs" in err
    assert "row 3000" in err
    assert not (folder / "bad-out.npy").exists()
    assert not list(folder.glob(".specnet-*"))


def test_a_sweep_is_shared(folder):
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


def test_a_shared_sweep_is_ended_by_a_signal(folder):
    rates = ("--set", "training.optimizer.learning_rate=0.1,0.01,0.001", "--set", "training.epochs=1000000")
    seldom = ("--set", "training.checkpoint.every_epochs=1000000")
    command = (sys.executable, "-m", "specnet", "sweep", "e.json", *rates, *seldom, "--out", "s")
    process = begin(folder, 2, *command, until="s/learning_rate=0.1/experiment.json")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (130 if VENDOR == "MPICH" else 1)
    assert err.count("stopped; the same command goes on with what is missing") == 1
    assert specnet.load(folder / "s/learning_rate=0.1/last.h5").run_state["step"] > 0
    assert (folder / "s/sweep.csv").exists()
    assert not (folder / "s/learning_rate=0.01").exists()


def test_usage_is_told_and_dry_runs_once(folder):
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
    "told", [{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "2"}]
)
@pytest.mark.parametrize("command", [("train", "e.json"), ("sweep", "e.json", "--set", "training.epochs=1,2")])
def test_processes_that_do_not_know_each_other_do_not_write_into_one_folder(folder, command, told):
    """As with Open MPI's mpirun before mpi4py with MPICH, or with Slurm's srun where it was not told of MPI."""
    if "OMPI_COMM_WORLD_SIZE" in told and VENDOR != "MPICH":
        pytest.skip("mpi4py's library is Open MPI itself")
    _, err = run(*command, "--out", "r", cwd=folder, code=1, env={**PLAIN, **told})
    assert "do not know each other, so each process would work alone" in err
    assert len(err.splitlines()) == 1
    assert not (folder / "r").exists()
    run(*command, "--out", "r", "--no-mpi", "--quiet", cwd=folder, env={**PLAIN, **told})
    assert (folder / "r").exists()


@pytest.mark.parametrize("given", [None, "3"])
def test_processes_share_the_cores_unless_told_otherwise(folder, given):
    environment = {key: value for key, value in PLAIN.items() if key not in THREADS}
    if given:
        environment["OMP_NUM_THREADS"] = given
    made = launch("-n", 2, *TRAIN, "--out", "r", "--set", "training.epochs=1", cwd=folder, environment=environment)
    assert made.returncode == 0, made.stderr
    record = json.loads(specnet.load(folder / "r/last.h5").run_state["machine"])
    assert record["threads"] == int(given or max(cores() // 2, 1))


@pytest.mark.parametrize(
    ("told", "threads"),
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
def test_what_launchers_say_of_a_machine(told, threads):
    code = "import os; from specnet.mpi.launcher import *; share_cores(); print(os.environ.get('OMP_NUM_THREADS'))"
    environment = {key: value for key, value in PLAIN.items() if key not in THREADS}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **told}
    )
    assert made.stdout.strip() == str(threads)


def test_mpi_is_imported_under_a_launcher_or_when_asked(folder):
    code = "import sys; from specnet.cli.app import run; sys.argv = ['specnet', *sys.argv[1:]]\n"
    code += "try:\n    run()\nfinally:\n    print('mpi4py' in sys.modules)"
    for more, expected in (((), "False"), (("--mpi",), "True")):
        made = subprocess.run(
            [sys.executable, "-c", code, "train", "e.json", "--out", f"r{expected}", "--quiet", *more],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env={**PLAIN, "PYTHONPATH": str(ROOT)},
        )
        assert made.stdout.splitlines()[-1] == expected
