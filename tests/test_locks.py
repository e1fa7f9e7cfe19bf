"""Test two runs in one folder, signals that end a run or save it, and the permissions of files that are replaced."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import specnet
from specnet import SpecnetError
from specnet.files.atomic import replacement
from specnet.files.lock import LOCK, folder_lock
from tests.commands import run_specnet
from tests.support import one_by_default, write_experiment

fcntl = pytest.importorskip("fcntl", reason="needs advisory locks")

LONG_RUN = {
    "format": "specnet-experiment/1",
    "name": "e",
    "model": {"input_shape": [4], "layers": [{"type": "affine", "units": 2}]},
    "data": {"train": {"path": "d.npz"}},
    "training": {
        "loss": "softmax_cross_entropy",
        "epochs": 1_000_000,
        "batch_size": 1,
        "checkpoint": {"every_epochs": 1_000_000},
    },
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiment(LONG_RUN, 500)


@pytest.fixture
def start():
    """Return a function that starts a command in the background, and end what is left of them."""
    started = []

    def begin(*arguments, ready, prefix=(), **options):
        command = [*prefix, sys.executable, "-m", "specnet", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        started.append(process)
        wait_for(ready, process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, process=None, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def is_training(folder="r"):
    return (Path(folder) / "experiment.json").exists


@pytest.mark.parametrize("options", one_by_default([("--resume",), ("--force",), ()]))
def test_a_second_run_in_a_folder_is_refused_with_the_first_one_named(start, options):
    first = start("train", "e.json", "--out", "r", ready=is_training())
    before = sorted(path.name for path in Path("r").iterdir())
    code, _, errors = run_specnet("train", "e.json", "--out", "r", "--set", "training.seed=5", *options)
    assert code == 1
    assert f"r: a run (process {first.pid} on " in errors
    assert sorted(path.name for path in Path("r").iterdir()) == before
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 128 + signal.SIGTERM
    assert not (Path("r") / LOCK).exists()
    assert '"seed": 0' in Path("r/experiment.json").read_text()


def test_the_lock_of_a_killed_run_is_free(start):
    first = start("train", "e.json", "--out", "r", ready=is_training())
    first.kill()
    first.communicate()
    assert (Path("r") / LOCK).exists()
    code, _, errors = run_specnet("train", "e.json", "--out", "r", "--force", "--set", "training.epochs=1")
    assert code == 0, errors
    assert not (Path("r") / LOCK).exists()


def test_a_second_sweep_in_a_folder_is_refused(start):
    runs = ["sweep", "e.json", "--set", "training.seed=1,2", "--jobs", "1", "--out", "s"]
    first = start(*runs, ready=is_training("s/seed=1"))
    code, _, errors = run_specnet(*runs)
    assert code == 1
    assert "s: a sweep (process " in errors
    code, _, errors = run_specnet("train", "e.json", "--out", "s/seed=1", "--resume")
    assert code == 1
    assert "a run (process" in errors
    first.send_signal(signal.SIGTERM)
    first.communicate()


def test_two_calls_in_one_process_exclude_each_other(tmp_path):
    with folder_lock(tmp_path / "r", "a run"), pytest.raises(SpecnetError, match=f"process {os.getpid()} on"):
        folder_lock(tmp_path / "r", "a run").__enter__()
    assert not (tmp_path / "r").exists()


def test_only_one_of_many_holds_a_lock(tmp_path):
    """Take and leave the lock in many threads at once: never two at a time, and nothing is left."""
    (tmp_path / "r").mkdir()
    holding, most, failures = [], [], []

    def take():
        for _ in range(200):
            try:
                with folder_lock(tmp_path / "r", "a run"):
                    holding.append(1)
                    most.append(len(holding))
                    holding.pop()
            except SpecnetError:
                failures.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(failures) == 1600
    assert list((tmp_path / "r").iterdir()) == []


def test_a_refused_run_leaves_no_folder():
    document = {**LONG_RUN, "data": {"train": {"path": "none.npz"}}}
    with pytest.raises(SpecnetError, match=r"none\.npz"):
        specnet.train(document, out="a/b/c")
    assert not Path("a").exists()
    Path("a").mkdir()
    with pytest.raises(SpecnetError, match=r"none\.npz"):
        specnet.train(document, out="a/b")
    assert list(Path("a").iterdir()) == []


def test_a_run_whose_folder_was_moved_stops_and_leaves_the_new_one_alone(start):
    first = start("train", "e.json", "--out", "r", "--checkpoint-signal", "USR1", ready=is_training())
    Path("r").rename("moved")
    with folder_lock(Path("r"), "another run"):
        first.send_signal(signal.SIGUSR1)  # the first checkpoint after the move
        _, errors = first.communicate(timeout=30)
        assert first.returncode == 1
        assert "r: was moved or replaced while a run was writing into it" in errors
        assert [path.name for path in Path("r").iterdir()] == [LOCK]
    assert Path("moved/experiment.json").exists()


@pytest.mark.parametrize("odd", ["folder", "link", "hard link"])
def test_an_odd_lock_is_named(tmp_path, odd):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "r").mkdir()
    lock = tmp_path / "r" / LOCK
    if odd == "folder":
        lock.mkdir()
    elif odd == "link":
        lock.symlink_to(tmp_path / "precious")
    else:
        lock.hardlink_to(tmp_path / "precious")
    with pytest.raises(SpecnetError, match=r"\.specnet\.lock: cannot be locked: .*; remove it"):
        folder_lock(tmp_path / "r", "a run").__enter__()
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to act as two users")
def test_the_lock_that_another_user_left_behind_can_be_taken(tmp_path):
    for folder in (*tmp_path.parents, tmp_path):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / LOCK).write_text("a run (process 1)")
    (shared / LOCK).chmod(0o644)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with folder_lock(shared, "a run"):
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_run_writes_no_file_through_a_link():
    document = {**LONG_RUN, "training": {**LONG_RUN["training"], "epochs": 1}}
    Path("victim.json").write_text("text")
    specnet.train(document, out="r")
    for name in ("last.h5", "history.csv", "experiment.json"):
        Path(f"r/{name}").rename(f"real-{name}")
        Path(f"r/{name}").symlink_to(f"../real-{name}")
    before = {name: Path(f"real-{name}").read_bytes() for name in ("last.h5", "history.csv", "experiment.json")}
    document["training"]["epochs"] = 2
    specnet.train(document, out="r", resume=True)
    assert {name: Path(f"real-{name}").read_bytes() for name in before} == before
    assert not any(path.is_symlink() for path in Path("r").iterdir())
    document["training"]["epochs"] = 1
    for number, (name, target) in enumerate([("experiment.json", "../victim.json"), ("last.h5", "../new.h5")]):
        Path(f"k{number}").mkdir()
        (Path(f"k{number}") / name).symlink_to(target)
        with pytest.raises(SpecnetError, match="holds a run already"):
            specnet.train(document, out=f"k{number}")
        specnet.train(document, out=f"k{number}", force=True)
        assert not (Path(f"k{number}") / name).is_symlink()
    assert Path("victim.json").read_text() == "text"
    assert not Path("new.h5").exists()


def test_a_run_does_not_replace_what_it_starts_from():
    document = {**LONG_RUN, "training": {**LONG_RUN["training"], "epochs": 1}}
    specnet.train(document, out="r")
    before = Path("r/last.h5").read_bytes()
    document["training"]["initialize_from"] = "r/last.h5"
    Path("r/step-10.h5").write_bytes(before)
    for name in ("last.h5", "step-10.h5"):
        document["training"]["initialize_from"] = f"r/{name}"
        with pytest.raises(SpecnetError, match=rf"r/{name}: the run would write over it"):
            specnet.train(document, out="r", force=True)
        assert Path(f"r/{name}").read_bytes() == before


def test_a_sweep_does_not_replace_its_data():
    pytest.importorskip("polars")
    Path("s").mkdir()
    Path("s/sweep.csv").write_text("a,b,c,d,y\n" + "1,2,3,4,0\n2,3,4,5,1\n" * 9)
    document = {**LONG_RUN, "data": {"train": {"path": "s/sweep.csv"}}}
    Path("e.json").write_text(json.dumps(document))
    code, _, errors = run_specnet("sweep", "e.json", "--set", "training.epochs=1", "--out", "s", "--jobs", "1")
    assert code == 1
    assert "sweep.csv: the sweep would write over it" in errors
    assert Path("s/sweep.csv").read_text().startswith("a,b,c,d,y")


def test_a_second_signal_ends_the_process_at_once(start):
    run = start("train", "e.json", "--out", "r", ready=is_training())
    for _ in range(3):
        run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == 130


@pytest.mark.parametrize("number", one_by_default([signal.SIGHUP, signal.SIGTERM, signal.SIGINT]))
def test_a_run_ends_with_a_checkpoint_on_a_signal(start, number):
    run = start("train", "e.json", "--out", "r", ready=is_training())
    run.send_signal(number)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert "stopped after a complete step" in errors
    assert specnet.load("r/last.h5").run_state["experiment"]


def test_a_run_under_nohup_survives_the_end_of_its_terminal(start):
    run = start("train", "e.json", "--out", "r", ready=is_training(), prefix=["nohup"])
    run.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.poll() is None


def test_a_signal_of_the_users_choice_saves_and_goes_on(start):
    run = start("train", "e.json", "--out", "r", "--checkpoint-signal", "usr1", ready=is_training())
    steps = []
    for _ in range(2):
        steps.append(0)
        written = Path("r/last.h5").stat().st_ino if Path("r/last.h5").exists() else None
        run.send_signal(signal.SIGUSR1)
        wait_for(lambda was=written: Path("r/last.h5").exists() and Path("r/last.h5").stat().st_ino != was, run)
        steps[-1] = specnet.load("r/last.h5").run_state["step"]
    assert 0 < steps[0] < steps[1]
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=30)
    assert specnet.load("r/last.h5").run_state["step"] > steps[1]


@pytest.mark.parametrize("name", ["TERM", "INT", "KILL", "STOP", "NONE", "", "HUP"])
def test_signals_that_are_not_free_are_rejected(name):
    code, _, errors = run_specnet("train", "e.json", "--out", "r", "--checkpoint-signal", name)
    assert code == 2
    assert "expected the name of a signal that is free" in errors


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_nobody_else_can_open_what_replaces_a_file(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(mode)
    with replacement(path) as (temporary, descriptor):
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        os.write(descriptor, b"new")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


def test_a_new_file_follows_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        with replacement(tmp_path / "new") as (_, descriptor):
            os.write(descriptor, b"new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
