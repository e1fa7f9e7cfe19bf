"""Test sweeps: one run per combination, ranking, validation before the first run, and resuming."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import specnet
from specnet.data.spec import DataEntry
from specnet.errors import SpecError
from specnet.training.sweep import run_sweep, runs_of
from specnet.training.sweep_plan import plan_sweep
from tests.test_cli import run


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    np.savez(tmp_path / "rows.npz", x=x, y=(x[:, 0] > 0).astype(int))
    model = {
        "input_shape": [4],
        "layers": [{"type": "affine", "units": 5}, {"type": "relu"}, {"type": "affine", "units": 2}],
    }
    (tmp_path / "m.json").write_text(json.dumps(model))
    experiment = {
        "name": "small",
        "model": "m.json",
        "data": {"train": {"path": "rows.npz"}, "validation": {"fraction": 0.25}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "optimizer": "adam"},
    }
    (tmp_path / "e.json").write_text(json.dumps(experiment))
    return tmp_path


RATES = ("--set", "training.optimizer.learning_rate=0.1,0.001")


def test_every_combination_is_an_ordinary_run_and_all_are_ranked(folder, monkeypatch):
    out, err = run("sweep", "e.json", *RATES, "--set", "model.layers[0].units=3,6", "--jobs", "2", cwd=folder)
    assert "4 runs in runs/small-sweep, ranked by val_loss" in err
    assert err.count(": val_loss ") == 4
    lines = out.splitlines()
    assert lines[0].split() == ["Rank", "learning_rate", "units", "val_loss", "epoch"]
    losses = [float(line.split()[3]) for line in lines[1:]]
    assert losses == sorted(losses)
    with (folder / "runs/small-sweep/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        model = specnet.load(folder / "runs/small-sweep" / row["run"] / "last.h5")
        assert model.layers[0].weight.shape == (4, int(row["model.layers[0].units"]))
        experiment = json.loads(model.run_state["experiment"])
        assert experiment["training"]["optimizer"]["learning_rate"] == float(row["training.optimizer.learning_rate"])
        history = model.run_state["history/val_loss"]
        assert float(row["val_loss"]) == history.min()
    assert runs_of(folder / "runs/small-sweep")[0].name == rows[0]["run"]
    settings = [
        f"--set={path}={rows[0][path]}" for path in ("training.optimizer.learning_rate", "model.layers[0].units")
    ]
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    run("train", "e.json", "--out", "alone", *settings, cwd=folder)
    single_run, best = (specnet.load(folder / p / "last.h5") for p in ("alone", f"runs/small-sweep/{rows[0]['run']}"))
    assert all((single_run.parameters[name] == value).all() for name, value in best.parameters.items())


@pytest.mark.full
def test_each_seed_is_a_run_and_combinations_are_ranked_by_their_mean(folder):
    out, _ = run("sweep", "e.json", *RATES, "--seeds", "3", "--out", "s", "--quiet", cwd=folder)
    assert out.splitlines()[0].split() == ["Rank", "learning_rate", "val_loss", "sd", "runs"]
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["3", "3"]
    weights = [
        specnet.load(folder / f"s/learning_rate=0.1_seed={seed}/last.h5").parameters["affine_1.weight"]
        for seed in range(3)
    ]
    assert not (weights[0] == weights[1]).any()
    result = json.loads(
        run("sweep", "e.json", *RATES, "--seeds", "3", "--out", "s", "--quiet", "--json", cwd=folder)[0]
    )
    assert result["monitor"] == "val_loss"
    assert len(result["runs"]) == 6
    assert {run["settings"]["training.seed"] for run in result["runs"]} == {"0", "1", "2"}


def test_a_sweep_may_vary_only_the_seed(folder):
    out, _ = run("sweep", "e.json", "--seeds", "2", "--out", "s", "--quiet", cwd=folder)
    assert out.splitlines()[0].split() == ["Rank", "val_loss", "sd", "runs"]
    assert {path.name for path in (folder / "s").iterdir() if path.is_dir()} == {"seed=0", "seed=1"}


def test_combinations_with_the_same_data_settings_read_the_data_once(folder, monkeypatch):
    original_read, opened = DataEntry.read, []
    monkeypatch.setattr(DataEntry, "read", lambda *args: opened.append(args) or original_read(*args))
    rates = {"training.optimizer.learning_rate": ["0.1", "0.01", "0.001"], "training.batch_size": ["4", "8"]}
    sweep = plan_sweep(folder / "e.json", rates)
    reads_per_plan = len(opened)
    assert len(sweep.trials) == 6
    plan_sweep(folder / "e.json", rates | {"model.layers[0].units": ["3", "5"]})
    assert reads_per_plan > 0
    assert len(opened) == 3 * reads_per_plan
    (folder / "rows.npz").write_bytes(b"no longer")
    with pytest.raises(SpecError, match=r"and 5 more combinations"):
        plan_sweep(folder / "e.json", rates)


def test_all_problems_are_reported_before_the_first_run(folder):
    arguments = ("--set", "training.loss=softmax_cross_entropy,nonsense", "--set", "model.layers[0].units=3,0")
    _, err = run("sweep", "e.json", *arguments, "--out", "s", cwd=folder, code=1)
    assert 'training.loss: unknown loss "nonsense"' in err
    assert "model.layers[0].units: expected a positive integer, got the integer 0" in err
    assert "(with training.loss=softmax_cross_entropy model.layers[0].units=0" in err
    assert "and 1 more combination)" in err
    assert len(err.splitlines()) == 2
    assert not (folder / "s").exists()
    for setting, message_part in (("training.epochs", "expected PATH=A,B"), ("=1,2", "expected PATH=A,B")):
        assert message_part in run("sweep", "e.json", "--set", setting, cwd=folder, code=2)[1]
    assert (
        "expected the path of a value"
        in run("sweep", "e.json", "--set", "model.layers[7].units=1,2", cwd=folder, code=1)[1]
    )
    with pytest.raises(specnet.SpecnetError, match="a sweep of 20,000 runs"):
        plan_sweep(folder / "e.json", {"training.seed": [str(n) for n in range(20_000)]})


def test_run_names_are_unique_and_limited_in_length(folder):
    for name in ("a b.npz", "a@b.npz"):
        (folder / name).write_bytes((folder / "rows.npz").read_bytes())
    sweep = plan_sweep(folder / "e.json", {"data.train.path": ["a b.npz", "a@b.npz"]})
    assert len({trial.name for trial in sweep.trials}) == 2
    long_settings = {f"model.layers[{index}].units": ["2", "3"] for index in (0,)}
    long_settings |= {f"model.metadata.{'x' * 40}{n}": ["1", "2"] for n in range(5)}
    sweep = plan_sweep(folder / "e.json", long_settings, seeds=2)
    assert len({trial.name for trial in sweep.trials}) == 2**6 * 2
    assert max(len(trial.name) for trial in sweep.trials) < 200


def test_the_ranking_metric_follows_the_settings_of_the_runs(folder):
    def planned_monitor(settings):
        return plan_sweep(folder / "e.json", {"training.batch_size": ["8", "16"], **settings}).monitor

    assert planned_monitor({}) == "val_loss"
    assert planned_monitor({"data.validation": ["null"]}) == "loss"
    assert planned_monitor({"training.checkpoint.keep_best": ["validation_accuracy"]}) == "val_accuracy"
    with pytest.raises(specnet.SpecnetError, match=r"they monitor different metrics: val_loss with .*; loss with"):
        planned_monitor({"data.validation": ['{"fraction": 0.2}', "null"]})


@pytest.mark.full
def test_models_and_seeds_can_be_varied(folder):
    other = json.loads((folder / "m.json").read_text()) | {"seed": 7}
    (folder / "m2.json").write_text(json.dumps(other))
    sweep = plan_sweep(
        folder / "e.json", {"model": ["m.json", "m2.json"], "training.seed": ["5"]}, seeds=2, out=folder / "s"
    )
    assert [trial.overrides["training.seed"] for trial in sweep.trials] == ["5", "6", "5", "6"]
    assert [trial.overrides["model.seed"] for trial in sweep.trials] == ["0", "1", "7", "8"]
    assert all(outcome.error is None for outcome in run_sweep(sweep, jobs=2))
    with pytest.raises(specnet.SpecnetError, match="varied, and so are the seeds"):
        plan_sweep(folder / "e.json", {"training.seed": ["1", "2"]}, seeds=2)
    with pytest.raises(specnet.SpecnetError, match=r"gone\.npz: there is no such file"):
        plan_sweep(folder / "e.json", {"data.train.path": ["rows.npz", "gone.npz"]})


def test_a_sweep_with_fewer_epochs_ranks_only_those(folder):
    run("sweep", "e.json", *RATES, "--out", "s", "--quiet", "--set", "training.epochs=6", cwd=folder)
    result = json.loads(
        run("sweep", "e.json", *RATES, "--out", "s", "-q", "--json", "--set", "training.epochs=2", cwd=folder)[0]
    )
    assert {outcome["epoch"] for outcome in result["runs"]} <= {1, 2}


def test_unwritable_folders_and_duplicate_settings_are_reported(folder):
    _, err = run("sweep", "e.json", *RATES, "--out", "e.json", cwd=folder, code=1)
    assert "e.json: cannot be written to" in err
    twice = ("--set", "training.batch_size=4", "--set", "training.batch_size=8")
    assert "is set twice" in run("sweep", "e.json", *twice, cwd=folder, code=2)[1]


def test_a_run_that_fails_does_not_stop_the_rest(folder):
    values = 'training.optimizer={"type": "sgd", "learning_rate": 1e300},adam'
    out, err = run("sweep", "e.json", "--set", values, "--out", "s", cwd=folder)
    assert "is not finite" in err or "the loss is nan" in err
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["1", "adam"]
    assert "at step" in lines[2]
    assert run("sweep", "e.json", "--set", values.replace(",adam", ""), "--out", "t", cwd=folder, code=1)[1]


def test_a_stopped_sweep_resumes_with_the_missing_runs(folder):
    command = [sys.executable, "-m", "specnet", "sweep", "e.json", *RATES, "--out", "s", "--jobs", "1"]
    process = subprocess.Popen(
        [*command, "--set", "training.epochs=100000"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 60
    while not (folder / "s/learning_rate=0.1/last.h5").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "stopped; the same command continues with the missing runs in s" in err
    step = specnet.load(folder / "s/learning_rate=0.1/last.h5").run_state["step"]
    epochs = step // 4 + 2  # a little more than the number of trained epochs
    run("sweep", "e.json", *RATES, "--out", "s", "--quiet", "--set", f"training.epochs={epochs}", cwd=folder)
    for rate in ("0.1", "0.001"):
        model = specnet.load(folder / f"s/learning_rate={rate}/last.h5")
        assert model.run_state["epoch"] == epochs
    before = (folder / "s/learning_rate=0.1/last.h5").stat().st_mtime_ns
    run("sweep", "e.json", *RATES, "--out", "s", "--quiet", "--set", f"training.epochs={epochs}", cwd=folder)
    assert (folder / "s/learning_rate=0.1/last.h5").stat().st_mtime_ns == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent dies")
@pytest.mark.full
def test_killing_a_sweep_stops_its_runs(folder):
    command = [sys.executable, "-m", "specnet", "sweep", "e.json", *RATES, "--out", "s", "--jobs", "2", "--quiet"]
    process = subprocess.Popen([*command, "--set", "training.epochs=1000000"], cwd=folder)
    limit = time.monotonic() + 60
    runs = [folder / f"s/learning_rate={rate}/last.h5" for rate in ("0.1", "0.001")]
    while not all(path.exists() for path in runs):
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(2)
    before = [path.stat().st_mtime_ns for path in runs]
    time.sleep(1)
    assert [path.stat().st_mtime_ns for path in runs] == before
    assert all(specnet.load(path).run_state["step"] > 0 for path in runs)


def test_a_sweep_runs_from_python(folder):
    sweep = plan_sweep(folder / "e.json", {"training.batch_size": ["8", "16"]}, out=folder / "s")
    messages = []
    ranked = run_sweep(sweep, jobs=2, tell=messages.append)
    assert [outcome.error for outcome in ranked] == [None, None]
    assert len(messages) == 2
    assert ranked[0].value <= ranked[1].value


def test_a_report_shows_a_sweep(folder):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    run("sweep", "e.json", *RATES, "--out", "s", "--quiet", cwd=folder)
    run("report", "s", "--out", "s.html", cwd=folder)
    page = (folder / "s.html").read_text()
    assert "1. small" in page
    assert "2. small" in page
