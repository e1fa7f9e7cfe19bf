"""Test specnet init, which writes documents for a data file that can be trained without edits."""

import json
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import DataError, SpecnetError
from specnet.training.runs.scaffold import scaffold

pl = pytest.importorskip("polars", reason="polars is not installed")


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frame(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.uniform(10, 90, rows)
    kind = np.array(["low", "mid", "high"])[np.digitize(a + 0.02 * b, [0.6, 1.4])]
    price, count = 30_000 + 9_000 * a - 200 * b, rng.integers(3, 7, rows)
    columns = {"a": a, "b": b, "same": 1, "who": [f"n{i}" for i in range(rows)]}
    return pl.DataFrame({**columns, "kind": kind, "price": price, "flag": a > 0, "count": count})


@pytest.mark.full
def test_text_targets_make_a_classifier():
    frame().drop("price", "flag", "count").write_csv("d.csv")
    scaffolded = scaffold("d.csv", "kind")
    model = json.loads(Path("d.model.json").read_text())
    assert model["layers"][0] == {"type": "standardize"}
    assert model["labels"] == ["high", "low", "mid"]
    experiment = json.loads(Path("d.experiment.json").read_text())
    assert experiment["data"]["train"] == {"path": "d.csv", "targets": "kind", "inputs": ["a", "b"]}
    assert "who" in scaffolded.notes[1]
    assert "same" in scaffolded.notes[2]
    result = specnet.train(scaffolded.experiment_path)
    assert result.history["val_accuracy"][-1] > 0.85
    assert specnet.load(result.best_path).spec.labels == ("high", "low", "mid")


def test_real_targets_make_a_regression():
    frame(600).drop("kind", "who").write_parquet("d.parquet")
    scaffolded = scaffold("d.parquet", "price", out="docs")
    assert scaffolded.experiment["data"]["train"]["path"] == "../d.parquet"
    assert scaffolded.experiment["training"]["loss"] == "mean_squared_error"
    result = specnet.train("docs/d.experiment.json", out="r")
    assert max(result.history["val_r2"]) > 0.9


@pytest.mark.parametrize(("target", "classes"), [("flag", None), ("count", ["3", "4", "5", "6"])])
def test_targets_with_few_values_are_classes(target, classes):
    frame().write_csv("d.csv")
    scaffolded = scaffold("d.csv", target, inputs=["a", "b"])
    assert scaffolded.model.get("labels") == classes
    assert scaffolded.model["layers"][-1]["units"] == len(classes or "01")
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "2"}).finished


def test_classes_counted_from_zero_need_no_labels(digits):
    scaffolded = scaffold(digits / "digits.npz", "y")
    assert "labels" not in scaffolded.model
    assert scaffolded.model["input_shape"] == [64]
    history = specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "3"}).history
    assert history["val_accuracy"][-1] > 0.9


def test_pictures_are_flattened():
    rng = np.random.default_rng(0)
    np.savez("d.npz", x=rng.normal(size=(60, 4, 5)), y=rng.normal(size=60))
    scaffolded = scaffold("d.npz", "y")
    assert [layer["type"] for layer in scaffolded.model["layers"][:2]] == ["standardize", "flatten"]
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "1"}).finished


def test_missing_values_are_filled_with_the_median():
    data = frame().with_columns(pl.when(pl.col("b") > 50).then(None).otherwise(pl.col("b")).alias("b"))
    data.write_csv("d.csv")
    scaffolded = scaffold("d.csv", "kind", inputs=["a", "b"])
    assert scaffolded.experiment["data"]["train"]["fill"] == {"a": data["a"].median(), "b": data["b"].median()}
    assert "filled with the column's median: b" in scaffolded.notes[1]
    assert specnet.train(scaffolded.experiment_path, overrides={"training.epochs": "1"}).finished


def test_unsuitable_data_files_are_rejected():
    frame().write_csv("d.csv")
    with pytest.raises(DataError, match=r'no column "kin"; did you mean "kind"'):
        scaffold("d.csv", "kin")
    with pytest.raises(DataError, match='"who": expected a number'):
        scaffold("d.csv", "kind", inputs=["a", "who"])
    with pytest.raises(DataError, match="every row has the target 1"):
        scaffold("d.csv", "same")
    scaffold("d.csv", "kind")
    before = Path("d.model.json").read_text()
    with pytest.raises(SpecnetError, match="already present; force"):
        scaffold("d.csv", "price")
    assert Path("d.model.json").read_text() == before
    scaffold("d.csv", "price", force=True)
    frame(5).write_csv("few.csv")
    with pytest.raises(DataError, match="at least 10 rows"):
        scaffold("few.csv", "price")
