"""Test runs: early stopping, kept checkpoints, initialization from checkpoints, labels, and resuming after changes."""

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
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def stop_at(step):
    return lambda event: event.run.stop() if event.run.step >= step else None


EARLY = {"optimizer": {"type": "adam", "learning_rate": 0.05}, "epochs": 100, "early_stopping": {"patience": 4}}


def test_early_stopping_ends_a_run_and_returns_the_best_model():
    result = specnet.train(document(**EARLY), out="r")
    losses = result.history["val_loss"]
    best = int(np.argmin(losses))
    assert result.stopped_early
    assert result.finished
    assert len(losses) == best + 1 + 4 < 100
    assert same_arrays(arrays_of(result.model), arrays_of(specnet.load("r/best.h5")))
    last = specnet.load("r/last.h5").run_state
    assert (last["early/best"], last["early/epoch"], last["epoch"]) == (losses[best], best + 1, len(losses))


def test_without_restore_best_the_result_is_the_last_model():
    doc = document(**{**EARLY, "early_stopping": {"patience": 4, "restore_best": False, "monitor": "val_accuracy"}})
    result = specnet.train(doc, out="r")
    assert result.stopped_early
    assert same_arrays(arrays_of(result.model), arrays_of(specnet.load("r/last.h5")))


def test_improvements_below_min_delta_do_not_count():
    patient = specnet.train(document(**EARLY), out="a")
    strict = document(**{**EARLY, "early_stopping": {"patience": 4, "min_delta": 0.05}})
    assert len(specnet.train(strict, out="b").history["loss"]) < len(patient.history["loss"])


@pytest.mark.parametrize("stop", [1, 20, 41])
def test_a_resumed_run_stops_at_the_same_epoch_as_an_uninterrupted_one(stop):
    doc = document(**EARLY, schedule={"type": "cosine", "warmup_steps": 5}, metrics=["accuracy", "f1"], clip_norm=0.5)
    uninterrupted = specnet.train(doc, out="whole")
    specnet.train(doc, out="part", listeners=[stop_at(stop)])
    resumed = specnet.train(doc, out="part", resume=True)
    assert resumed.history == uninterrupted.history
    for name in ("last.h5", "best.h5", "history.csv"):
        assert Path("whole", name).read_bytes() == Path("part", name).read_bytes(), name


def test_a_run_that_stopped_early_is_finished():
    doc = document(**EARLY)
    first = specnet.train(doc, out="r")
    before = Path("r/last.h5").read_bytes()
    resumed = specnet.train(doc, out="r", resume=True)
    assert resumed.finished
    assert resumed.history == first.history
    assert Path("r/last.h5").read_bytes() == before
    longer = specnet.train(doc, out="r", resume=True, overrides={"training.early_stopping.patience": "6"})
    assert len(longer.history["loss"]) > len(first.history["loss"])


def test_changing_the_epochs_of_a_run_with_a_schedule_needs_permission():
    doc = document(schedule="cosine")
    specnet.train(doc, out="r", listeners=[stop_at(3)])
    with pytest.raises(CheckpointError, match="epochs was 4, is 8"):
        specnet.train(doc, out="r", resume=True, overrides={"training.epochs": "8"})
    specnet.train(doc, out="r", resume=True, allow_changes=True, overrides={"training.epochs": "8"})


@pytest.mark.parametrize("change", [{"metrics": ["f1"]}, {"optimizer": "sgd"}])
def test_a_run_with_other_metrics_or_optimizer_cannot_be_resumed(change):
    specnet.train(document(), out="r", listeners=[stop_at(3)])
    with pytest.raises(CheckpointError, match="cannot resume the run"):
        specnet.train(document(**change), out="r", resume=True, allow_changes=True)


def test_keep_last_keeps_the_last_checkpoints():
    result = specnet.train(document(checkpoint={"keep_last": 3, "every_epochs": 1}), out="r")
    file_names = sorted(os.listdir("r"))
    assert file_names == ["best.h5", "experiment.json", "history.csv", "last.h5", "step-12.h5", "step-18.h5"]
    assert [specnet.load(f"r/step-{n}.h5").run_state["step"] for n in (12, 18)] == [12, 18]
    assert specnet.load("r/last.h5").run_state["step"] == 24
    assert result.finished
    specnet.train(document(checkpoint={"keep_last": 1}, epochs=5), out="r", resume=True)
    assert not list(Path("r").glob("step-*"))
    specnet.train(document(checkpoint={"keep_last": 3}), out="r", force=True, listeners=[stop_at(7)])
    assert sorted(p.name for p in Path("r").glob("*.h5")) == ["best.h5", "last.h5", "step-6.h5"]


def test_an_error_while_rotating_checkpoints_stops_the_run(monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    Path("r").mkdir()
    Path("r/last.h5").write_bytes(b"x")
    monkeypatch.setattr(os, "link", broken)
    with pytest.raises(CheckpointError, match="older checkpoints cannot be kept: No space left"):
        rotate_checkpoints(Path("r"), 2, 5)


def test_the_history_is_written_as_csv():
    result = specnet.train(document(), out="r")
    with open("r/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == result.history["val_loss"]
    assert {"epoch", "loss", "accuracy", "learning_rate", "gradient_norm.hidden", "gradient_zeros.out"} <= set(rows[0])
    assert all(0 <= float(row["gradient_zeros.hidden"]) < 1 < 1 + float(row["gradient_norm.hidden"]) for row in rows)


def test_a_run_can_be_initialized_from_a_checkpoint():
    specnet.train(document(), out="first")
    doc = document(initialize_from="first/best.h5", freeze=["hidden.*"])
    doc["model"]["layers"][3]["units"] = 3
    result = specnet.train(doc, out="second/run")
    assert result.transfer.taken == ("hidden.weight", "hidden.bias")
    assert "shape" in result.transfer.skipped["out.weight"]
    first = specnet.load("first/best.h5")
    assert np.array_equal(result.model.parameters["hidden.weight"], first.parameters["hidden.weight"])
    resolved = json.loads(Path("second/run/experiment.json").read_text())
    assert resolved["training"]["initialize_from"] == {"path": "../../first/best.h5", "names": "*"}
    repeated = specnet.train("second/run/experiment.json", out="third")
    assert same_arrays(arrays_of(repeated.model), arrays_of(result.model))
    assert specnet.train(doc, out="second/run", resume=True).transfer is None
    doc["training"]["initialize_from"] = {"path": "first/best.h5", "names": "other.*"}
    with pytest.raises(CheckpointError, match="nothing in it fits the model"):
        specnet.train(doc, out="fourth")
    assert not Path("fourth").exists()


def test_row_weights_change_the_training():
    unweighted = specnet.train(document(), out="a")
    doc = document()
    doc["data"]["train"]["weights"] = "w"
    weighted = specnet.train(doc, out="b")
    assert weighted.history["loss"] != unweighted.history["loss"]
    np.savez("d.npz", **{**np.load("d.npz"), "w": np.r_[np.ones(119), 0]})
    with pytest.raises(DataError, match=r"weights: row 120: expected a positive number, .* got 0\.0"):
        specnet.train(doc, out="c")
    np.savez("d.npz", **{**np.load("d.npz"), "w": np.ones(119)})
    with pytest.raises(DataError, match="weights: expected 120 numbers, one per row"):
        specnet.train(doc, out="c")


def test_text_targets_define_the_labels_of_the_checkpoint():
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


def test_binary_targets_may_be_text():
    doc = document(loss="binary_cross_entropy", metrics=["accuracy", "f1"])
    doc["model"]["layers"][3]["units"] = 1
    arrays = dict(np.load("d.npz"))
    from_numbers = specnet.train(doc, out="a")
    np.savez("d.npz", **{**arrays, "y": np.array(["a", "b"])[arrays["y"]]})
    from_text = specnet.train(doc, out="b")
    assert from_text.history == from_numbers.history
    assert from_text.model.spec.labels == ("a", "b")


def test_validation_rows_are_stratified_by_class():
    from specnet.training.experiment import load_experiment
    from specnet.training.loading import load_data

    y = np.r_[np.zeros(60, int), np.ones(30, int), np.full(10, 2)]
    np.savez("d.npz", x=np.arange(600.0).reshape(100, 6), y=y)
    doc = document()
    np.savez("d.npz", x=np.arange(600.0).reshape(100, 6), y=y)
    doc["model"]["layers"][3]["units"] = 3
    for seed in range(5):
        doc["training"]["seed"] = seed
        _, train, validation = load_data(*load_experiment(doc))
        assert np.bincount(validation.targets).tolist() == [18, 9, 3]
        assert len(train) == 70
        assert sorted([*train.inputs[:, 0], *validation.inputs[:, 0]]) == [6.0 * n for n in range(100)]
    doc["data"]["validation"] = {"fraction": 0.3, "stratify": False}
    class_counts = set()
    for seed in range(5):
        doc["training"]["seed"] = seed
        class_counts.add(tuple(np.bincount(load_data(*load_experiment(doc)).validation.targets)))
    assert len(class_counts) > 1


CROSS_ENTROPY = {"type": "softmax_cross_entropy"}


@pytest.mark.parametrize(
    ("training", "path", "message_part"),
    [
        ({"metrics": ["mse"]}, "training.metrics[0]", "mse compares numbers, but softmax_cross_entropy has classes"),
        ({"metrics": ["accuracy", "accuracy"]}, "training.metrics", '"accuracy" appears twice'),
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
        ({"loss": {**CROSS_ENTROPY, "class_weights": [1, 2, 3]}}, "training.loss.class_weights", "2 weights"),
        ({"loss": {**CROSS_ENTROPY, "class_weights": [1, 0]}}, "training.loss.class_weights[1]", "positive"),
        ({"schedule": "cosinus"}, "training.schedule", 'did you mean "cosine"'),
        ({"schedule": {"type": "step"}}, "training.schedule.every_epochs", "missing"),
        ({"schedule": {"type": "cosine", "warmup_steps": -1}}, "training.schedule.warmup_steps", "at least 0"),
        ({"clip_norm": 0}, "training.clip_norm", "positive number"),
        ({"initialize_from": 3}, "training.initialize_from", "a path, or an object"),
        ({"accumulate": 0}, "training.accumulate", "positive integer"),
    ],
)  # fmt: skip
def test_invalid_settings_are_rejected(training, path, message_part):
    with pytest.raises(SpecError) as caught:
        specnet.train(document(**training), out="r")
    messages = {problem.path: problem.message for problem in caught.value.problems}
    assert message_part in messages.get(path, ""), messages


def test_the_training_loss_can_be_monitored_without_validation():
    doc = document(early_stopping={"monitor": "loss", "patience": 2}, epochs=3)
    del doc["data"]["validation"]
    assert specnet.train(doc, out="r").best_path is not None
    doc["training"]["early_stopping"] = {}
    with pytest.raises(SpecError, match=r"validation_loss needs validation rows.*; add data\.validation"):
        specnet.train(doc, out="s")


# ---------------------------------------------------------------- resuming after changes


def test_validation_can_be_added_and_removed_on_resume():
    doc = document(epochs=6)
    validation = doc["data"].pop("validation")
    specnet.train(doc, out="r", listeners=[stop_at(17)])
    doc["data"]["validation"] = validation
    specnet.train(doc, out="r", resume=True, allow_changes=True, listeners=[stop_at(27)])
    doc["data"].pop("validation")
    history = specnet.train(doc, out="r", resume=True, allow_changes=True).history
    assert {len(values) for values in history.values()} == {6}
    measured = ~np.isnan(history["val_loss"])
    assert measured.any()
    assert not measured[0]
    assert not measured[-1]
    assert specnet.train(doc, out="r", resume=True).finished


def test_a_changed_batch_size_restarts_the_epoch():
    specnet.train(document(batch_size=4), out="r", listeners=[stop_at(20)])
    result = specnet.train(document(batch_size=40), out="r", resume=True, allow_changes=True)
    assert result.finished
    assert len(result.history["loss"]) == 4


def test_a_changed_monitor_resets_the_best_value():
    old_settings = {
        "optimizer": "sgd",
        "early_stopping": {"monitor": "val_accuracy", "patience": 3, "restore_best": False},
    }
    old_settings["checkpoint"] = {"keep_best": "val_accuracy"}
    specnet.train(document(epochs=8, **old_settings), out="r", listeners=[stop_at(9)])
    new_settings = {**old_settings, "early_stopping": {"monitor": "val_loss", "patience": 3, "restore_best": False}}
    new_settings["checkpoint"] = {"keep_best": "val_loss"}
    result = specnet.train(document(epochs=8, **new_settings), out="r", resume=True, allow_changes=True)
    state = specnet.load("r/last.h5").run_state
    assert state["early/best"] == min(result.history["val_loss"][1:]) == state["best/value"]


def test_a_truncated_history_is_restored_on_resume():
    doc = document()
    uninterrupted = specnet.train(doc, out="whole")
    specnet.train(doc, out="part", listeners=[stop_at(18)])
    table = Path("part/history.csv").read_text().splitlines(keepends=True)
    Path("part/history.csv").write_text("".join(table[:-1]))
    specnet.train(doc, out="part", resume=True)
    assert Path("part/history.csv").read_bytes() == Path("whole/history.csv").read_bytes()
    assert uninterrupted.finished


INVALID_STATE = {
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


@pytest.mark.parametrize(("key", "value"), INVALID_STATE.items(), ids=INVALID_STATE.keys())
def test_an_invalid_run_state_is_rejected(key, value):
    doc = document(early_stopping={"patience": 3})
    specnet.train(doc, out="r", listeners=[stop_at(8)])
    model = specnet.load("r/last.h5")
    if value is None:
        del model.run_state[key]
    else:
        model.run_state[key] = value
    specnet.save("r/last.h5", model)
    with pytest.raises(CheckpointError, match=r"r/last\.h5"):
        specnet.train(doc, out="r", resume=True)


def test_a_run_state_with_another_model_is_rejected():
    doc = document(optimizer="sgd")
    specnet.train(doc, out="r", listeners=[stop_at(8)])
    model = specnet.load("r/last.h5")
    spec = model.spec.model_dump(mode="json")
    spec["layers"] = [layer for layer in spec["layers"] if layer["type"] != "relu"]
    other = specnet.build(specnet.ModelSpec(**spec))
    other.run_state = model.run_state
    specnet.save("r/last.h5", other)
    with pytest.raises(CheckpointError, match="its model differs from the model of its experiment"):
        specnet.train(doc, out="r", resume=True)


# ---------------------------------------------------------------- the files of a run


def test_foreign_files_are_not_overwritten():
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


def test_an_old_run_is_replaced_only_by_the_first_checkpoint_of_the_new_run():
    specnet.train(document(), out="r")
    before = Path("r/last.h5").read_bytes()
    diverging = document(optimizer={"type": "sgd", "learning_rate": 1e38}, seed=1)
    with pytest.raises(specnet.SpecnetError, match="in epoch 1"):
        specnet.train(diverging, out="r", force=True)
    assert Path("r/last.h5").read_bytes() == before
    specnet.train(document(checkpoint={"keep_best": None}), out="r", force=True)
    assert not Path("r/best.h5").exists()


def test_every_listener_is_notified_of_a_failure():
    event_kinds = []

    class Failing:
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, event):
            event_kinds.append(event.kind)
            if event.kind in (self.kind, "failed"):
                raise OSError(f"at {event.kind}")

    for kind in ("start", "step", "epoch", "end"):
        event_kinds.clear()
        with pytest.raises(OSError, match=f"at {kind}"):
            specnet.train(document(), out=kind, listeners=[Failing(kind), Failing("never")])
        assert event_kinds.count("failed") == 2


def test_validation_columns_are_matched_by_name():
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
    with pytest.raises(DataError, match=r"v\.csv: expected the training columns a, b, got b, a"):
        specnet.train(doc, out="s")


def test_values_that_float32_cannot_distinguish_are_rejected():
    doc = document()
    arrays = dict(np.load("d.npz"))
    arrays["x"][:, 2] = 1.7e9 + np.arange(120)
    np.savez("d.npz", **arrays)
    with pytest.raises(DataError, match=r'inputs: column 3: its values, 1700000000 to .* "dtype": "float64"'):
        specnet.train(doc, out="r")
    doc["model"]["dtype"] = "float64"
    assert specnet.train(doc, out="r").finished


def test_dropout_depends_only_on_the_seed():
    model = specnet.build(specnet.ModelSpec(**document()["model"]))
    x, y = np.ones((40, 6)), np.arange(40) % 2
    initial = {name: value.copy() for name, value in model.parameters.items()}
    trained = []
    for previous_seed in (None, 3, 9):
        for name, value in initial.items():
            model.parameters[name][...] = value
        if previous_seed is not None:
            model.draws.seed = previous_seed
            model.forward(x, training=True)
        specnet.fit(model, x, y, loss="softmax_cross_entropy", seed=5, epochs=1)
        trained.append({name: value.copy() for name, value in model.parameters.items()})
    assert same_arrays(trained[0], trained[1])
    assert same_arrays(trained[0], trained[2])
