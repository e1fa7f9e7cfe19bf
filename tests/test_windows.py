"""Windows over a long series as rows: inputs, targets, the last part for validation, memory, and predictions."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import DataError, SpecError
from specnet.data.dataset import Order
from specnet.data.sequences.windows import WindowedDataset, Windows, last_part
from specnet.mpi.batch_shares import BatchShare
from specnet.mpi.world import World
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.runs.dry_run import dry_run
from tests.commands import run_specnet


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def document(entry, shape, outputs, validation=None, **training):
    reshape = [{"type": "flatten"}] if len(shape) > 1 else []
    units = int(np.prod(outputs))
    ends = [{"type": "reshape", "shape": list(outputs)}] if len(outputs) > 1 else []
    return {
        "name": "series",
        "model": {
            "dtype": "float64",
            "input_shape": list(shape),
            "layers": [*reshape, {"type": "affine", "units": units}, *ends],
        },
        "data": {"train": entry, "validation": validation},
        "training": {"loss": "mean_squared_error", "epochs": 1, "batch_size": 4, **training},
    }


def loaded(*arguments, **settings):
    return load_data(*load_experiment(document(*arguments, **settings)))


def refusal(*arguments, **settings):
    with pytest.raises(DataError) as caught:
        loaded(*arguments, **settings)
    return str(caught.value)


def rows_of(data):
    """Return inputs and targets of all rows, by the definition of the key, not by the views."""
    return [(row.tolist(), target.tolist()) for row, target in zip(data.inputs, data.targets, strict=True)]


SERIES = np.arange(20.0) ** 2


@pytest.mark.parametrize(
    ("horizon", "outputs"), [(None, (1,)), (1, (1,)), (0, (1,)), (3, (3,)), (3, (3, 1)), (2, (2,))]
)
def test_a_forecast_of_one_series(horizon, outputs):
    np.savez("d.npz", x=SERIES)
    entry = {"path": "d.npz", "window": 5, **({} if horizon is None else {"horizon": horizon})}
    data = loaded(entry, (5,), outputs).train
    ahead = 1 if horizon is None else horizon
    expected = []
    for start in range(20 - 5 - ahead + 1):
        first = start + 5 if ahead else start + 4
        expected.append((SERIES[start : start + 5].tolist(), SERIES[first : first + max(ahead, 1)]))
    assert [row for row, _ in rows_of(data)] == [row for row, _ in expected]
    assert np.array_equal(data.targets, np.array([target for _, target in expected]).reshape(-1, *outputs))


def test_all_formats_make_the_same_windows():
    import h5py
    import polars as pl

    x = np.random.default_rng(0).normal(size=(30, 2))
    np.savez("d.npz", x=x)
    np.save("d.npy", x)
    with h5py.File("d.h5", "w") as file:
        file["x"] = x
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    frame.write_csv("d.csv")
    frame.write_parquet("d.parquet")
    window = {"window": 4, "horizon": 2}
    entries = [{"path": f"d.{kind}"} for kind in ("npz", "h5", "csv", "parquet")] + [{"inputs": "d.npy"}]
    data = [loaded({**entry, **window}, (4, 2), (2, 2)).train for entry in entries]
    assert len({rows.fingerprint() for rows in data}) == 1
    assert np.array_equal(data[0].inputs[7], x[7:11])
    assert np.array_equal(data[0].targets[7], x[11:13])
    flat = loaded({**entries[0], **window}, (4, 2), (4,)).train
    assert np.array_equal(flat.targets[7], x[11:13].reshape(-1))


def test_named_targets_and_classes():
    lines = [f"{at},{at * 10},{'up' if at % 3 else 'down'}" for at in range(12)]
    Path("d.csv").write_text("\n".join(["load,price,state", *lines]) + "\n")
    entry = {"path": "d.csv", "inputs": ["load", "price"], "targets": "price", "window": 3}
    data = loaded(entry, (3, 2), (1,)).train
    assert data.names == ("load", "price")
    assert rows_of(data)[2] == ([[2, 20], [3, 30], [4, 40]], [50])
    for horizon, first in ((0, 2), (1, 3)):
        entry = {"path": "d.csv", "inputs": "load", "targets": "state", "window": 3, "horizon": horizon}
        run = loaded(entry, (3, 1), (2,), loss="softmax_cross_entropy")
        assert run.experiment.model.labels == ("down", "up")
        assert run.train.targets.tolist() == [int(at % 3 > 0) for at in range(first, 12)]
    entry["horizon"] = 2
    message = refusal(entry, (3, 1), (2,), loss="softmax_cross_entropy")
    assert "a window has one class, that of its last step (horizon 0) or of the next (1)" in message


def test_bytes_stay_bytes_and_are_scaled():
    x = np.random.default_rng(0).integers(0, 256, 40).astype(np.uint8)
    np.savez("d.npz", x=x, y=x / 255)
    data = loaded({"path": "d.npz", "targets": "y", "window": 4, "scale": 255}, (4,), (1,)).train
    assert data.stored.dtype == np.uint8
    for block in data.blocks(4, Order(0, 0)):
        assert np.allclose(block.inputs[:, 1:], np.roll(block.inputs, -1, 1)[:, :3])
        assert block.inputs.max() <= 1
    assert np.array_equal(data.rows(slice(3, 5)).inputs, np.stack([x[3:7], x[4:8]]) / 255)


@pytest.mark.parametrize(("window", "horizon", "fraction"), [(5, 1, 0.3), (5, 0, 0.3), (3, 4, 0.25), (6, 2, 0.01)])
def test_validation_is_the_last_part_of_the_series_and_no_training_window_reaches_into_it(window, horizon, fraction):
    np.savez("d.npz", x=np.arange(60.0))
    entry = {"path": "d.npz", "window": window, "horizon": horizon}
    run = loaded(entry, (window,), (max(horizon, 1),), {"fraction": fraction})
    part = max(round(60 * fraction), horizon, 1)
    first = 60 - part  # values are the numbers of the steps
    assert run.train.inputs.max() < first
    assert run.train.targets.max() == first - 1
    assert run.validation.targets.min() == first
    assert run.validation.targets.max() == 59
    steps = [row[1] for row in rows_of(run.validation)]
    assert len(steps) == part - max(horizon, 1) + 1
    assert run.train.inputs[0, 0] == 0
    assert len(run.train) == 60 - part - window - horizon + 1


def test_a_series_too_short_is_refused():
    np.savez("d.npz", x=np.arange(10.0))
    entry = {"path": "d.npz", "window": 8, "horizon": 3}
    assert refusal(entry, (8,), (3,)) == (
        "d.npz: 10 steps are too few for a window of 8 and a target of 3 more; use a longer series"
    )
    entry["horizon"] = 1
    assert "d.npz: of 10 steps, the last 5 are for validation, and the others hold no window of 8 steps" in refusal(
        entry, (8,), (1,), {"fraction": 0.5}
    )
    with pytest.raises(DataError, match="hold out fewer"):
        last_part(2, Windows(8, 1), 0.2, "d.npz")


@pytest.mark.parametrize(
    ("entry", "outputs", "message"),
    [
        ({"window": 4}, (1,), r"the model expects shape (batch, 5), got windows of shape (4,); set input_shape to [4]"),
        ({"inputs": "two", "window": 5}, (2,), "got windows of shape (5, 2)"),
        ({"horizon": 3, "window": 5}, (2,), "3 steps are 3 numbers, and the model's outputs have shape (batch, 2)"),
        ({"targets": "two", "window": 5}, (1,), "1 steps of 2 columns are 2 numbers"),
        ({"targets": "short", "window": 5}, (1,), "targets: expected 20 steps, like the inputs, got 19"),
        ({"inputs": "nan", "window": 5}, (1,), "inputs: row 8: expected a finite number, got nan"),
        ({"targets": "nan", "window": 5}, (1,), "targets: row 8: expected a finite number, got nan"),
        ({"window": 5, "in_memory": False}, (1,), "with window, inputs are in memory; leave in_memory out"),
    ],
)
def test_what_does_not_fit_is_refused(entry, outputs, message):
    broken = SERIES.copy()
    broken[7] = np.nan
    np.savez("d.npz", x=SERIES, two=np.stack([SERIES, SERIES], 1), short=SERIES[1:], nan=broken)
    assert message in refusal({"path": "d.npz", **entry}, (5,), outputs)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "d.npz", "horizon": 2}, "horizon is for windows over a series; add window"),
        ({"path": "d.npz", "window": 5, "weights": "w"}, "windows over a series have no weights"),
        ({"path": "d.npz", "window": 0}, "window: expected a positive integer, got the integer 0"),
        ({"path": "d.npz", "window": 5, "horizon": -1}, "horizon: expected an integer of at least 0"),
    ],
)
def test_keys_that_contradict_are_problems_of_the_document(entry, message):
    with pytest.raises(SpecError, match=message):
        load_experiment(document(entry, (5,), (1,)))


def test_a_separate_series_for_validation_is_windowed_alike():
    np.savez("d.npz", x=SERIES)
    np.savez("later.npz", x=SERIES[::-1].copy())
    run = loaded({"path": "d.npz", "window": 5, "horizon": 2}, (5,), (2,), {"path": "later.npz"})
    assert len(run.validation) == len(run.train) == 14
    assert run.validation.inputs[0, 0] == SERIES[-1]


def test_no_copy_of_all_windows_is_made():
    """A window of 256 steps, 2 MB of series: copied, the windows would be 512 MB."""
    np.savez("d.npz", x=np.zeros(2**18))
    entry, settings = {"path": "d.npz", "window": 256, "horizon": 16}, {"validation": {"fraction": 0.2}}
    tracemalloc.start()
    run = loaded(entry, (256,), (16,), **settings)
    assert isinstance(run.train, WindowedDataset)
    for order in (Order(0, 0), None):
        for at, block in enumerate(run.train.blocks(32, order)):
            assert block.inputs.flags.c_contiguous
            if at == 20:
                break
    run.train.features()
    run.train.fingerprint()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**18 * 30
    Path("e.json").write_text(json.dumps(document(entry, (256,), (16,), batch_size=2**16)))
    assert dry_run("e.json").memory["rows"] < 8 * 2**18 * 3


def test_shuffled_blocks_and_shares_of_processes_hold_the_windows():
    class Second(World):
        size, rank = 2, 1

    np.savez("d.npz", x=SERIES)
    data = loaded({"path": "d.npz", "window": 5}, (5,), (1,)).train
    order = Order(3, 1)
    blocks = [(b.inputs.copy(), b.targets.copy()) for b in data.blocks(4, order)]
    x = np.concatenate([inputs for inputs, _ in blocks])
    assert sorted(x[:, 0].tolist()) == SERIES[:15].tolist()
    for row, target in zip(x, np.concatenate([targets for _, targets in blocks]), strict=True):
        first = int(np.sqrt(row[0]))
        assert np.array_equal(row, SERIES[first : first + 5])
        assert target == SERIES[first + 5]
    part = np.concatenate([block.inputs for block in data.blocks(4, order, share=BatchShare(Second(), 4))])
    assert np.array_equal(part, x[[2, 3, 6, 7, 10, 11, 13, 14]])


def test_without_kernels_the_same_rows_are_gathered(monkeypatch):
    np.savez("d.npz", x=SERIES)
    data = loaded({"path": "d.npz", "window": 5}, (5,), (1,)).train
    monkeypatch.setattr("specnet.kernels.gather", lambda *_: False)
    for block in data.blocks(4, Order(9, 9)):
        for row, target in zip(block.inputs, block.targets, strict=True):
            first = int(np.sqrt(target[0])) - 5
            assert np.array_equal(row, SERIES[first : first + 5])


def test_an_input_far_outside_the_range_is_named_by_its_place_in_the_window():
    rows = [f"{at % 5},{at % 7}" for at in range(40)]
    Path("d.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    specnet.train(document({"path": "d.csv", "window": 3}, (3, 2), (2,)), out="r")
    rows[0] = "1,1000"
    Path("d.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    code, _, err = run_specnet("predict", "r/last.h5", "--data", "d.csv", "--out", "p.npy")
    assert code == 0, err
    assert "1 of 38 rows have inputs far outside the range of the training rows: row 1, input 2 is 1000" in err


def test_train_resume_predict_and_replay_as_commands():
    x = np.sin(np.arange(120) / 5)
    np.save("d.npy", x)
    Path("d.csv").write_text("wave\n" + "\n".join(map(str, x)) + "\n")
    spec = document({"inputs": "d.npy", "window": 6, "horizon": 2}, (6,), (2,), {"fraction": 0.25}, epochs=4)
    Path("e.json").write_text(json.dumps(spec))
    assert run_specnet("train", "e.json", "--out", "whole")[0] == 0
    code, _, err = run_specnet("train", "e.json", "--out", "parts", "--set", "training.epochs=2")
    assert code == 0, err
    code, _, err = run_specnet("train", "e.json", "--out", "parts", "--resume")
    assert code == 0, err
    assert Path("whole/best.h5").read_bytes() == Path("parts/best.h5").read_bytes()
    assert run_specnet("replay", "whole/last.h5", "whole/last.h5")[0] == 0
    model = specnet.load("whole/last.h5")
    expected = model.predict(np.lib.stride_tricks.sliding_window_view(x, 6))
    for out in ("p.npy", "p.csv"):  # the first could be streamed, and must be windowed too
        code, _, err = run_specnet("predict", "whole/last.h5", "--data", "d.npy", "--out", out)
        assert code == 0, err
        assert "115 rows" in err
    assert np.allclose(np.load("p.npy"), expected)
    with Path("p.csv").open() as file:
        assert len(list(csv.reader(file))) == 116
    code, out, err = run_specnet("predict", "whole/last.h5", "--data", "d.npy", "--targets", "d.npy", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["rows"] == 113
    truth = np.lib.stride_tricks.sliding_window_view(x[6:], 2)
    assert answer["metrics"]["loss"] == pytest.approx(np.mean((expected[:113] - truth) ** 2))
    code, _, err = run_specnet("report", "whole", "--data", "d.csv", "--out", "r.html")
    assert code == 0, err
    assert "d.csv: ignored for whole, because the report evaluates only classifiers" in err
    code, _, err = run_specnet("predict", "whole/last.h5", "--data", "d.csv", "--out", "t.npy")
    assert code == 0, err
    assert np.allclose(np.load("t.npy"), expected)


def test_the_report_measures_a_classifier_of_windows_on_the_last_part():
    from specnet.inspection.classification import classify

    x = np.sin(np.arange(200) / 5)
    np.savez("d.npz", x=x, y=(x > 0).astype(int))
    entry = {"path": "d.npz", "targets": "y", "window": 6, "horizon": 0}
    spec = document(entry, (6,), (2,), {"fraction": 0.25}, loss="softmax_cross_entropy", epochs=2)
    model = specnet.train(spec, out="r").model
    found = classify(model, "d.npz")
    assert found.rows == 50
    assert found.note.startswith("These are the rows held out for validation, 50 of 195")
