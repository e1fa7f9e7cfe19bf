"""specnet init: documents for a data file, which train as they are."""

import json
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import DataError, SpecnetError
from specnet.training.runs.scaffold import scaffold

pl = pytest.importorskip("polars", reason="polars is not installed")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frame(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.uniform(10, 90, rows)
    kind = np.array(["low", "mid", "high"])[np.digitize(a + 0.02 * b, [0.6, 1.4])]
    price, count = 30_000 + 9_000 * a - 200 * b, rng.integers(3, 7, rows)
    columns = {"a": a, "b": b, "same": 1, "who": [f"n{i}" for i in range(rows)]}
    return pl.DataFrame({**columns, "kind": kind, "price": price, "flag": a > 0, "count": count})


def test_a_classifier_of_text():
    frame().drop("price", "flag", "count").write_csv("d.csv")
    made = scaffold("d.csv", "kind")
    model = json.loads(Path("d.model.json").read_text())
    assert model["layers"][0] == {"type": "standardize"}
    assert model["labels"] == ["high", "low", "mid"]
    experiment = json.loads(Path("d.experiment.json").read_text())
    assert experiment["data"]["train"] == {"path": "d.csv", "targets": "kind", "inputs": ["a", "b"]}
    assert "who" in made.notes[1]
    assert "same" in made.notes[2]
    result = specnet.train(made.experiment_path)
    assert result.history["val_accuracy"][-1] > 0.85
    assert specnet.load(result.best_path).spec.labels == ("high", "low", "mid")


def test_a_regression_of_large_numbers():
    frame(600).drop("kind", "who").write_parquet("d.parquet")
    made = scaffold("d.parquet", "price", out="docs")
    assert made.experiment["data"]["train"]["path"] == "../d.parquet"
    assert made.experiment["training"]["loss"] == "mean_squared_error"
    result = specnet.train("docs/d.experiment.json", out="r")
    assert max(result.history["val_r2"]) > 0.9


@pytest.mark.parametrize(("target", "classes"), [("flag", None), ("count", ["3", "4", "5", "6"])])
def test_numbers_of_a_few_values_are_classes(target, classes):
    frame().write_csv("d.csv")
    made = scaffold("d.csv", target, inputs=["a", "b"])
    assert made.model.get("labels") == classes
    assert made.model["layers"][-1]["units"] == len(classes or "01")
    assert specnet.train(made.experiment_path, overrides={"training.epochs": "2"}).finished


def test_classes_counted_from_zero_need_no_labels(digits):
    made = scaffold(digits / "digits.npz", "y")
    assert "labels" not in made.model
    assert made.model["input_shape"] == [64]
    history = specnet.train(made.experiment_path, overrides={"training.epochs": "3"}).history
    assert history["val_accuracy"][-1] > 0.9


def test_pictures_are_made_flat():
    rng = np.random.default_rng(0)
    np.savez("d.npz", x=rng.normal(size=(60, 4, 5)), y=rng.normal(size=60))
    made = scaffold("d.npz", "y")
    assert [layer["type"] for layer in made.model["layers"][:2]] == ["standardize", "flatten"]
    assert specnet.train(made.experiment_path, overrides={"training.epochs": "1"}).finished


def test_missing_values_are_filled_by_declaration():
    data = frame().with_columns(pl.when(pl.col("b") > 50).then(None).otherwise(pl.col("b")).alias("b"))
    data.write_csv("d.csv")
    made = scaffold("d.csv", "kind", inputs=["a", "b"])
    assert made.experiment["data"]["train"]["fill"] == {"b": data["b"].median()}
    assert "filled with the column's median: b" in made.notes[1]
    assert specnet.train(made.experiment_path, overrides={"training.epochs": "1"}).finished


def test_what_cannot_be_begun_with():
    frame().write_csv("d.csv")
    with pytest.raises(DataError, match=r'no column "kin"; did you mean "kind"'):
        scaffold("d.csv", "kin")
    with pytest.raises(DataError, match='"who": expected a number'):
        scaffold("d.csv", "kind", inputs=["a", "who"])
    with pytest.raises(DataError, match="every row has the target 1"):
        scaffold("d.csv", "same")
    scaffold("d.csv", "kind")
    before = Path("d.model.json").read_text()
    with pytest.raises(SpecnetError, match="there already; force"):
        scaffold("d.csv", "price")
    assert Path("d.model.json").read_text() == before
    scaffold("d.csv", "price", force=True)
    frame(5).write_csv("few.csv")
    with pytest.raises(DataError, match="at least 10 rows"):
        scaffold("few.csv", "price")
