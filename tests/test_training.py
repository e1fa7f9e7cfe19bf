"""Test training: results, written files, and that resumed runs equal uninterrupted runs."""

import copy
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet.data.dataset import Dataset
from specnet.training.epoch_metrics import evaluate
from specnet.training.loop import Run
from specnet.training.losses import MeanSquaredError
from specnet.training.optimizers import SGD
from specnet.training.spec.training_spec import TrainingSpec
from tests.support import arrays_of, model_of, one_by_default, same_arrays


def document(epochs=3, optimizer="adam", batch_size=16, loss="softmax_cross_entropy", **checkpoint):
    rng = np.random.default_rng(0)
    np.savez("d.npz", x=rng.normal(size=(100, 6)), y=rng.integers(0, 3, 100))
    return {
        "name": "small",
        "model": {
            "input_shape": [6],
            "seed": 4,
            "layers": [
                {"type": "affine", "units": 12},
                {"type": "batch_norm"},
                {"type": "relu"},
                {"type": "dropout", "rate": 0.3},
                {"type": "affine", "units": 3},
            ],
        },
        "data": {"train": {"path": "d.npz"}, "validation": {"fraction": 0.2}},
        "training": {
            "loss": loss,
            "optimizer": optimizer,
            "epochs": epochs,
            "batch_size": batch_size,
            "checkpoint": checkpoint,
        },
    }


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def stop_after(step):
    """Return a listener that stops the run at this step."""
    return lambda event: event.run.stop() if event.run.step >= step else None


def run_arrays(path):
    """Return everything in a checkpoint of a run as arrays that can be compared."""
    model = specnet.load(path)
    return arrays_of(model) | {f"run {key}": np.asarray(value) for key, value in model.run_state.items()}


def test_the_digits_example_reaches_its_accuracy(digits):
    result = specnet.train(digits / "digits.experiment.json")
    assert result.history["val_accuracy"][-1] >= 0.96
    assert result.history["epoch"] == list(range(1, 21))
    assert result.finished
    assert str(result.checkpoint_path) == "runs/digits/last.h5"
    assert result.best_path.name == "best.h5"
    best = specnet.load(result.best_path)
    assert best.run_state["best/value"] == min(result.history["val_loss"])
    assert best.run_state["epoch"] == np.argmin(result.history["val_loss"]) + 1
    last = specnet.load(result.checkpoint_path)
    assert same_arrays(arrays_of(last), arrays_of(result.model))


def test_the_resolved_experiment_trains_the_same_model(digits, tmp_path):
    first = specnet.train(
        digits / "digits.experiment.json", out=tmp_path / "a" / "run", overrides={"training.epochs": "2"}
    )
    resolved = json.loads((tmp_path / "a" / "run" / "experiment.json").read_text())
    assert resolved["data"]["train"]["path"] == "../../digits/digits.npz"
    assert resolved["model"]["layers"][0]["name"] == "wide"
    second = specnet.train(tmp_path / "a" / "run" / "experiment.json", out=tmp_path / "b")
    assert same_arrays(arrays_of(first.model), arrays_of(second.model))


def test_the_resolved_experiment_of_a_csv_trains_the_same_model():
    Path("d.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 5},{i % 2}\n" for i in range(40)))
    doc = document(epochs=1)
    doc["model"]["input_shape"] = [2]
    doc["data"] = {"train": {"path": "d.csv"}}
    first = specnet.train(doc, out="a")
    second = specnet.train("a/experiment.json", out="b")
    assert same_arrays(arrays_of(first.model), arrays_of(second.model))


def test_a_copied_model_continues_with_the_same_dropout_masks():
    model = specnet.train(document(), out="r", overrides={"training.seed": "5"}).model
    copied = copy.deepcopy(model)
    x = np.ones((4, 6))
    assert np.array_equal(copied.forward(x, training=True), model.forward(x, training=True))


def test_a_run_is_determined_by_its_seed():
    a, b = (specnet.train(document(), out=name) for name in "ab")
    assert (a.checkpoint_path.read_bytes(), a.best_path.read_bytes()) == (
        b.checkpoint_path.read_bytes(),
        b.best_path.read_bytes(),
    )
    c = specnet.train(document(), out="c", overrides={"training.seed": "1"})
    assert not same_arrays(arrays_of(a.model), arrays_of(c.model))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lion"])
@pytest.mark.parametrize("stop", [1, 5, 7, 12])
def test_a_resumed_run_ends_with_the_same_bytes(optimizer, stop):
    optimizer = {"type": optimizer, "weight_decay": 0.01, **({"momentum": 0.9} if optimizer == "sgd" else {})}
    doc = document(optimizer=optimizer)
    uninterrupted = specnet.train(doc, out="whole")
    interrupted = specnet.train(doc, out="part", listeners=[stop_after(stop)])
    assert not interrupted.finished
    resumed = specnet.train(doc, out="part", resume=True)
    assert resumed.finished
    assert resumed.history == uninterrupted.history
    for name in ("last.h5", "best.h5"):
        assert Path(f"whole/{name}").read_bytes() == Path(f"part/{name}").read_bytes()


TRAINER = """
import sys, specnet
specnet.train(sys.argv[1], out="killed", resume=True)
"""


def train_with_kills(python, doc, seed, kills, delays):
    """Train once without interruption, and once killed `kills` times after random delays (in seconds) and resumed."""
    Path("e.json").write_text(json.dumps(doc))
    specnet.train("e.json", out="whole")
    rng = np.random.default_rng(seed)
    for _ in range(kills):
        with subprocess.Popen([python, "-c", TRAINER, "e.json"]) as process:
            time.sleep(rng.uniform(*delays))
            process.send_signal(signal.SIGKILL)
    subprocess.run([python, "-c", TRAINER, "e.json"], check=True)


def test_a_killed_run_resumes_to_the_same_result(python, full):
    train_with_kills(python, document(epochs=40, every_steps=3), seed=1, kills=6 if full else 3, delays=(0.25, 0.6))
    for name in ("last.h5", "best.h5"):
        assert same_arrays(run_arrays(f"whole/{name}"), run_arrays(f"killed/{name}"))


def test_the_number_of_epochs_can_be_increased_on_resume():
    uninterrupted = specnet.train(document(epochs=4), out="whole")
    specnet.train(document(epochs=2), out="part")
    extended = specnet.train(document(epochs=4), out="part", resume=True)
    assert json.loads(Path("part/experiment.json").read_text())["training"]["epochs"] == 4
    assert same_arrays(arrays_of(uninterrupted.model), arrays_of(extended.model))
    assert extended.history == uninterrupted.history


def test_a_run_with_changed_settings_or_data_is_not_resumed():
    specnet.train(document(), out="r")
    with pytest.raises(specnet.CheckpointMismatchError, match=r"training\.batch_size was 16, is 8"):
        specnet.train(document(batch_size=8), out="r", resume=True)
    doc = document()
    np.savez("d.npz", x=np.zeros((100, 6)), y=np.zeros(100, int))
    with pytest.raises(specnet.CheckpointMismatchError, match="validation data"):
        specnet.train(doc, out="r", resume=True)


def test_a_run_is_overwritten_only_with_force():
    doc = document()
    specnet.train(doc, out="r")
    before = Path("r/last.h5").read_bytes()
    with pytest.raises(specnet.SpecnetError, match=r"holds a run already .*--resume.*--force"):
        specnet.train(doc, out="r")
    assert Path("r/last.h5").read_bytes() == before
    with pytest.raises(specnet.SpecnetError, match="choose one"):
        specnet.train(doc, out="r", resume=True, force=True)
    specnet.train(document(epochs=1), out="r", force=True)
    assert specnet.load("r/last.h5").run_state["epoch"] == 1


def test_resume_starts_a_new_run_and_returns_a_finished_one():
    first = specnet.train(document(), out="r", resume=True)
    resumed = specnet.train(document(), out="r", resume=True)
    assert resumed.finished
    assert resumed.history == first.history
    specnet.save("r/last.h5", specnet.build(first.model.spec))
    with pytest.raises(specnet.CheckpointMismatchError, match="no run"):
        specnet.train(document(), out="r", resume=True)


@pytest.mark.parametrize(
    ("checkpoint", "expected_steps"),
    [
        ({"every_epochs": 1}, [5, 10, 15]),
        ({"every_epochs": 2}, [10, 15]),
        ({"every_epochs": None}, [15]),
        ({"every_epochs": None, "every_steps": 4}, [4, 8, 12, 15]),
        ({"every_epochs": 1, "every_steps": 5}, [5, 10, 15]),
        ({"every_epochs": 1, "every_steps": 2}, [2, 4, 5, 6, 8, 10, 12, 14, 15]),
    ],
)
def test_checkpoints_are_written_at_the_configured_steps(checkpoint, expected_steps, monkeypatch):
    from specnet.training.runs import checkpointing

    steps = []
    original_save = checkpointing.save

    def record_save(path, model):
        original_save(path, model)
        if path.name == "last.h5":
            steps.append(model.run_state["step"])

    monkeypatch.setattr(checkpointing, "save", record_save)
    specnet.train(document(keep_best=None, **checkpoint), out="r")
    assert steps == expected_steps


@pytest.mark.parametrize("keep", ["val_accuracy", "validation_accuracy", "loss", "training_loss"])
def test_the_best_checkpoint_is_kept(keep):
    result = specnet.train(document(epochs=6, keep_best=keep), out="r")
    name = {"validation_accuracy": "val_accuracy", "training_loss": "loss"}.get(keep, keep)
    values = result.history[name]
    best = max(values) if "accuracy" in name else min(values)
    state = specnet.load(result.best_path).run_state
    assert (state["best/value"], state["best/epoch"]) == (best, values.index(best) + 1)
    assert state["epoch"] == state["best/epoch"]


def test_a_nan_loss_is_never_the_best(monkeypatch):
    from specnet.training import loop

    losses = iter([float("nan"), 0.5, float("nan"), 0.7])
    original_evaluate = loop.evaluate

    def evaluate_with_nan(*arguments):
        epoch_metrics = original_evaluate(*arguments)
        epoch_metrics.loss = next(losses) * epoch_metrics.weight
        return epoch_metrics

    monkeypatch.setattr(loop, "evaluate", evaluate_with_nan)
    result = specnet.train(document(epochs=4), out="r")
    assert specnet.load(result.best_path).run_state["best/value"] == 0.5


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint():
    doc = document(optimizer={"type": "sgd", "learning_rate": 1e20}, every_steps=1)
    with pytest.raises(specnet.SpecnetError, match=r"the loss is (nan|inf) at step \d+, in epoch 1: .* lower the"):
        specnet.train(doc, out="r")
    assert specnet.load("r/last.h5").run_state["step"] >= 1


def test_a_failed_save_stops_the_run(monkeypatch):
    from specnet.training.runs import checkpointing

    def failing_save(path, model):
        raise specnet.CheckpointError(f"{path}: not saved")

    monkeypatch.setattr(checkpointing, "save", failing_save)
    with pytest.raises(specnet.CheckpointError, match="not saved"):
        specnet.train(document(), out="r")


def test_listeners_receive_all_events_in_order():
    event_kinds = []
    specnet.train(document(epochs=2), out="r", listeners=[lambda event: event_kinds.append(event.kind)])
    assert event_kinds == ["start", *["step"] * 5, "epoch", *["step"] * 5, "epoch", "end"]


def test_a_training_step_is_forward_loss_backward_and_update():
    model, reference = (model_of({"type": "affine", "units": 2}) for _ in range(2))
    rng = np.random.default_rng(2)
    data = Dataset(rng.normal(size=(10, 5)), rng.normal(size=(10, 2)))
    training = TrainingSpec(loss="mean_squared_error", epochs=2, batch_size=4, shuffle=False)
    run = Run(model, MeanSquaredError(), SGD(model, 0.1), training, data)
    run.go()
    losses = []
    for _ in range(2):
        total = 0.0
        for start in (0, 4, 8):
            x, t = data.inputs[start : start + 4], data.targets[start : start + 4]
            loss, dy = MeanSquaredError()(reference.forward(x), t)
            reference.backward(dy)
            total += loss * len(x)
            for name, value in reference.parameters.items():
                np.subtract(value, 0.1 * reference.gradients[name], out=value)
        losses.append(total / 10)
    assert all(np.allclose(model.parameters[n], reference.parameters[n], rtol=1e-12) for n in model.parameters)
    assert run.history["loss"] == pytest.approx(losses)
    assert evaluate(model, MeanSquaredError(), data).values().keys() == {"loss"}


def test_shuffled_epochs_have_each_row_once_in_a_new_order():
    model = model_of({"type": "relu"}, input_shape=(1,))
    rows = []
    forward = model.train_forward
    model.train_forward = lambda x, out: (rows.extend(x[:, 0].tolist()), forward(x, out))[1]
    data = Dataset(np.arange(1.0, 11).reshape(10, 1), np.zeros((10, 1)))
    training = TrainingSpec(loss="mean_squared_error", epochs=2, batch_size=3)
    model.backward(model.forward(data.inputs))
    Run(model, MeanSquaredError(), SGD(model, 0.1), training, data).go()
    first, second = rows[:10], rows[10:]
    assert sorted(first) == sorted(second) == list(range(1, 11))
    assert first != second != sorted(second)


@pytest.mark.parametrize("loss", ["mean_squared_error", "mean_absolute_error", "huber", "binary_cross_entropy"])
def test_every_loss_learns(loss):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 4))
    t = x @ rng.normal(size=(4, 1))
    np.savez("r.npz", x=x, y=t > 0 if loss == "binary_cross_entropy" else t)
    doc = {
        "model": {"input_shape": [4], "layers": [{"type": "affine", "units": 1}]},
        "data": {"train": {"path": "r.npz"}, "validation": {"fraction": 0.25}},
        "training": {"loss": loss, "optimizer": {"type": "adam", "learning_rate": 0.05}, "epochs": 30},
    }
    history = specnet.train(doc, out="r").history
    assert history["val_loss"][-1] < history["val_loss"][0] / 3
    if loss == "binary_cross_entropy":
        assert history["val_accuracy"][-1] > 0.9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 10**6), ("batch", -1), ("step", "abc"), ("step", np.ones(2)), ("step", -5), ("step", 1.5),
        ("experiment", 5), ("experiment", np.ones(3)), ("experiment", "{"), ("sums/rows", "x"), ("sums/loss", "x"),
        ("best/value", "x"), ("optimizer/steps", "x"), ("optimizer/steps", -3), ("history/loss", 3),
        ("history/loss", "x"), ("history/loss", np.ones(9)), ("optimizer/first_moment/affine_1.bias", np.ones(3)),
    ],
)  # fmt: skip
def test_an_invalid_run_state_is_rejected(key, value):
    specnet.train(document(), out="r", listeners=[stop_after(7)])
    model = specnet.load("r/last.h5")
    model.run_state[key] = value
    specnet.save("r/last.h5", model)
    with pytest.raises(specnet.SpecnetError) as caught:
        specnet.train(document(), out="r", resume=True)
    assert isinstance(caught.value, specnet.CheckpointMismatchError) or "optimizer's state" in str(caught.value)


def test_some_changes_are_allowed_on_resume():
    specnet.train(document(every_steps=1), out="r", listeners=[stop_after(7)])
    changed = document(batch_size=8, optimizer={"type": "adam", "learning_rate": 0.1})
    with pytest.raises(specnet.CheckpointMismatchError, match="--allow-changes"):
        specnet.train(changed, out="r", resume=True)
    result = specnet.train(changed, out="r", resume=True, allow_changes=True)
    assert result.finished
    assert "training.batch_size was 16, is 8" in result.changes
    assert any("learning_rate was 0.001, is 0.1" in change for change in result.changes)
    assert specnet.load("r/last.h5").run_state["step"] == 7 - 2 + 2 + 2 * 10  # the second epoch was restarted
    for other in (document(optimizer="sgd"), {**document(), "model": {**document()["model"], "seed": 5}}):
        with pytest.raises(specnet.CheckpointMismatchError) as caught:
            specnet.train(other, out="r", resume=True, allow_changes=True)
        assert "--allow-changes" not in str(caught.value)


OPTIMIZERS = [
    {"type": "sgd", "momentum": 0.9, "nesterov": True},
    {"type": "adam"},
    {"type": "adamw"},
    {"type": "rmsprop", "momentum": 0.5},
    {"type": "adagrad"},
    {"type": "lion"},
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("optimizer", "every_steps"),
    [*zip(OPTIMIZERS, (1, 4, 2, 3, 7, 5), strict=True)],
    ids=[o["type"] for o in OPTIMIZERS],
)
def test_a_repeatedly_killed_run_ends_with_the_same_bytes(python, optimizer, every_steps):
    doc = document(epochs=50, optimizer=optimizer, every_steps=every_steps)
    train_with_kills(python, doc, seed=2, kills=3, delays=(0.3, 0.7))
    for name in ("last.h5", "best.h5"):
        assert Path(f"whole/{name}").read_bytes() == Path(f"killed/{name}").read_bytes()


# ---------------------------------------------------------------- replay


def copy_checkpoints_at(*steps):
    """Return a listener that copies the checkpoints written at these steps."""

    def listen(event):
        if event.kind == "step" and event.run.step in steps:
            Path(f"r/{event.run.step}.h5").write_bytes(Path("r/last.h5").read_bytes())

    return listen


@pytest.mark.parametrize("optimizer", one_by_default(OPTIMIZERS), ids=lambda optimizer: optimizer["type"])
def test_a_replay_reproduces_the_same_bits(optimizer):
    from specnet.training.runs.replay import replay

    specnet.train(document(optimizer=optimizer, every_steps=1), out="r", listeners=[copy_checkpoints_at(3, 8)])
    before = {path.name: path.read_bytes() for path in Path("r").iterdir()}
    for begin, end, steps in (("3", "8", (3, 8)), ("3", "last", (3, 15)), ("8", "8", (8, 8))):
        result = replay(f"r/{begin}.h5", f"r/{end}.h5")
        assert (result.first_step, result.last_step) == steps
        assert result.same
        assert result.machine == ()
        assert len(result.compared) > 12
    assert {path.name: path.read_bytes() for path in Path("r").iterdir()} == before


def test_a_replay_reports_differences(monkeypatch):
    from specnet.training.runs.replay import replay

    specnet.train(document(every_steps=1), out="r", listeners=[copy_checkpoints_at(3, 8)])
    model = specnet.load("r/8.h5")
    model.parameters["affine_1.bias"][0] += 1e-6
    model.run_state["machine"] = json.dumps({**json.loads(model.run_state["machine"]), "threads": 99})
    specnet.save("r/8.h5", model)
    result = replay("r/3.h5", "r/8.h5")
    assert result.different == ("affine_1.bias",)
    assert len(result.machine) == 1
    assert result.machine[0].startswith("threads was 99, is ")
    with pytest.raises(specnet.CheckpointMismatchError, match="swap the two"):
        replay("r/8.h5", "r/3.h5")
    specnet.save("r/other.h5", specnet.build(model.spec))
    with pytest.raises(specnet.CheckpointMismatchError, match="no run"):
        replay("r/3.h5", "r/other.h5")
    specnet.train(document(every_steps=1, batch_size=8), out="s")
    with pytest.raises(specnet.CheckpointMismatchError, match="batch_size"):
        replay("r/3.h5", "s/last.h5", "s/experiment.json")
