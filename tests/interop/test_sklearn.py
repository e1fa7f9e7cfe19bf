"""Test the import of scikit-learn's perceptrons; SpecClassifier and SpecRegressor pass its estimator checks."""

import pickle
import warnings

import numpy as np
import pytest

import specnet

sklearn = pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn 1.6 is not installed")
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from specnet.interop.sklearn import SpecClassifier, SpecRegressor, from_sklearn

X = np.random.default_rng(0).normal(size=(80, 4))
CLASSES = np.array(["ash", "elm", "oak"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0)]


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fitted_perceptrons_are_imported(activation, dtype):
    x = X.astype(dtype)
    settings = {"hidden_layer_sizes": (6, 5), "activation": activation, "max_iter": 20, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training does not converge in twenty epochs
        several = MLPClassifier(**settings).fit(x, CLASSES)
        two = MLPClassifier(**settings).fit(x, CLASSES == "oak")
        labels = MLPClassifier(**settings).fit(x, np.stack([CLASSES == "oak", x[:, 2] > 0], 1).astype(int))
        number = MLPRegressor(**settings).fit(x, x[:, 0])
        numbers = MLPRegressor(**settings).fit(x, x[:, :2])
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for estimator, expected in (
        (several, several.predict_proba(x)),
        (two, two.predict_proba(x)[:, 1:]),
        (labels, labels.predict_proba(x)),
        (number, number.predict(x)[:, np.newaxis]),
        (numbers, numbers.predict(x)),
    ):
        model = from_sklearn(estimator).model
        assert model.dtype == dtype
        assert np.abs(model.predict(x) - expected).max() < tolerance
    assert from_sklearn(several).model.spec.labels == ("ash", "elm", "oak")
    assert from_sklearn(two).model.spec.labels == ("False", "True")
    assert from_sklearn(labels).model.spec.labels == ()


def test_other_and_unfitted_estimators_are_rejected():
    with pytest.raises(specnet.SpecnetError, match="has not been fitted"):
        from_sklearn(MLPClassifier())
    with pytest.raises(specnet.CheckpointError, match="LogisticRegression: expected a fitted MLPClassifier"):
        from_sklearn(LogisticRegression())


@pytest.mark.full
@pytest.mark.parametrize("estimator", [SpecClassifier(), SpecRegressor()], ids=["classifier", "regressor"])
@pytest.mark.filterwarnings("ignore")  # the checks test for warnings themselves
def test_the_estimators_pass_the_checks_of_scikit_learn(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert sum(result["status"] == "passed" for result in results) > 45


def test_the_classifier_works_in_pipelines_searches_and_pickles():
    x, y = load_digits(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), SpecClassifier(hidden_units=(64,), epochs=8, random_state=0))
    assert cross_val_score(pipe, x, y, cv=3).mean() > 0.85
    grid = {"specclassifier__hidden_units": [(8,), (64,)], "specclassifier__learning_rate": [1e-5, 1e-2]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2).fit(x[:600], y[:600])
    assert search.best_params_ == {"specclassifier__hidden_units": (64,), "specclassifier__learning_rate": 1e-2}
    unpickled = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (unpickled.predict_proba(x) == search.best_estimator_.predict_proba(x)).all()


def test_the_classifier_takes_documents_and_losses_and_can_be_saved(tmp_path):
    x, y = load_iris(return_X_y=True)
    document = {
        "input_shape": [4],
        "layers": [{"type": "affine", "units": 16}, {"type": "tanh"}, {"type": "affine", "units": 3}],
    }
    (tmp_path / "m.json").write_text(specnet.ModelSpec(**document).to_json())
    predicted = []
    for model in (document, specnet.ModelSpec(**document), tmp_path / "m.json", str(tmp_path / "m.json")):
        classifier = SpecClassifier(model, epochs=60, learning_rate=0.01, random_state=0).fit(x, y)
        predicted.append(classifier.predict_proba(x))
        assert classifier.n_iter_ == 60
        assert classifier.score(x, y) > 0.9
    assert all((p == predicted[0]).all() for p in predicted)
    specnet.save(tmp_path / "m.h5", classifier.model_)
    assert specnet.load(tmp_path / "m.h5").spec.layers == classifier.model_.spec.layers
    binary = SpecClassifier(loss="binary_cross_entropy", epochs=80, random_state=0).fit(x, y == 0)
    assert binary.model_.output_shape == (1,)
    probabilities = binary.predict_proba(x)
    assert probabilities.shape == (150, 2)
    assert np.allclose(probabilities.sum(1), 1)
    assert binary.score(x, y == 0) > 0.95
    assert np.allclose(np.exp(binary.predict_log_proba(x)), probabilities)
    with pytest.raises(ValueError, match="is for 2 classes, got 3"):
        SpecClassifier(loss="binary_cross_entropy").fit(x, y)
    with pytest.raises(specnet.SpecnetError, match="model: expected a ModelSpec"):
        SpecClassifier(model=3).fit(x, y)
    with pytest.raises(specnet.SpecError, match="patience"):
        SpecClassifier(training={"early_stopping": {"patience": 0}}, validation_fraction=0.2).fit(x, y)


def test_regression_of_several_targets_with_early_stopping():
    x = np.random.default_rng(1).normal(size=(200, 3))
    y = np.stack([x.sum(1), x[:, 0] - x[:, 1]], 1)
    early = {"early_stopping": {"patience": 3}}
    regressor = SpecRegressor(
        epochs=300, learning_rate=0.01, validation_fraction=0.2, training=early, random_state=0
    ).fit(x, y)
    assert regressor.predict(x).shape == (200, 2)
    assert regressor.score(x, y) > 0.95
    assert regressor.n_iter_ < 300
