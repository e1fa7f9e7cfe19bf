"""Runs as documents describe them: early stopping, what is kept, what a run begins from, labels and fingerprints."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import CheckpointError, DataError, SpecError
from specnet.training.runs.run_folder import rotate_checkpoints
from tests.support import arrays_of, same_arrays


def document(**training):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6))
    np.savez("d.npz", x=x, y=(x[:, 0] + 0.5 * rng.normal(size=120) > 0).astype(int), w=rng.uniform(1, 2, 120))
    return {
        "name": "small",
        "model": {
            "input_shape": [6],
            "layers": [
                {"type": "affine", "name": "hidden", "units": 24},
                {"type": "relu"},
                {"type": "dropout", "rate": 0.2},
                {"type": "affine", "name": "out", "units": 2},
            ],
        },
        "data": {"train": {"path": "d.npz"}, "validation": {"fraction": 0.3}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 4, "batch_size": 16, **training},
    }


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def stopped_at(step):
    return lambda event: event.run.stop() if event.run.step >= step else None


EARLY = {"optimizer": {"type": "adam", "learning_rate": 0.05}, "epochs": 100, "early_stopping": {"patience": 4}}


def test_early_stopping_ends_a_run_and_gives_the_best_model():
    result = specnet.train(document(**EARLY), out="r")
    losses = result.history["val_loss"]
    best = int(np.argmin(losses))
    assert result.stopped_early
    assert result.finished
    assert len(losses) == best + 1 + 4 < 100
    assert same_arrays(arrays_of(result.model), arrays_of(specnet.load("r/best.h5")))
    last = specnet.load("r/last.h5").run_state
    assert (last["early/best"], last["early/epoch"], last["epoch"]) == (losses[best], best + 1, len(losses))


def test_without_restoring_the_last_model_is_the_result():
    doc = document(**{**EARLY, "early_stopping": {"patience": 4, "restore_best": False, "monitor": "val_accuracy"}})
    result = specnet.train(doc, out="r")
    assert result.stopped_early
    assert same_arrays(arrays_of(result.model), arrays_of(specnet.load("r/last.h5")))


def test_small_improvements_do_not_count():
    patient = specnet.train(document(**EARLY), out="a")
    strict = document(**{**EARLY, "early_stopping": {"patience": 4, "min_delta": 0.05}})
    assert len(specnet.train(strict, out="b").history["loss"]) < len(patient.history["loss"])


@pytest.mark.parametrize("stop", [1, 20, 41])
def test_a_resumed_run_stops_where_an_undisturbed_one_does(stop):
    doc = document(**EARLY, schedule={"type": "cosine", "warmup_steps": 5}, metrics=["accuracy", "f1"], clip_norm=0.5)
    whole = specnet.train(doc, out="whole")
    specnet.train(doc, out="part", listeners=[stopped_at(stop)])
    resumed = specnet.train(doc, out="part", resume=True)
    assert resumed.history == whole.history
    for name in ("last.h5", "best.h5", "history.csv"):
        assert Path("whole", name).read_bytes() == Path("part", name).read_bytes(), name


def test_a_run_that_stopped_early_is_finished():
    doc = document(**EARLY)
    first = specnet.train(doc, out="r")
    before = Path("r/last.h5").read_bytes()
    again = specnet.train(doc, out="r", resume=True)
    assert again.finished
    assert again.history == first.history
    assert Path("r/last.h5").read_bytes() == before
    longer = specnet.train(doc, out="r", resume=True, overrides={"training.early_stopping.patience": "6"})
    assert len(longer.history["loss"]) > len(first.history["loss"])


def test_the_length_of_a_run_with_a_schedule_cannot_change_unasked():
    doc = document(schedule="cosine")
    specnet.train(doc, out="r", listeners=[stopped_at(3)])
    with pytest.raises(CheckpointError, match="epochs was 4, is 8"):
        specnet.train(doc, out="r", resume=True, overrides={"training.epochs": "8"})
    specnet.train(doc, out="r", resume=True, allow_changes=True, overrides={"training.epochs": "8"})


@pytest.mark.parametrize("change", [{"metrics": ["f1"]}, {"optimizer": "sgd"}])
def test_other_metrics_or_another_optimizer_are_another_run(change):
    specnet.train(document(), out="r", listeners=[stopped_at(3)])
    with pytest.raises(CheckpointError, match="cannot go on"):
        specnet.train(document(**change), out="r", resume=True, allow_changes=True)


def test_the_last_checkpoints_are_kept():
    result = specnet.train(document(checkpoint={"keep_last": 3, "every_epochs": 1}), out="r")
    steps = sorted(os.listdir("r"))
    assert steps == ["best.h5", "experiment.json", "history.csv", "last.h5", "step-12.h5", "step-18.h5"]
    assert [specnet.load(f"r/step-{n}.h5").run_state["step"] for n in (12, 18)] == [12, 18]
    assert specnet.load("r/last.h5").run_state["step"] == 24
    assert result.finished
    specnet.train(document(checkpoint={"keep_last": 1}, epochs=5), out="r", resume=True)
    assert not list(Path("r").glob("step-*"))
    specnet.train(document(checkpoint={"keep_last": 3}), out="r", force=True, listeners=[stopped_at(7)])
    assert sorted(p.name for p in Path("r").glob("*.h5")) == ["best.h5", "last.h5", "step-6.h5"]


def test_a_checkpoint_that_cannot_be_kept_stops_the_run(monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    Path("r").mkdir()
    Path("r/last.h5").write_bytes(b"x")
    monkeypatch.setattr(os, "link", broken)
    with pytest.raises(CheckpointError, match="older checkpoints cannot be kept: No space left"):
        rotate_checkpoints(Path("r"), 2, 5)


def test_the_history_is_a_table():
    result = specnet.train(document(), out="r")
    with open("r/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == result.history["val_loss"]
    assert {"epoch", "loss", "accuracy", "learning_rate", "gradient_norm.hidden", "gradient_zeros.out"} <= set(rows[0])
    assert all(0 <= float(row["gradient_zeros.hidden"]) < 1 < 1 + float(row["gradient_norm.hidden"]) for row in rows)


def test_a_run_begins_from_another_ones_checkpoint():
    specnet.train(document(), out="first")
    doc = document(initialize_from="first/best.h5", freeze=["hidden.*"])
    doc["model"]["layers"][3]["units"] = 3
    result = specnet.train(doc, out="second/run")
    assert result.transfer.taken == ("hidden.weight", "hidden.bias")
    assert "shape" in result.transfer.skipped["out.weight"]
    first = specnet.load("first/best.h5")
    assert np.array_equal(result.model.parameters["hidden.weight"], first.parameters["hidden.weight"])
    written = json.loads(Path("second/run/experiment.json").read_text())
    assert written["training"]["initialize_from"] == {"path": "../../first/best.h5", "names": "*"}
    again = specnet.train("second/run/experiment.json", out="third")
    assert same_arrays(arrays_of(again.model), arrays_of(result.model))
    assert specnet.train(doc, out="second/run", resume=True).transfer is None
    doc["training"]["initialize_from"] = {"path": "first/best.h5", "names": "other.*"}
    with pytest.raises(CheckpointError, match="nothing in it fits the model"):
        specnet.train(doc, out="fourth")
    assert not Path("fourth").exists()


def test_weights_of_rows_change_the_run():
    plain = specnet.train(document(), out="a")
    doc = document()
    doc["data"]["train"]["weights"] = "w"
    weighted = specnet.train(doc, out="b")
    assert weighted.history["loss"] != plain.history["loss"]
    np.savez("d.npz", **{**np.load("d.npz"), "w": np.r_[np.ones(119), 0]})
    with pytest.raises(DataError, match=r"weights: row 120: expected a positive number, .* got 0\.0"):
        specnet.train(doc, out="c")
    np.savez("d.npz", **{**np.load("d.npz"), "w": np.ones(119)})
    with pytest.raises(DataError, match="weights: expected 120 numbers, one a row"):
        specnet.train(doc, out="c")


def test_text_targets_become_the_labels_of_the_checkpoint():
    doc = document()
    arrays = dict(np.load("d.npz"))
    np.savez("d.npz", **{**arrays, "y": np.array(["yes", "no"])[arrays["y"]]})
    result = specnet.train(doc, out="r")
    assert result.model.spec.labels == ("no", "yes")
    assert specnet.load("r/last.h5").spec.labels == ("no", "yes")
    assert json.loads(Path("r/experiment.json").read_text())["model"]["labels"] == ["no", "yes"]
    assert specnet.train(doc, out="r", resume=True).finished
    doc["model"]["layers"][3]["units"] = 4
    with pytest.raises(DataError, match=r"there are 2 classes \(no, yes\), the model has 4 outputs; set the units"):
        specnet.train(doc, out="s")


def test_yes_or_no_takes_text_too():
    doc = document(loss="binary_cross_entropy", metrics=["accuracy", "f1"])
    doc["model"]["layers"][3]["units"] = 1
    arrays = dict(np.load("d.npz"))
    numbers = specnet.train(doc, out="a")
    np.savez("d.npz", **{**arrays, "y": np.array(["a", "b"])[arrays["y"]]})
    text = specnet.train(doc, out="b")
    assert text.history == numbers.history
    assert text.model.spec.labels == ("a", "b")


def test_each_class_is_held_out_in_proportion():
    from specnet.training.experiment import load_experiment
    from specnet.training.loading import load_data

    y = np.r_[np.zeros(60, int), np.ones(30, int), np.full(10, 2)]
    np.savez("d.npz", x=np.arange(600.0).reshape(100, 6), y=y)
    doc = document()
    np.savez("d.npz", x=np.arange(600.0).reshape(100, 6), y=y)
    doc["model"]["layers"][3]["units"] = 3
    for seed in range(5):
        doc["training"]["seed"] = seed
        _, train, held = load_data(*load_experiment(doc))
        assert np.bincount(held.targets).tolist() == [18, 9, 3]
        assert len(train) == 70
        assert sorted([*train.inputs[:, 0], *held.inputs[:, 0]]) == [6.0 * n for n in range(100)]
    doc["data"]["validation"] = {"fraction": 0.3, "stratify": False}
    found = set()
    for seed in range(5):
        doc["training"]["seed"] = seed
        found.add(tuple(np.bincount(load_data(*load_experiment(doc)).validation.targets)))
    assert len(found) > 1


CE = {"type": "softmax_cross_entropy"}


@pytest.mark.parametrize(
    ("training", "where", "words"),
    [
        ({"metrics": ["mse"]}, "training.metrics[0]", "mse compares numbers, and softmax_cross_entropy has classes"),
        ({"metrics": ["accuracy", "accuracy"]}, "training.metrics", '"accuracy" stands here twice'),
        ({"metrics": ["acuracy"]}, "training.metrics[0]", 'did you mean "accuracy"'),
        ({"metrics": [{"type": "top_k_accuracy", "k": 3}]}, "training.metrics[0].k", "the model has 2 outputs"),
        ({"loss": "mean_squared_error", "metrics": ["f1"]}, "training.metrics[0]", "f1 needs classes"),
        ({"loss": "binary_cross_entropy", "metrics": ["top_k_accuracy"]}, "training.metrics[0]", "needs classes"),
        ({"early_stopping": {"monitor": "val_f1"}}, "training.early_stopping.monitor", "f1 is not measured"),
        ({"early_stopping": {"monitor": "val_los"}}, "training.early_stopping.monitor", 'did you mean "val_loss"'),
        (
            {"early_stopping": {}, "checkpoint": {"keep_best": "val_accuracy"}}, "training.early_stopping",
            "monitor the same",
        ),
        ({"freeze": ["hiden.*"]}, "training.freeze[0]", "no parameter matches; did you mean"),
        ({"freeze": ["*"]}, "training.freeze", "nothing is left to train"),
        ({"freeze": "hidden"}, "training.freeze", "an array of names"),
        ({"loss": {**CE, "class_weights": [1, 2, 3]}}, "training.loss.class_weights", "2 weights"),
        ({"loss": {**CE, "class_weights": [1, 0]}}, "training.loss.class_weights[1]", "positive"),
        ({"schedule": "cosinus"}, "training.schedule", 'did you mean "cosine"'),
        ({"schedule": {"type": "step"}}, "training.schedule.every_epochs", "missing"),
        ({"schedule": {"type": "cosine", "warmup_steps": -1}}, "training.schedule.warmup_steps", "at least 0"),
        ({"clip_norm": 0}, "training.clip_norm", "positive number"),
        ({"initialize_from": 3}, "training.initialize_from", "a path, or an object"),
        ({"accumulate": 0}, "training.accumulate", "positive integer"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(training, where, words):
    with pytest.raises(SpecError) as caught:
        specnet.train(document(**training), out="r")
    told = {problem.path: problem.message for problem in caught.value.problems}
    assert words in told.get(where, ""), told


def test_the_best_is_monitored_without_validation():
    doc = document(early_stopping={"monitor": "loss", "patience": 2}, epochs=3)
    del doc["data"]["validation"]
    assert specnet.train(doc, out="r").best_path is not None
    doc["training"]["early_stopping"] = {}
    with pytest.raises(SpecError, match=r"no data\.validation to take validation_loss from"):
        specnet.train(doc, out="s")


# ---------------------------------------------------------------- going on where something has changed


def test_validation_may_come_and_go():
    doc = document(epochs=6)
    held_out = doc["data"].pop("validation")
    specnet.train(doc, out="r", listeners=[stopped_at(17)])
    doc["data"]["validation"] = held_out
    specnet.train(doc, out="r", resume=True, allow_changes=True, listeners=[stopped_at(27)])
    doc["data"].pop("validation")
    history = specnet.train(doc, out="r", resume=True, allow_changes=True).history
    assert {len(values) for values in history.values()} == {6}
    there = ~np.isnan(history["val_loss"])
    assert there.any()
    assert not there[0]
    assert not there[-1]
    assert specnet.train(doc, out="r", resume=True).finished


def test_larger_batches_begin_the_epoch_anew():
    specnet.train(document(batch_size=4), out="r", listeners=[stopped_at(20)])
    result = specnet.train(document(batch_size=40), out="r", resume=True, allow_changes=True)
    assert result.finished
    assert len(result.history["loss"]) == 4


def test_another_monitor_forgets_the_best_of_the_first():
    first = {"optimizer": "sgd", "early_stopping": {"monitor": "val_accuracy", "patience": 3, "restore_best": False}}
    first["checkpoint"] = {"keep_best": "val_accuracy"}
    specnet.train(document(epochs=8, **first), out="r", listeners=[stopped_at(9)])
    second = {**first, "early_stopping": {"monitor": "val_loss", "patience": 3, "restore_best": False}}
    second["checkpoint"] = {"keep_best": "val_loss"}
    result = specnet.train(document(epochs=8, **second), out="r", resume=True, allow_changes=True)
    state = specnet.load("r/last.h5").run_state
    assert state["early/best"] == min(result.history["val_loss"][1:]) == state["best/value"]


def test_a_history_that_a_kill_cut_off_is_whole_again():
    doc = document()
    whole = specnet.train(doc, out="whole")
    specnet.train(doc, out="part", listeners=[stopped_at(18)])
    table = Path("part/history.csv").read_text().splitlines(keepends=True)
    Path("part/history.csv").write_text("".join(table[:-1]))
    specnet.train(doc, out="part", resume=True)
    assert Path("part/history.csv").read_bytes() == Path("whole/history.csv").read_bytes()
    assert whole.finished


FORGED = {
    "optimizer/steps": "many",
    "optimizer/first_moment/hidden.weight": np.ones(3),
    "optimizer/first_moment/hidden.bias": "text",
    "optimizer/another": np.ones(3),
    "history/epoch": None,
    "history/more": np.ones(7),
    "history/loss": np.ones(7),
    "step": 2**60,
    "epoch": 2**62,
    "batch": 1000,
    "sums/loss": float("nan"),
    "sums/weight": -1.0,
    "sums/accuracy": np.ones(7),
    "sums/other": 1.0,
    "best/epoch": 99,
    "early/epoch": 99,
    "experiment": "{",
    "data_sha256": 3,
}


@pytest.mark.parametrize(("key", "value"), FORGED.items(), ids=FORGED.keys())
def test_a_forged_state_is_refused(key, value):
    doc = document(early_stopping={"patience": 3})
    specnet.train(doc, out="r", listeners=[stopped_at(8)])
    model = specnet.load("r/last.h5")
    if value is None:
        del model.run_state[key]
    else:
        model.run_state[key] = value
    specnet.save("r/last.h5", model)
    with pytest.raises(CheckpointError, match=r"r/last\.h5"):
        specnet.train(doc, out="r", resume=True)


def test_another_model_under_a_runs_state_is_refused():
    doc = document(optimizer="sgd")
    specnet.train(doc, out="r", listeners=[stopped_at(8)])
    model = specnet.load("r/last.h5")
    spec = model.spec.model_dump(mode="json")
    spec["layers"] = [layer for layer in spec["layers"] if layer["type"] != "relu"]
    other = specnet.build(specnet.ModelSpec(**spec))
    other.run_state = model.run_state
    specnet.save("r/last.h5", other)
    with pytest.raises(CheckpointError, match="its model is not that of its experiment"):
        specnet.train(doc, out="r", resume=True)


# ---------------------------------------------------------------- what is written where


def test_nothing_of_others_is_written_over():
    doc = document()
    Path("mine").mkdir()
    Path("mine/step-one.h5").write_text("mine")
    Path("mine/history.csv").write_text("mine")
    with pytest.raises(specnet.SpecnetError, match=r"holds a run already \(history\.csv\)"):
        specnet.train(doc, out="mine")
    specnet.train(doc, out="mine", force=True)
    assert Path("mine/step-one.h5").read_text() == "mine"
    Path("experiment.json").write_text(json.dumps(doc))
    with pytest.raises(specnet.SpecnetError, match=r"holds a run already \(experiment\.json\)"):
        specnet.train("experiment.json", out=".")
    os.rename("d.npz", "mine/best.h5")
    os.symlink("mine/best.h5", "d.npz")
    with pytest.raises(specnet.SpecnetError, match="the run would write over it"):
        specnet.train(doc, out="mine", force=True)


def test_a_run_is_overwritten_when_the_new_one_has_something():
    specnet.train(document(), out="r")
    before = Path("r/last.h5").read_bytes()
    wild = document(optimizer={"type": "sgd", "learning_rate": 1e38}, seed=1)
    with pytest.raises(specnet.SpecnetError, match="in epoch 1"):
        specnet.train(wild, out="r", force=True)
    assert Path("r/last.h5").read_bytes() == before
    specnet.train(document(checkpoint={"keep_best": None}), out="r", force=True)
    assert not Path("r/best.h5").exists()


def test_every_listener_hears_of_a_failure():
    heard = []

    class Failing:
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, event):
            heard.append(event.kind)
            if event.kind in (self.kind, "failed"):
                raise OSError(f"at {event.kind}")

    for kind in ("start", "step", "epoch", "end"):
        heard.clear()
        with pytest.raises(OSError, match=f"at {kind}"):
            specnet.train(document(), out=kind, listeners=[Failing(kind), Failing("never")])
        assert heard.count("failed") == 2


def test_columns_of_validation_are_found_by_name():
    pytest.importorskip("polars", reason="polars is not installed")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200))
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{p},{q},{int(p > q)}\n" for p, q in zip(a, b, strict=True)))
    Path("v.csv").write_text("b,y,a\n" + "".join(f"{q},{int(p > q)},{p}\n" for p, q in zip(a, b, strict=True)))
    doc = document(epochs=20, optimizer={"type": "adam", "learning_rate": 0.02})
    doc["model"]["input_shape"] = [2]
    doc["data"] = {"train": {"path": "t.csv", "targets": "y"}, "validation": {"path": "v.csv"}}
    assert specnet.train(doc, out="r").history["val_accuracy"][-1] > 0.95
    doc["data"]["validation"]["inputs"] = ["b", "a"]
    with pytest.raises(DataError, match=r"v\.csv: expected the training's columns a, b, got b, a"):
        specnet.train(doc, out="s")


def test_digits_that_float32_has_not_are_not_lost_silently():
    doc = document()
    arrays = dict(np.load("d.npz"))
    arrays["x"][:, 2] = 1.7e9 + np.arange(120)
    np.savez("d.npz", **arrays)
    with pytest.raises(DataError, match=r'inputs: column 3: its values, 1700000000 to .* "dtype": "float64"'):
        specnet.train(doc, out="r")
    doc["model"]["dtype"] = "float64"
    assert specnet.train(doc, out="r").finished


def test_dropout_follows_the_seed_whatever_was_drawn_before():
    model = specnet.build(specnet.ModelSpec(**document()["model"]))
    x, y = np.ones((40, 6)), np.arange(40) % 2
    begun = {name: value.copy() for name, value in model.parameters.items()}
    found = []
    for earlier in (None, 3, 9):
        for name, value in begun.items():
            model.parameters[name][...] = value
        if earlier is not None:
            model.draws.seed = earlier
            model.forward(x, training=True)
        specnet.fit(model, x, y, loss="softmax_cross_entropy", seed=5, epochs=1)
        found.append({name: value.copy() for name, value in model.parameters.items()})
    assert same_arrays(found[0], found[1])
    assert same_arrays(found[0], found[2])
