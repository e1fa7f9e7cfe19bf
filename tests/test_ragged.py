"""Rows of differing length: arrays of lengths in .npz and .h5 files, lists in .parquet files, padded for the model."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import specnet
from specnet import DataError, SpecError
from specnet.data.conform import conform_targets
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.losses import SoftmaxCrossEntropy
from tests.commands import run_specnet

LENGTHS = np.array([3, 1, 5, 2, 4, 5, 1, 2, 3, 4])
STEPS = int(LENGTHS.sum())
TARGETS = np.arange(10) % 2


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def steps(seed=0, features=2):
    return np.random.default_rng(seed).normal(size=(STEPS, features)).astype(np.float32) + 0.001


def document(layers=None, entry=None, shape=(5, 2), **training):
    return {
        "name": "ragged",
        "model": {
            "input_shape": list(shape),
            "layers": layers or [{"type": "mask"}, {"type": "gru", "units": 4}, {"type": "affine", "units": 2}],
        },
        "data": {"train": entry or {"path": "d.npz", "lengths": "n"}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 4, **training},
    }


def loaded(spec):
    return load_data(*load_experiment(spec))


def refusal(spec):
    with pytest.raises(DataError) as caught:
        loaded(spec)
    return str(caught.value)


def split_rows(x):
    return np.split(x, np.cumsum(LENGTHS)[:-1])


def test_rows_are_padded_at_the_end_with_the_value_of_the_mask():
    x = steps()
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    layers = [{"type": "mask", "value": 0.1}, {"type": "last_step"}, {"type": "affine", "units": 2}]
    data = loaded(document(layers)).train
    assert data.inputs.shape == (10, 5, 2)
    for row, expected in zip(data.inputs, split_rows(x), strict=True):
        assert np.array_equal(row[: len(expected)], expected)
        assert (row[len(expected) :] == np.float32(0.1)).all()
    model = specnet.build(specnet.ModelSpec(input_shape=(5, 2), layers=layers))
    assert model.mask_of(data.inputs).sum(axis=1).tolist() == LENGTHS.tolist()
    double = document(layers)
    double["model"]["dtype"] = "float64"  # 0.1 of float32 would be another number
    assert (loaded(double).train.inputs[1, 1:] == 0.1).all()


def test_npz_h5_and_parquet_files_hold_the_same_rows():
    import h5py

    x = steps()
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    with h5py.File("d.h5", "w") as file:
        file.update({"x": x, "y": TARGETS, "n": LENGTHS})
    rows = split_rows(x)
    pl.DataFrame({"x": [row.tolist() for row in rows], "y": TARGETS}).write_parquet("d.parquet")
    columns = {f"x{at}": [row[:, at].tolist() for row in rows] for at in (0, 1)}
    pl.DataFrame({**columns, "y": TARGETS}).write_parquet("columns.parquet")
    array = pl.Series("x", [row.tolist() for row in rows], dtype=pl.List(pl.Array(pl.Float32, 2)))
    pl.DataFrame([array, pl.Series("y", TARGETS)]).write_parquet("array.parquet")
    entries = [{"path": "d.npz", "lengths": "n"}, {"path": "d.h5", "lengths": "n"}]
    entries += [{"path": f"{name}.parquet"} for name in ("d", "columns", "array")]
    data = [loaded(document(entry=entry)).train for entry in entries]
    assert len({rows.fingerprint() for rows in data}) == 1


def test_padding_changes_no_result():
    """Rows of equal length, with and without steps of padding behind them, train to the same bits."""
    x = np.random.default_rng(0).normal(size=(10, 3, 2)).astype(np.float32)
    np.savez("plain.npz", x=x, y=TARGETS)
    np.savez("d.npz", x=x.reshape(30, 2), y=TARGETS, n=np.full(10, 3))
    plain = specnet.train(document(entry={"path": "plain.npz"}, shape=(3, 2)), out="a").model
    padded = specnet.train(document(shape=(5, 2)), out="b").model
    for name, array in plain.parameters.items():
        assert np.allclose(array, padded.parameters[name], atol=1e-6), name


def test_a_target_for_each_step():
    x = steps()
    y = np.arange(STEPS) % 3
    np.savez("d.npz", x=x, y=y, n=LENGTHS)
    layers = [
        {"type": "mask"}, {"type": "lstm", "units": 4, "return_sequences": True}, {"type": "affine", "units": 3}
    ]  # fmt: skip
    data = loaded(document(layers)).train
    for row, expected in zip(data.targets, split_rows(y), strict=True):
        assert row.tolist() == [*expected, *[0] * (5 - len(expected))]
    names = np.array(["a", "b", "c"])[y]
    pl.DataFrame(
        {"x": [row.tolist() for row in split_rows(x)], "y": [row.tolist() for row in split_rows(names)]}
    ).write_parquet("d.parquet")
    named = loaded(document(layers, {"path": "d.parquet"}))
    assert named.experiment.model.labels == ("a", "b", "c")
    assert np.array_equal(named.train.targets, data.targets)
    np.savez("d.npz", x=x, y=x[:, 0], n=LENGTHS)
    layers[-1] = {"type": "affine", "units": 1}
    numbers = loaded(document(layers, loss="mean_squared_error", metrics=["mae"])).train.targets
    assert numbers.shape == (10, 5, 1)
    assert np.array_equal(numbers[0, :3, 0], x[:3, 0])
    assert not numbers[0, 3:].any()
    np.savez("d.npz", x=x, y=data.targets, n=LENGTHS)  # padded already
    layers[-1] = {"type": "affine", "units": 3}
    assert np.array_equal(loaded(document(layers)).train.targets, data.targets)
    np.savez("d.npz", x=x, y=y[:-1], n=LENGTHS)
    assert refusal(document(layers)) == "d.npz: targets: expected 30, one for each step of the inputs, got 29"
    np.savez("d.npz", x=x, y=np.where(np.arange(STEPS) == 4, 3, y), n=LENGTHS)
    assert "targets: row 3, column 1: expected a class from 0 to 2, got 3" in refusal(document(layers))


def test_plain_arrays_with_a_class_for_each_step():
    spec = specnet.ModelSpec(
        input_shape=(4, 2),
        layers=[{"type": "gru", "units": 3, "return_sequences": True}, {"type": "affine", "units": 3}],
    )
    y = np.arange(20).reshape(5, 4) % 3
    assert np.array_equal(conform_targets(y, spec, SoftmaxCrossEntropy(), 5, "f"), y)
    assert np.array_equal(conform_targets(y[..., np.newaxis], spec, SoftmaxCrossEntropy(), 5, "f"), y)
    with pytest.raises(DataError, match=r"one class index for each of the 4 steps of a row, got shape \(5,\)"):
        conform_targets(y[:, 0], spec, SoftmaxCrossEntropy(), 5, "f")
    history = specnet.fit(
        specnet.build(spec), np.random.default_rng(0).normal(size=(5, 4, 2)), y, loss="softmax_cross_entropy", epochs=1
    )
    assert 0 <= history["accuracy"][0] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": [3, 6, 1, 20]}, "d.npz: row 2: expected 1 to 5 steps, the model's time axis, got 6; cut it, or set the"),
        ({"n": [3, 0, 1, 20]}, "d.npz: row 2: expected 1 to 5 steps, the model's time axis, got 0; leave the row out"),
        ({"n": LENGTHS[:-1]}, "d.npz: the lengths of 9 rows are 26 steps together, but the inputs have 30"),
        ({"n": LENGTHS.astype(float)}, "d.npz: lengths: expected an integer for each row, got float64 of shape (10,)"),
        ({"n": LENGTHS[np.newaxis]}, "d.npz: lengths: expected an integer for each row, got int64 of shape (1, 10)"),
        ({"x": np.zeros((STEPS, 3))}, "expected all steps one behind the other, (steps, 2), got (30, 3)"),
        ({"x": np.array(["a"] * STEPS)}, "d.npz: inputs: expected numbers, got <U1"),
        ({"y": TARGETS[:-1]}, "d.npz: targets: expected 10 rows, like the inputs, got 9"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    np.savez("d.npz", **{"x": steps(), "y": TARGETS, "n": LENGTHS, **change})
    assert message in refusal(document())


def test_digits_that_float32_loses_are_refused_though_padding_widens_the_range():
    times = np.concatenate([1.7e9 + np.arange(length) for length in LENGTHS])  # all rows start alike
    np.savez("d.npz", x=np.stack([times, times], 1), y=TARGETS, n=LENGTHS)
    assert "too close together for float32" in refusal(document())


def test_a_step_that_looks_like_padding_is_refused():
    x = steps()
    x[6] = 0
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    assert refusal(document()) == (
        "d.npz: row 3, step 3: is 0, which marks padding, so it would be left out; "
        "choose a value of the mask layer that no step has"
    )
    x[6, 1] = 1  # one of two features
    x[3] = 0
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    assert refusal(document()).startswith("d.npz: row 2, step 1: is 0")
    x[3] = 1
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    assert len(loaded(document()).train) == 10
    layers = [{"type": "embedding", "vocabulary": 9, "dimension": 2, "mask_index": 4}, {"type": "last_step"}]
    integers = np.arange(STEPS) % 4
    np.savez("d.npz", x=integers, y=TARGETS, n=LENGTHS)
    data = loaded(document([*layers, {"type": "affine", "units": 2}], shape=(5,))).train
    assert data.inputs[1].tolist() == [3, 4, 4, 4, 4]
    integers[29] = 4
    np.savez("d.npz", x=integers, y=TARGETS, n=LENGTHS)
    message = refusal(document([*layers, {"type": "affine", "units": 2}], shape=(5,)))
    assert message.startswith("d.npz: row 10, step 4: is 4, which marks padding")
    assert message.endswith("choose a mask_index of the embedding that no step has")


def test_a_model_that_knows_no_padding_takes_only_rows_of_full_length():
    np.savez("d.npz", x=steps(), y=TARGETS, n=LENGTHS)
    layers = [{"type": "gru", "units": 4}, {"type": "affine", "units": 2}]
    message = 'row 1 has 3 of 5 steps, and the model does not know which steps are padding; begin with {"type": "mask"}'
    assert message in refusal(document(layers))
    np.savez("d.npz", x=steps(), y=TARGETS[:6], n=np.full(6, 5))
    assert np.array_equal(loaded(document(layers)).train.inputs.reshape(STEPS, 2), steps())


def test_scale_must_not_change_the_padding():
    x = np.random.default_rng(0).integers(1, 256, (STEPS, 2)).astype(np.uint8)
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    entry = {"path": "d.npz", "lengths": "n", "scale": 255}
    data = loaded(document(entry=entry)).train
    assert data.stored.dtype == np.uint8
    assert np.array_equal(data.inputs[0, :3], (x[:3] / np.float32(255)).astype(np.float32))
    layers = [{"type": "mask", "value": -1}, {"type": "last_step"}, {"type": "affine", "units": 2}]
    assert "scale divides the padding, -1, too" in refusal(document(layers, entry))


def test_lists_of_parquet_files_that_do_not_fit():
    def message(x, y=(0, 1)):
        pl.DataFrame({"x": x, "y": list(y)}).write_parquet("d.parquet")
        return refusal(document(entry={"path": "d.parquet"}))

    assert 'row 2, column "x": a list is missing; leave the row out' in message([[[1.0, 2.0]], None])
    assert 'row 2, column "x": expected a list of at least one step' in message([[[1.0, 2.0]], []])
    assert 'row 2, step 1, column "x": expected 2 numbers, got 1' in message([[[1.0, 2.0]], [[1.0]]])
    assert 'row 2, step 2, column "x": a number is missing' in message([[[1.0, 2.0]], [[1.0, 2.0], [3.0, None]]])
    assert 'row 1, column "y": expected a list of 2, like the others, got 1' in message(
        [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0]]], [[0], [1]]
    )
    pl.DataFrame({"a": [[1.0]], "b": [[1.0, 2.0]], "y": [0]}).write_parquet("d.parquet")
    assert 'column "b": expected a list of 1, like the others, got 2' in refusal(document(entry={"path": "d.parquet"}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "d.npz", "lengths": "n", "window": 3}, "windows over a series have no lengths"),
        ({"inputs": "x.npy", "targets": "y.npy", "lengths": "n"}, "name the file under path"),
    ],
)
def test_keys_that_contradict_are_problems_of_the_document(entry, message):
    with pytest.raises(SpecError, match=message):
        load_experiment(document(entry=entry))


def test_a_number_of_a_list_that_is_not_finite_is_located():
    pl.DataFrame({"x": [[[1.0, 2.0]], [[1.0, 2.0], [3.0, float("nan")]]], "y": [0, 1]}).write_parquet("d.parquet")
    message = "d.parquet: inputs: row 2, column 2, 2: expected a finite number, got nan"
    assert refusal(document(entry={"path": "d.parquet"})) == message


def test_a_separate_file_for_validation_has_lengths_too():
    np.savez("d.npz", x=steps(), y=TARGETS, n=LENGTHS)
    np.savez("v.npz", x=steps(1), y=TARGETS, n=LENGTHS[::-1])
    spec = document()
    spec["data"]["validation"] = {"path": "v.npz"}
    assert np.array_equal(loaded(spec).validation.inputs[0, :4], steps(1)[:4])


def test_lengths_are_read_into_memory_and_only_from_files_of_arrays():
    np.savez("d.npz", x=steps(), y=TARGETS, n=LENGTHS)
    entry = {"path": "d.npz", "lengths": "n", "in_memory": False}
    assert "with lengths, inputs are in memory" in refusal(document(entry=entry))
    Path("d.csv").write_text("x,y,n\n1,0,1\n")
    assert "only .npz and .h5 files have an array of lengths" in refusal(
        document(entry={"path": "d.csv", "lengths": "n"})
    )
    assert 'there is no array "m"' in refusal(document(entry={"path": "d.npz", "lengths": "m"}))


def test_a_resumed_run_ends_with_the_same_bytes():
    np.savez("d.npz", x=steps(), y=TARGETS, n=LENGTHS, w=np.arange(1.0, 11))
    entry = {"path": "d.npz", "lengths": "n", "weights": "w"}
    spec = document(entry=entry, epochs=4)
    spec["data"]["validation"] = {"fraction": 0.3}
    specnet.train(spec, out="whole")
    specnet.train({**spec, "training": {**spec["training"], "epochs": 4}}, out="parts", listeners=[stop_at(3)])
    specnet.train(spec, out="parts", resume=True)
    for name in ("last.h5", "best.h5"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


def stop_at(step):
    return lambda event: event.run.stop() if event.run.step >= step else None


def test_train_and_predict_as_commands():
    x = steps()
    np.savez("d.npz", x=x, y=TARGETS, n=LENGTHS)
    Path("e.json").write_text(json.dumps(document()))
    assert run_specnet("validate", "e.json")[0] == 0
    code, _, err = run_specnet("train", "e.json")
    assert code == 0, err
    code, out, err = run_specnet("predict", "runs/ragged/last.h5", "--data", "d.npz", "--targets", "y", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["rows"] == 10
    model = specnet.load("runs/ragged/last.h5")
    outputs = [row["outputs"] for row in answer["predictions"]]
    for row, output in zip(split_rows(x), outputs, strict=True):  # as without padding
        logits = model.predict(np.vstack([row, np.zeros((5 - len(row), 2), np.float32)])[np.newaxis])[0]
        assert np.allclose(np.exp(logits) / np.exp(logits).sum(), output, atol=1e-6)
    assert "far outside" not in err
    # rows that are padded already, in a file without lengths
    padded = loaded(document()).train.inputs
    np.savez("padded.npz", x=padded)
    code, _, err = run_specnet("predict", "runs/ragged/last.h5", "--data", "padded.npz", "--out", "p.npz")
    assert code == 0, err
    assert np.allclose(np.load("p.npz")["outputs"], outputs, atol=1e-6)
    np.savez("bad.npz", x=x, n=LENGTHS + 1)
    code, _, err = run_specnet("predict", "runs/ragged/last.h5", "--data", "bad.npz")
    assert code == 1
    assert "bad.npz: row 3: expected 1 to 5 steps" in err


def test_h5_files_with_lengths_are_not_streamed_when_predicting():
    import h5py

    x = steps()
    with h5py.File("d.h5", "w") as file:
        file.update({"x": x, "y": TARGETS, "n": LENGTHS})
    spec = document(entry={"path": "d.h5", "lengths": "n"}, epochs=1)
    specnet.train(spec, out="r")
    code, _, err = run_specnet("predict", "r/last.h5", "--data", "d.h5", "--out", "p.h5")
    assert code == 0, err
    with h5py.File("p.h5") as file:
        assert file["outputs"].shape == (10, 2)
