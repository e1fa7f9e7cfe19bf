"""scikit-learn: import of its multi-layer perceptrons, and estimators that train specnet models.

`SpecClassifier` and `SpecRegressor` follow scikit-learn's rules for estimators (its `check_estimator` passes), so they
work in pipelines, grid searches and cross-validation. They need the extra `sklearn`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from specnet.arrays.conversion import as_array
from specnet.data.dataset import Dataset
from specnet.data.labels import index_labels
from specnet.errors import DataError, SpecnetError
from specnet.interop.imported_model import Arrays, Imported, fill_model, spec_of_layers, unsupported
from specnet.model import Model, build
from specnet.spec.model_spec import ModelSpec, load_spec
from specnet.training.losses.spec import LOSSES
from specnet.training.runs.fit import fit
from specnet.training.runs.run_state import feature_state

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    MISSING = "scikit-learn of at least 1.6 is not installed; pip install 'specnet-nn[sklearn]'"
    raise SpecnetError(MISSING) from error

_ACTIVATIONS = {"logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "softmax": "softmax"}


def from_sklearn(estimator: Any) -> Imported:
    """Convert a fitted MLPClassifier or MLPRegressor; the model predicts what predict_proba, or predict, returns.

    For a binary classifier, that is the probability of the second class. Raises CheckpointUnsupportedError for another
    estimator, and SpecnetError for one that has not been fitted.
    """
    name = type(estimator).__name__
    if name not in ("MLPClassifier", "MLPRegressor"):
        raise unsupported(name, "expected a fitted MLPClassifier or MLPRegressor of scikit-learn")
    if not hasattr(estimator, "coefs_"):
        msg = f"{name} has not been fitted; call fit(X, y) first"
        raise SpecnetError(msg)
    layers: list[dict[str, Any]] = []
    arrays: Arrays = {}
    activations = [estimator.activation] * (len(estimator.coefs_) - 1) + [estimator.out_activation_]
    for number, (weight, bias, activation) in enumerate(
        zip(estimator.coefs_, estimator.intercepts_, activations, strict=True), 1
    ):
        layers.append({"type": "affine", "name": f"affine_{number}", "units": weight.shape[1]})
        arrays |= {f"affine_{number}.weight": weight, f"affine_{number}.bias": bias}
        if activation not in ("identity", *_ACTIVATIONS):
            raise unsupported(
                name, f"specnet has no layer for its activation {activation!r}; train it with another loss"
            )
        if activation != "identity":
            layers.append({"type": _ACTIVATIONS[activation]})
    classes = getattr(estimator, "classes_", None)
    labels = [str(label) for label in classes] if classes is not None else []
    if estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1:  # independent binary labels
        labels = []
    notes: list[str] = []
    dtype = "float32" if estimator.coefs_[0].dtype == np.float32 else "float64"
    spec = spec_of_layers(name, estimator.coefs_[0].shape[:1], layers, dtype=dtype, labels=labels)
    return Imported(fill_model(name, spec, arrays, notes), tuple(notes))


class _Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of both estimators: stores their settings, and builds and trains the network."""

    def __init__(
        self,
        model: Any = None,
        *,
        hidden_units: Sequence[int] = (32,),
        activation: str | Mapping[str, Any] = "relu",
        loss: str | Mapping[str, Any] | None = None,
        optimizer: str | Mapping[str, Any] = "adam",
        learning_rate: float | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        validation_fraction: float | None = None,
        training: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.hidden_units = hidden_units
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.training = training
        self.random_state = random_state

    def _network(self, x: npt.NDArray[Any], width: int, seed: int) -> Model:
        """Build the model of `model`, or one of hidden layers with `hidden_units` and `width` outputs."""
        if self.model is not None:
            return build(_load_model_spec(self.model), seed)
        layers: list[dict[str, Any]] = []
        for units in self.hidden_units:
            activation = {"type": self.activation} if isinstance(self.activation, str) else dict(self.activation)
            layers += [{"type": "affine", "units": int(units)}, activation]
        layers.append({"type": "affine", "units": width})
        dtype = "float32" if x.dtype == np.float32 else "float64"
        return build(ModelSpec(input_shape=x.shape[1:], layers=layers, dtype=dtype), seed)  # type: ignore[arg-type]

    def _train(self, x: npt.NDArray[Any], y: npt.NDArray[Any], width: int, loss: str | Mapping[str, Any]) -> Self:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = self._network(x, width, seed)
        y = self._targets(model, y, width)
        optimizer: Any = {"type": self.optimizer} if isinstance(self.optimizer, str) else dict(self.optimizer)
        if self.learning_rate is not None:
            optimizer["learning_rate"] = self.learning_rate
        settings = {"seed": seed, **(self.training or {})}
        history = fit(
            model,
            x,
            y,
            loss=loss,
            optimizer=optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            validation=self.validation_fraction,
            **settings,
        )
        names = getattr(self, "feature_names_in_", None)
        if names is not None:  # so that the command finds the columns, too
            model.run_state = feature_state(Dataset(x, y, None, tuple(names)))
        self.model_ = model
        self.history_ = history
        self.n_iter_ = len(history["loss"])
        return self

    def _targets(self, model: Model, y: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
        """Return the targets in the form in which `specnet.fit` takes them for this model. Raises DataError."""
        return y

    def _outputs(self, x: Any) -> npt.NDArray[Any]:
        check_is_fitted(self)
        refuse_masked(x)
        return self.model_.predict(validate_data(self, x, reset=False, **_float_dtypes()))


def refuse_masked(*arrays: Any) -> None:
    """Check that no mask hides a value, because scikit-learn ignores masks. Raises ShapeError."""
    for array in arrays:
        if isinstance(array, np.ma.MaskedArray):
            as_array(array, "fit and predict")


def _float_dtypes() -> dict[str, Any]:
    return {"dtype": [np.float64, np.float32]}


def _load_model_spec(model: Any) -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, Mapping):
        return ModelSpec(**model)
    if isinstance(model, (str, os.PathLike)):
        return load_spec(model)
    msg = f"model: expected a ModelSpec, a document or the path of one, got {type(model).__name__}"
    raise SpecnetError(msg)


class SpecClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier whose network is a model document, or layers of `hidden_units`, trained as by `specnet.fit`.

    `model` is a ModelSpec, a document as a mapping, or its path; it outputs logits, one for each class. `loss`,
    `optimizer` and `training` are as in an experiment document; `learning_rate` replaces the optimizer's. `fit` sets
    `classes_`, `model_` (a specnet Model, which can be saved), `history_` and `n_iter_` (epochs).
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's names
        """Train on X (rows, features), y (rows,) of any label type. Raises ValueError or its subclass SpecnetError."""
        refuse_masked(X, y)
        x, y = validate_data(self, X, y, **_float_dtypes())
        check_classification_targets(y)
        self.classes_, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            msg = "SpecClassifier needs samples of at least 2 classes, got 1 class"
            raise ValueError(msg)
        if self._loss_type() == "binary_cross_entropy":
            if len(self.classes_) > 2:
                msg = f"binary_cross_entropy is for 2 classes, got {len(self.classes_)}; use softmax_cross_entropy"
                raise ValueError(msg)
            return self._train(x, indices.reshape(-1, 1).astype(np.float64), 1, self._loss())
        return self._train(x, indices, len(self.classes_), self._loss())

    def _targets(self, model: Model, y: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
        """Return class indices, or names if the model's document has any; its outputs must be the sorted classes."""
        labels = model.spec.labels
        if model.output_shape != (width,):
            msg = f"y has {len(self.classes_)} classes, the model's outputs have the shape {model.output_shape}"
            raise DataError(msg)
        if labels and index_labels(self.classes_, labels, "y").tolist() != list(range(len(labels))):
            msg = f"the labels of the model are {', '.join(labels)}; write them in the order of the sorted classes of y"
            raise DataError(msg)
        return np.array(labels)[y.astype(np.int64)] if labels else y

    def _loss(self) -> str | Mapping[str, Any]:
        return self.loss or "softmax_cross_entropy"

    def _loss_type(self) -> str:
        loss = self._loss()
        return loss if isinstance(loss, str) else str(loss.get("type"))

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the probability of each class, (rows, classes), in the order of `classes_`."""
        outputs = self._outputs(X)
        probabilities = LOSSES[self._loss_type()]().build().probabilities(outputs)
        if probabilities.shape[1] == 1:  # the probability of the second class
            return np.concatenate([1 - probabilities, probabilities], axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the natural logarithm of the probabilities, (rows, classes)."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the most probable class of each row, (rows,)."""
        indices = self.predict_proba(X).argmax(axis=1)
        classes: npt.NDArray[Any] = self.classes_[indices]
        return classes


class SpecRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A regressor whose network is a model document, or layers of `hidden_units`, trained as by `specnet.fit`.

    It has SpecClassifier's settings and attributes except `classes_`; the default loss is the mean squared error.
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's names
        """Train on X (rows, features), y (rows,) or (rows, targets). Raises ValueError or its subclass SpecnetError."""
        refuse_masked(X, y)
        x, y = validate_data(self, X, y, multi_output=True, y_numeric=True, **_float_dtypes())
        self._flat = y.ndim == 1
        targets = y.reshape(len(y), -1).astype(np.float64, copy=False)
        return self._train(x, targets, targets.shape[1], self.loss or "mean_squared_error")

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the outputs: (rows,) if `fit` got y of shape (rows,), else (rows, targets)."""
        outputs = self._outputs(X)
        return outputs.reshape(len(outputs)) if self._flat else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
