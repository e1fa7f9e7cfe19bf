"""Test data frames and masked arrays as inputs and targets, in specnet.fit, predict and the estimators."""

import numpy as np
import pytest

import specnet
from specnet import DataError, ShapeError
from tests.commands import run_specnet

X = np.random.default_rng(0).normal(size=(120, 3))
Y = (X[:, 0] > 0).astype(int)
COLUMNS = ["a", "größe", "c"]


def make_frame(library, values=X, columns=COLUMNS):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "pandas":
        return frames.DataFrame(values, columns=list(columns))
    return frames.DataFrame(values, schema=list(columns))


def frame_with_equal_names(library):
    if library == "polars":
        pytest.skip("polars refuses equal names")
    return make_frame(library, X, ["a", "b", "a"])


def classifier():
    return specnet.build(specnet.ModelSpec(input_shape=(3,), layers=[{"type": "affine", "units": 2}]))


def fit(model, x, y=Y, **options):
    return specnet.fit(model, x, y, loss="softmax_cross_entropy", **{"epochs": 1, **options})


libraries = pytest.mark.parametrize("library", ["pandas", "polars"])


@libraries
def test_columns_are_found_by_name(tmp_path, library):
    frame = make_frame(library)
    model = classifier()
    fit(model, frame)
    expected = model.predict(X.astype(np.float32))
    assert np.array_equal(model.predict(frame), expected)
    turned = make_frame(library, X[:, [2, 0, 1, 1]], ["c", " a", "größe", "more"])
    assert np.array_equal(model.predict(turned), expected)
    assert np.array_equal(model.forward(turned), expected)
    with pytest.raises(ShapeError, match=r'not in the data frame: "größe"; got a, c, b'):
        model.predict(make_frame(library, X, ["a", "c", "b"]))
    specnet.save(tmp_path / "m.h5", model)
    loaded = specnet.load(tmp_path / "m.h5")
    assert np.array_equal(loaded.predict(turned), expected)
    history = fit(loaded, turned, validation=(turned, Y))
    assert history["val_loss"]
    with pytest.raises(DataError, match="not in the data frame"):
        fit(loaded, make_frame(library, X, ["a", "c", "b"]))
    with pytest.raises(DataError, match="not in the data frame"):
        fit(loaded, turned, validation=(make_frame(library, X, ["a", "c", "b"]), Y))
    fit(loaded, X)  # an array has no names, and the model keeps those that it knows
    assert np.array_equal(loaded.predict(turned), loaded.predict(X.astype(np.float32)))
    with pytest.raises(DataError, match="two columns of the data frame have the same name"):
        fit(classifier(), frame_with_equal_names(library))


def test_the_command_finds_the_columns_of_a_fitted_model(tmp_path):
    pl = pytest.importorskip("polars", reason="polars is not installed")
    model = classifier()
    fit(model, make_frame("polars"))
    specnet.save(tmp_path / "m.h5", model)
    turned = pl.DataFrame({"größe": X[:, 1], "c": X[:, 2], "more": X[:, 1], "a": X[:, 0]})
    turned.write_csv(tmp_path / "d.csv")
    code, _, errors = run_specnet("predict", "m.h5", "--data", "d.csv", "--out", "p.npy", cwd=tmp_path)
    assert code == 0, errors
    assert np.array_equal(np.load(tmp_path / "p.npy"), model.predict(X))
    for command in (
        ["inspect", "m.h5"],
        ["summary", "m.h5"],
        ["diff", "m.h5", "m.h5"],
        ["report", "m.h5", "-o", "r.html"],
    ):
        code, _, errors = run_specnet(*command, cwd=tmp_path)
        assert code == 0, (command, errors)
    code, _, errors = run_specnet("replay", "m.h5", "m.h5", cwd=tmp_path)
    assert code == 1
    assert "Traceback" not in errors


def test_nullable_columns_without_a_gap_are_numbers():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pd.DataFrame({"a": pd.array(range(120), "Int64"), "b": X[:, 0], "c": pd.array(X[:, 1], "Float64")})
    model = classifier()
    fit(model, frame, pd.Series(Y, dtype="Int64"))
    assert model.predict(frame).shape == (120, 2)
    fit(model, frame, pd.Series(["0", "1"] * 60, dtype="category").astype(int))
    frame.loc[7, "a"] = pd.NA
    with pytest.raises(DataError, match="fit: inputs: row 8: a value is missing"):
        fit(model, frame)
    with pytest.raises(ShapeError, match="row 8: a value is missing"):
        model.predict(frame)
    gap = pd.Series(Y, dtype="Int64")
    gap[3] = pd.NA
    with pytest.raises(DataError, match="fit: targets: row 4: "):
        fit(model, X, gap)


def test_missing_values_of_polars_are_rejected():
    pl = pytest.importorskip("polars", reason="polars is not installed")
    frame = make_frame("polars").with_columns(pl.when(pl.col("a") < 2).then(pl.col("a")))
    frame[3, "a"] = None
    with pytest.raises(DataError, match='row 4, column "a": expected a finite number, got nan'):
        fit(classifier(), frame)
    with pytest.raises(DataError, match="row 2: a value is missing"):
        fit(classifier(), X, pl.Series(["0", None] * 60))


def test_a_column_of_text_is_named():
    pl = pytest.importorskip("polars", reason="polars is not installed")
    frame = make_frame("polars").with_columns(pl.Series("c", ["x", "y"] * 60))
    with pytest.raises(DataError, match=r'inputs: expected numbers, got the string "x" in row 1, column "c"'):
        fit(classifier(), frame)


def test_a_list_of_two_is_a_pair_of_arrays():
    assert fit(classifier(), X, validation=[X, Y])["val_loss"]


def test_text_labels_in_frames():
    pl = pytest.importorskip("polars", reason="polars is not installed")
    layers = [{"type": "affine", "units": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(3,), layers=layers, labels=["1", "2+"]))
    fit(model, X, pl.Series(["1", "2+"] * 60))
    with pytest.raises(DataError, match="may be a name or an index"):
        fit(model, X, pl.Series([0, 1] * 60))


hiding = pytest.mark.parametrize("hides", [True, False])


@hiding
def test_masks_that_hide_values_are_rejected(hides):
    mask = (2 if hides else 99) < X
    x, y = np.ma.masked_array(X, mask), np.ma.masked_array(Y, mask[:, 0])
    model = classifier()
    calls = {
        "inputs": lambda: fit(model, x),
        "targets": lambda: fit(model, X, y),
        "weights": lambda: fit(model, X, weights=np.ma.masked_array(np.ones(120), mask[:, 0])),
        "validation": lambda: fit(model, X, validation=(x, Y)),
        "predict": lambda: model.predict(x),
        "forward": lambda: model.forward(x),
        "backward": lambda: (model.forward(X), model.backward(x[:, :2]))[1],
        "layer": lambda: model.layers[0].forward(x.astype(np.float32)),
    }
    for name, call in calls.items():
        if hides:
            with pytest.raises(specnet.SpecnetError, match=r"the mask hides \d+ values; fill them"):
                call()
        else:
            call()
        assert name


@hiding
def test_estimators_reject_masks_that_hide_values(hides):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from specnet.interop.sklearn import SpecClassifier, SpecRegressor

    mask = (2 if hides else 99) < X
    x, y = np.ma.masked_array(X, mask), np.ma.masked_array(Y, mask[:, 0])
    fitted = SpecClassifier(epochs=1).fit(X, Y)
    for call in (
        lambda: SpecClassifier(epochs=1).fit(x, Y),
        lambda: SpecClassifier(epochs=1).fit(X, y),
        lambda: SpecRegressor(epochs=1).fit(X, y),
        lambda: fitted.predict_proba(x),
    ):
        if hides:
            with pytest.raises(ValueError, match="the mask hides"):
                call()
        else:
            call()


def test_estimators_check_the_labels_of_a_document():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from specnet.interop.sklearn import SpecClassifier

    def estimator(labels, units=2):
        document = {"input_shape": [3], "layers": [{"type": "affine", "units": units}], "labels": labels}
        return SpecClassifier(document, epochs=1)

    names = np.array(["no", "yes"])[Y]
    assert estimator(["no", "yes"]).fit(X, names).model_.spec.labels == ("no", "yes")
    assert estimator(["false", "true"]).fit(X, Y > 0).classes_.tolist() == [False, True]
    assert estimator(["3", "5"]).fit(X, Y * 2 + 3).classes_.tolist() == [3, 5]
    assert estimator(["no", "yes"]).fit(X, Y).classes_.tolist() == [0, 1]
    for labels, y, pattern in (
        (["yes", "no"], names, "in the order of the sorted classes"),
        (["1", "4+"], Y, "may be a name or an index"),
        (["a", "b"], names, '"no" is not one of the labels'),
    ):
        with pytest.raises(ValueError, match=pattern):
            estimator(labels).fit(X, y)
    with pytest.raises(ValueError, match="y has 2 classes, the model's outputs have the shape"):
        estimator([], 3).fit(X, Y)


def test_estimators_remember_the_columns():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from specnet.interop.sklearn import SpecClassifier

    model = SpecClassifier(epochs=1).fit(make_frame("polars"), Y).model_
    turned = make_frame("polars", X[:, ::-1], COLUMNS[::-1])
    assert np.array_equal(model.predict(turned), model.predict(X))
