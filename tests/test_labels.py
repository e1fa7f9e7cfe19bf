"""Test which class a target names: text, numbers, booleans, and names that look equal."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import DataError
from specnet.data.conform import conform_targets
from specnet.data.labels import class_names, few_rows, near_equal
from specnet.prediction.predict import predict_file
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.losses import BinaryCrossEntropy, SoftmaxCrossEntropy


def decomposed(text):
    return unicodedata.normalize("NFD", text)


def classes(values, labels, loss=None, units=None):
    layers = [{"type": "affine", "units": units or len(labels)}]
    spec = specnet.ModelSpec(input_shape=(1,), layers=layers, labels=list(labels))
    values = np.asarray(values)
    return conform_targets(values, spec, loss or SoftmaxCrossEntropy(), len(values), "d").reshape(-1).tolist()


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        (["1", "2"], ["1", "2", "3", "4+"], [0, 1]),
        (["1.0", "02"], ["1", "2", "3", "4+"], [0, 1]),
        (["9007199254740993", "9007199254740992.0"], ["9007199254740992", "9007199254740993"], [1, 0]),
        ([9007199254740993], ["9007199254740992", "9007199254740993"], [1]),
        ([1, 2], ["1", "2", "3"], [0, 1]),
        ([1.0, 3.0], ["1", "2", "3"], [0, 2]),
        ([0, 2], ["0", "1", "2"], [0, 2]),
        ([0, 1], ["1", "0"], [1, 0]),
        ([0, 1], ["cat", "dog"], [0, 1]),
        ([0.2, 0.1], ["0.1", "0.2"], [1, 0]),
        (np.array([0.2, 0.1], np.float32), ["0.1", "0.2"], [1, 0]),
        ([True, False], ["true", "false"], [0, 1]),
        (["true", "FALSE"], ["True", "False"], [0, 1]),
        ([True, False], ["0", "1"], [1, 0]),
        ([b"caf\xc3\xa9"], ["café", "thé"], [0]),
        ([decomposed("thé"), " café "], ["café", "thé"], [1, 0]),
        (["café"], [decomposed("café"), "thé"], [0]),
        (["a", "a "], ["a", "a "], [0, 1]),
    ],
)
def test_targets_are_looked_up_by_the_names_of_the_classes(values, labels, expected):
    assert classes(values, labels) == expected


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 2], ["1", "2", "3", "4+"]),
        ([1.0, 2.0], ["1", "2", "3", "4+"]),
        ([0, 1], ["true", "false"]),
        ([True, False], ["1", "0"]),
        ([True, False], ["1", "4+"]),
        ([True, False], ["yes", "no"]),
        ([True, False], ["cat", "dog"]),
        ([0, 1], ["12", "unknown"]),
    ],
)
def test_a_number_that_may_be_a_name_or_an_index_is_rejected(values, labels):
    with pytest.raises(DataError, match=r"may be (a name or an index|either); give the names as text"):
        classes(values, labels)


@pytest.mark.parametrize(
    ("values", "labels", "pattern"),
    [
        (["0", "dog"], ["cat", "dog"], 'row 1: "0" is not one of the labels'),
        (["cat", "2"], ["cat", "dog"], 'row 2: "2" is not one of the labels'),
        (["0", "1"], ["cat", "dog"], '"0" is not one of the labels'),
        ([0, 2], ["cat", "dog"], "expected a class from 0 to 1, got 2"),
        ([1, 4], ["1", "2"], 'row 2: "4" is not one of the labels'),
        ([b"\xff"], ["cat", "dog"], "not UTF-8 text"),
        (["maybe"], ["true", "false"], '"maybe" is not one of'),
        (["1", "01"], ["1", "1.0"], 'row 2: "01" is not one of the labels'),
        (["12345678901234567891"], ["12345678901234567890", "1"], "is not one of the labels"),
    ],
)
def test_names_of_no_class_are_rejected(values, labels, pattern):
    with pytest.raises(DataError, match=pattern):
        classes(values, labels)


def test_binary_targets_are_looked_up_too():
    assert classes(["true", "false"], ["true", "false"], BinaryCrossEntropy(), 1) == [0, 1]
    assert classes([0.0, 0.25], ["no", "yes"], BinaryCrossEntropy(), 1) == [0, 0.25]
    assert classes([0.5, 0.25], ["0", "1"], BinaryCrossEntropy(), 1) == [0.5, 0.25]
    for values in ([0, 1], [0.5, 0.25]):
        with pytest.raises(DataError, match="may be a name or an index"):
            classes(values, ["true", "false"], BinaryCrossEntropy(), 1)
    assert classes([0.0, 1.0], ["1", "0"], BinaryCrossEntropy(), 1) == [1, 0]
    with pytest.raises(DataError, match=r'row 3: "0\.9" is not one of the labels'):
        classes([0.0, 1.0, 0.9], ["1", "0"], BinaryCrossEntropy(), 1)


label = st.one_of(
    st.sampled_from(["true", "False", "0", "1", "2", "10", "1.5", "-1", "4+", "n/a", "é", "ﬁ"]),
    st.text(st.characters(exclude_characters="\0"), max_size=3),
)


@given(st.lists(label.filter(lambda text: text.strip()), min_size=2, max_size=5, unique=True), st.data())
def test_the_class_of_a_name_does_not_depend_on_the_other_rows(labels, data):
    """The same name means the same class, whichever names a file happens to hold."""
    chosen = data.draw(st.lists(st.sampled_from(labels), min_size=1, max_size=6))
    assert [labels[index] for index in classes(chosen, labels)] == chosen


@given(st.lists(label, min_size=2, max_size=4, unique=True), st.lists(st.integers(0, 12), min_size=2, max_size=6))
def test_an_integer_means_the_same_in_every_subset_of_the_rows(labels, values):
    try:
        together = classes(values, labels)
    except DataError:
        return
    assert together == [classes([value], labels)[0] for value in values]


def test_names_that_look_equal_are_one_class():
    assert class_names(np.array(["café", decomposed("café"), "café ", "thé"]), "d") == ("café", "thé")
    (note,) = near_equal(["Cat", "cat", "dog", "fish"])
    assert 'the classes "Cat", "cat" differ only in case, spacing or the form of characters' in note
    assert list(near_equal(["a", "b", "A b"])) == []
    assert len(list(near_equal(["x y", "xy", "ﬁ", "fi"]))) == 2


def test_classes_of_few_rows_are_listed():
    (note,) = few_rows(np.array([0] * 9 + [2]), ["a", "b", "c"], 3)
    assert note == "classes of fewer than 5 rows to train on: b (0), c (1)"
    assert list(few_rows(np.array([0] * 9 + [1] * 5), [], 2)) == []


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_every_class_keeps_a_row_to_train_on(tmp_path, stratify, loss):
    y = np.zeros(60, int)
    y[37] = 1
    np.savez(tmp_path / "d.npz", x=np.arange(60.0)[:, None], y=y)
    units = 2 if loss == "softmax_cross_entropy" else 1
    for seed in range(12):
        document = {
            "model": {"input_shape": [1], "layers": [{"type": "affine", "units": units}]},
            "data": {
                "train": {"path": str(tmp_path / "d.npz")},
                "validation": {"fraction": 0.4, "stratify": stratify},
            },
            "training": {"loss": loss, "seed": seed},
        }
        notes = []
        _, train, validation = load_data(*load_experiment(document), notes.append)
        assert 1 in train.targets
        assert (len(train), len(validation)) == (36, 24)
        rows = sorted([*train.inputs.reshape(-1), *validation.inputs.reshape(-1)])
        assert rows == list(range(60))
        assert any("1 (1)" in note for note in notes)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_each_class_is_held_out_in_proportion(tmp_path, loss):
    np.savez(tmp_path / "d.npz", x=np.arange(100.0)[:, None], y=(np.arange(100) < 10).astype(int))
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2 if "soft" in loss else 1}]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}, "validation": {"fraction": 0.2}},
        "training": {"loss": loss},
    }
    for seed in range(5):
        document["training"]["seed"] = seed
        _, _, validation = load_data(*load_experiment(document))
        assert (len(validation), int(validation.targets.sum())) == (20, 2)


def test_validation_rows_have_the_weights_of_the_training_rows(tmp_path):
    rows = {"x": np.arange(6.0)[:, None], "y": np.arange(6) % 2}
    np.savez(tmp_path / "train.npz", **rows, w=np.arange(1.0, 7))
    np.savez(tmp_path / "weighted.npz", **rows, w=np.arange(2.0, 8))
    np.savez(tmp_path / "plain.npz", **rows)
    np.savez(tmp_path / "bad.npz", **rows, w=np.array([1, np.nan, 1, 1, 1, 1]))
    for name, weights in (("weighted", [2, 3, 4, 5, 6, 7]), ("plain", None), ("bad", "row 2")):
        notes = []
        document = {
            "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}]},
            "data": {
                "train": {"path": str(tmp_path / "train.npz"), "weights": "w"},
                "validation": {"path": str(tmp_path / f"{name}.npz")},
            },
            "training": {"loss": "softmax_cross_entropy"},
        }
        if weights == "row 2":
            with pytest.raises(DataError, match="weights: row 2: expected a finite number"):
                load_data(*load_experiment(document))
            continue
        validation = load_data(*load_experiment(document), notes.append).validation
        assert (validation.weights if weights is None else validation.weights.tolist()) == weights
        assert any('no weights "w"; every validation row counts alike' in note for note in notes) == (weights is None)


def test_numbers_that_are_read_as_indices_are_noted(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(12.0)[:, None], y=np.arange(12) % 2)
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}], "labels": ["no", "yes"]},
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    notes = []
    load_data(*load_experiment(document), notes.append)
    assert any(note.endswith("d.npz: the targets are read as indices: 0 = no, 1 = yes") for note in notes)
    model = specnet.train(document, out=tmp_path / "run").model
    predicted = predict_file(model, tmp_path / "d.npz", "x", "y")
    assert "the targets are read as indices: 0 = no, 1 = yes" in predicted.notes


def test_targets_in_another_order_are_rejected(tmp_path):
    pytest.importorskip("polars")
    (tmp_path / "d.csv").write_text("a,u,v\n" + "".join(f"{i},{i},{-i}\n" for i in range(12)))
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}]},
        "data": {"train": {"path": str(tmp_path / "d.csv"), "targets": ["u", "v"]}},
        "training": {"loss": "mean_squared_error", "epochs": 1},
    }
    model = specnet.train(document, out=tmp_path / "run").model
    assert predict_file(model, tmp_path / "d.csv", targets=["u", "v"]).metrics
    for order in (["v", "u"], [" v", "u "]):
        with pytest.raises(DataError, match="trained on the targets u,v, in this order; write --targets u,v"):
            predict_file(model, tmp_path / "d.csv", targets=order)


def test_outputs_of_a_model_without_a_run_are_told_from_probabilities(tmp_path):
    layers = [{"type": "affine", "units": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(1,), layers=layers, labels=["no", "yes"]))
    np.save(tmp_path / "x.npy", np.ones((3, 1)))
    assert "not probabilities" in predict_file(model, tmp_path / "x.npy").notes[0]
    assert predict_file(model, tmp_path / "x.npy", logits=True).notes == ()


def run_of_csv(tmp_path, train, other, labels):
    (tmp_path / "train.csv").write_text("a,y\n" + "".join(f"{i},{name}\n" for i, name in enumerate(train)))
    (tmp_path / "other.csv").write_text("a,y\n" + "".join(f"{i},{name}\n" for i, name in enumerate(other)))
    width = len(labels or set(train))
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": width}], "labels": labels},
        "data": {"train": {"path": str(tmp_path / "train.csv")}, "validation": {"path": str(tmp_path / "other.csv")}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    return load_data(*load_experiment(document))


@pytest.mark.parametrize(
    ("train", "other", "labels", "expected"),
    [
        (["1", "2", "3", "4+"], ["1", "2", "1"], [], [0, 1, 0]),
        (["true", "false"], ["false", "true"], ["true", "false"], [1, 0]),
        (["a", "b"], ["b", '"b"', " a"], [], [1, 1, 0]),
        (["2", "1", "x"], ["2", "1"], [], [1, 0]),
        (["0", "1"], ["1", "1"], [], [1, 1]),
        (["cat", "dog"], ["1", "0"], [], [1, 0]),
        (["01", "1"], ["1", "01"], [], [1, 0]),
    ],
)
def test_a_second_file_is_read_with_the_names_of_the_first(tmp_path, train, other, labels, expected):
    pytest.importorskip("polars")
    assert run_of_csv(tmp_path, train, other, labels).validation.targets.tolist() == expected


def test_metrics_of_predictions_use_the_names_of_the_model(tmp_path):
    pytest.importorskip("polars")
    rows = "".join(f"{index % 2 * 4 - 2},{['9', '10+'][index % 2]}\n" for index in range(40))
    (tmp_path / "d.csv").write_text("a,y\n" + rows)
    (tmp_path / "nines.csv").write_text("a,y\n-2,9\n-2,9\n")
    document = {
        "model": {"input_shape": [1], "layers": [{"type": "affine", "units": 2}]},
        "data": {"train": {"path": str(tmp_path / "d.csv")}},
        "training": {
            "loss": "softmax_cross_entropy",
            "optimizer": {"type": "adam", "learning_rate": 0.1},
            "epochs": 40,
        },
    }
    model = specnet.train(document, out=tmp_path / "run").model
    assert predict_file(model, tmp_path / "nines.csv", targets="y").metrics["accuracy"] == 1
    np.savez(tmp_path / "n.npz", x=[[-2.0]], y=[9])
    with pytest.raises(DataError, match="may be a name or an index"):
        predict_file(model, tmp_path / "n.npz", "x", "y")
