"""Test the commands around a run as child processes: init, dry run, train, signals and predict."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from tests.test_cli import run


@pytest.fixture
def table(tmp_path):
    """Return a folder with a table whose two number columns determine one of three classes."""
    pytest.importorskip("polars", reason="polars is not installed")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.uniform(10, 90, 200)
    kind = np.array(["low", "mid", "high"])[np.digitize(a + 0.02 * b, [0.6, 1.4])]
    lines = [f"{x:.4f},{y:.2f},{k}" for x, y, k in zip(a, b, kind, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,kind", *lines]) + "\n")
    return tmp_path


def test_init_train_and_predict_with_a_table(table):
    out, err = run("init", "--data", "rows.csv", "--target", "kind", cwd=table)
    assert out == "rows.model.json\nrows.experiment.json\n"
    assert "200 rows of 2 inputs; the target is 3 classes" in err
    assert "specnet train rows.experiment.json" in err
    _, err = run("init", "--data", "rows.csv", "--target", "kind", cwd=table, code=1)
    assert "already present" in err
    out, _ = run("init", "--data", "rows.csv", "--target", "kind", "--inputs", "a,b", "--force", "--json", cwd=table)
    assert json.loads(out)["model"] == "rows.model.json"
    run("validate", "rows.model.json", "rows.experiment.json", cwd=table)
    run("train", "rows.experiment.json", "-q", cwd=table)
    (table / "new.csv").write_text("b,other,a\n50,x,1.5\n50,y,-2\n5000,z,0\n")
    out, err = run("predict", "runs/rows/best.h5", "--data", "new.csv", cwd=table)
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["row", "high", "low", "mid", "class"]
    assert [row[-1] for row in rows[1:3]] == ["high", "low"]
    assert err.startswith("new.csv: 1 of 3 rows have inputs far outside the range of the training rows: row 3, b is ")
    (table / "new.csv").write_text("b,a\n50,\n")
    _, err = run("predict", "runs/rows/best.h5", "--data", "new.csv", cwd=table, code=1)
    assert 'row 1, column "a": a value is missing' in err
    (table / "new.csv").write_text("b\n50\n")
    _, err = run("predict", "runs/rows/best.h5", "--data", "new.csv", cwd=table, code=1)
    assert 'there is no column "a"' in err


def test_a_dry_run_reports_sizes_and_writes_nothing(digits):
    before = sorted(digits.iterdir())
    out, err = run("train", "digits.experiment.json", "--dry-run", "--set", 'training.freeze=["wide.*"]', cwd=digits)
    assert err == ""
    assert "1,438 rows to train on, 359 to validate on" in out
    assert "45 steps per epoch, 20 epochs: 900 steps" in out
    assert "50,826 parameters, of which 34,186 are trained; the loss of the first batch is " in out
    assert "MiB of memory" in out
    out, _ = run("train", "digits.experiment.json", "-n", "--json", cwd=digits)
    result = json.loads(out)
    assert result["memory"]["parameters"] == 50826 * 4 * 4  # values, gradients, two moments
    assert sorted(digits.iterdir()) == before
    _, err = run("train", "digits.experiment.json", "-n", "--set", "data.train.path=none.npz", cwd=digits, code=1)
    assert "none.npz: there is no such file" in err


def test_train_prints_events_as_json_lines(digits):
    out, err = run("train", "digits.experiment.json", "--set", "training.epochs=2", "--json-lines", cwd=digits)
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [event["event"] for event in events] == ["start", "epoch", "epoch", "end", "result"]
    assert events[0] == {"event": "start", "epoch": 0, "step": 0, "epochs": 2, "steps_per_epoch": 45, "rows": 1438}
    assert {"loss", "val_accuracy", "gradient_norm.wide"} <= events[1].keys()
    assert events[-1]["checkpoint"] == "runs/digits/last.h5"
    out, err = run("train", "digits.experiment.json", "--json-lines", cwd=digits, code=1)
    assert json.loads(out) == {"event": "error", "message": err.strip()}


def test_a_diverging_run_ends_with_an_error_in_one_line(digits):
    settings = ["--set", 'training.optimizer={"type": "sgd", "learning_rate": 1e30}', "--set", "training.seed=1"]
    _, err = run("train", "digits.experiment.json", *settings, "-q", "--check-finite", cwd=digits, code=1)
    assert len(err.splitlines()) == 1
    assert "in epoch 1: " in err
    assert "layer" in err or "parameter" in err or "gradient of" in err


def test_the_arrays_initialized_from_a_checkpoint_are_reported(digits):
    run("train", "digits.experiment.json", "--set", "training.epochs=1", "-q", "--out", "first", cwd=digits)
    settings = ["--set", "training.epochs=1", "--set", "training.initialize_from=first/best.h5"]
    _, err = run("train", "digits.experiment.json", *settings, "-q", "--out", "second", cwd=digits)
    assert err.startswith("initialized from a checkpoint: wide.weight, wide.bias, narrow.weight")


def test_early_stopping_is_reported(digits):
    settings = ["--set", 'training.early_stopping={"patience": 1}', "--set", "training.optimizer.learning_rate=0.02"]
    out, _ = run("train", "digits.experiment.json", *settings, "-q", cwd=digits)
    assert "no further improvement" in out
    _, err = run("train", "digits.experiment.json", *settings, "-q", "--resume", cwd=digits)
    assert "finished already" in err


def test_a_second_signal_ends_the_process_at_once(digits):
    document = json.loads((digits / "digits.experiment.json").read_text())
    document["training"] |= {"epochs": 10**6, "checkpoint": {"every_epochs": 1}}
    (digits / "digits.experiment.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "specnet", "train", "digits.experiment.json"]
    with subprocess.Popen(command, cwd=digits, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(2):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode in (130, 143)
    assert specnet.load(digits / "runs/digits/last.h5").run_state["epoch"] >= 1
    assert not list((digits / "runs/digits").glob(".specnet-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_before_its_first_checkpoint_can_be_resumed(digits, number):
    document = json.loads((digits / "digits.experiment.json").read_text())
    document["training"] |= {"epochs": 10**6, "checkpoint": {"every_epochs": 10**5, "keep_best": None}}
    (digits / "digits.experiment.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "specnet", "train", "digits.experiment.json"]
    with subprocess.Popen(command, cwd=digits, stderr=subprocess.PIPE, text=True) as process:
        process.stderr.readline()
        assert not (digits / "runs/digits/last.h5").exists()
        process.send_signal(number)
        time.sleep(0)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "specnet train digits.experiment.json --resume" in err
    assert specnet.load(digits / "runs/digits/last.h5").run_state["epoch"] >= 1


@pytest.mark.full
def test_large_files_are_predicted_in_parts(tmp_path):
    """Check that every format of rows and predictions yields the same numbers, with bounded memory."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2500, 3)).astype("f4")
    names = np.array(["äpfel", "birnen"])[(x[:, 0] > 0).astype(int)]
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["images"] = x
        file.create_dataset("kind", data=names.astype(object), dtype=h5py.string_dtype())
    experiment = {
        "model": {"input_shape": [3], "layers": [{"type": "affine", "units": 2}]},
        "data": {"train": {"path": "rows.h5", "inputs": "images", "targets": "kind"}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 2},
    }
    (tmp_path / "e.json").write_text(json.dumps(experiment))
    run("train", "e.json", "--out", "r", "--quiet", cwd=tmp_path)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "columns.npy", np.asfortranarray(x))
    model = specnet.load(tmp_path / "r/last.h5")
    y = model.predict(x, batch_size=1024)
    e = np.exp(y - y.max(axis=1, keepdims=True))
    for data in ("rows.h5", "x.npy", "columns.npy"):
        for out in ("p.npy", "p.h5"):
            run("predict", "r/last.h5", "--data", data, "--out", out, cwd=tmp_path)
        assert np.array_equal(np.load(tmp_path / "p.npy"), e / e.sum(axis=1, keepdims=True))
        with h5py.File(tmp_path / "p.h5") as file:
            assert np.array_equal(file["outputs"], e / e.sum(axis=1, keepdims=True))
            assert [name.decode() for name in file["class"][:9]] == [model.spec.labels[i] for i in y[:9].argmax(axis=1)]
    run("predict", "r/last.h5", "--data", "x.npy", "--out", "logits.npy", "--logits", cwd=tmp_path)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), y)
    if not Path("/proc/self/status").exists():
        return  # the child process reads its peak memory there
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", "f4", (12_000_000, 3))
    del large  # 144 MB of zeros, sparse
    code = "import sys; from specnet.cli.app import app; sys.argv[0] = 'specnet'\n"
    code += "try:\n    app()\nfinally:\n    print(*[line for line in open('/proc/self/status') if 'VmHWM' in line])"
    command = [sys.executable, "-c", code, "predict", "r/last.h5", "--data", "large.npy", "--out", "large-out.npy"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(process.stdout.split()[-2]) < 250_000  # kB
    assert np.load(tmp_path / "large-out.npy", mmap_mode="r").shape == (12_000_000, 2)


def test_wide_rows_are_predicted_in_small_batches(tmp_path):
    """Check that .npy and .npz yield the same bits; a batch of 1,000 rows of 1,000,000 numbers would take 4 GB."""
    width = 2**20
    model = specnet.build(specnet.ModelSpec(input_shape=(width,), layers=[{"type": "affine", "units": 3}]))
    specnet.save(tmp_path / "wide.h5", model)
    x = np.random.default_rng(0).normal(size=(20, width)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for data in ("x.npy", "x.npz"):
        run("predict", "wide.h5", "--data", data, "--out", f"{data}.npy", cwd=tmp_path)
        assert np.array_equal(np.load(tmp_path / f"{data}.npy"), model.predict(x, batch_size=16))
