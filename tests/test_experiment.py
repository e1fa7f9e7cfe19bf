"""Test the experiment document: defaults, error messages and their positions."""

import json

import pytest

import specnet
from specnet import SpecError
from specnet.training.experiment import load_experiment
from specnet.training.spec.experiment_spec import ExperimentSpec

MODEL = {"input_shape": [4], "layers": [{"type": "affine", "units": 3}]}
MINIMAL = {"model": MODEL, "data": {"train": {"path": "d.npz"}}, "training": {"loss": "softmax_cross_entropy"}}


def document_with(path, value):
    document = json.loads(json.dumps(MINIMAL))
    *parents, last = path.split(".")
    target = document
    for key in parents:
        target = target.setdefault(key, {})
    target[last] = value
    return document


def test_defaults_are_filled_in():
    spec, _ = load_experiment(MINIMAL)
    training = spec.training
    assert training.loss.type == "softmax_cross_entropy"
    assert (training.optimizer.type, training.optimizer.learning_rate) == ("adam", 0.001)
    assert (training.epochs, training.batch_size, training.shuffle, training.seed) == (10, 32, True, 0)
    assert (training.checkpoint.every_epochs, training.checkpoint.every_steps) == (1, None)
    assert training.checkpoint.keep_best is None
    spec, _ = load_experiment(document_with("data.validation", {"fraction": 0.2}))
    assert spec.training.checkpoint.keep_best == "validation_loss"
    assert ExperimentSpec.model_validate_json(spec.to_json()) == spec


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lion"])
def test_an_optimizer_name_selects_its_defaults(optimizer):
    spec, _ = load_experiment(document_with("training.optimizer", optimizer))
    assert spec.training.optimizer.type == optimizer


@pytest.mark.parametrize(
    ("path", "value", "error_path", "message_part"),
    [
        ("training.loss", "softmax", "training.loss", "unknown loss"),
        ("training.loss", "mean_squared_eror", "training.loss", 'did you mean "mean_squared_error"'),
        ("training.loss", {"type": "huber", "delta": 0}, "training.loss.delta", "positive number"),
        ("training.optimizer", {"type": "adan"}, "training.optimizer.type", 'did you mean "adam"'),
        ("training.optimizer", {"type": "sgd", "lr": 1}, "training.optimizer.lr", "unknown key"),
        ("training.optimizer", {"type": "sgd", "nesterov": True}, "training.optimizer.nesterov", "momentum"),
        ("training.optimizer", {"type": "adam", "betas": [0.9]}, "training.optimizer.betas", "array of two"),
        ("training.optimizer", {"type": "adam", "betas": [0.9, 1]}, "training.optimizer.betas[1]", "[0, 1)"),
        ("training.epochs", 0, "training.epochs", "positive integer"),
        ("training.epochs", "20", "training.epochs", "20 without quotes"),
        ("training.batch_size", 1.5, "training.batch_size", "positive integer"),
        ("training.shuffle", 1, "training.shuffle", "true or false"),
        ("training.checkpoint", {"keep_best": "val_loss"}, "training.checkpoint.keep_best", "training_loss"),
        ("training.checkpoint", {"keep_best": "best"}, "training.checkpoint.keep_best", "expected"),
        ("training.checkpoint", {"every_epochs": 0}, "training.checkpoint.every_epochs", "positive integer"),
        ("data.train", {}, "data.train", "path"),
        ("data.train", {"path": "d.npz", "inputs": []}, "data.train.inputs", "a name"),
        ("data.train", {"path": "d.npz", "input": "x"}, "data.train.input", 'did you mean "inputs"'),
        ("data.validation", {"fraction": 1}, "data.validation.fraction", "between 0 and 1"),
        ("data.validation", 0.2, "data.validation", "an object"),
        ("name", "../x", "name", "folder"),
        ("model", 3, "model", "a path or a model document"),
        ("model", {**MODEL, "layers": [{"type": "relo"}]}, "model.layers[0].type", 'did you mean "relu"'),
        ("format", "specnet-experiment/9", "format", "newer specnet"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_rejected_with_path_and_position(tmp_path, path, value, error_path, message_part):
    document = document_with(path, value)
    with pytest.raises(SpecError) as caught:
        load_experiment(document)
    assert error_path in [problem.path for problem in caught.value.problems]
    assert message_part in str(caught.value)
    (tmp_path / "e.json").write_text(json.dumps(document, indent=2))
    with pytest.raises(SpecError) as caught_in_file:
        load_experiment(tmp_path / "e.json")
    assert all(problem.line and problem.column for problem in caught_in_file.value.problems)
    assert str(caught_in_file.value).startswith(str(tmp_path / "e.json") + ":")


def test_an_activation_that_the_loss_includes_is_rejected():
    with_softmax = {**MODEL, "layers": [*MODEL["layers"], {"type": "softmax"}]}
    with pytest.raises(SpecError, match=r"training\.loss: .*logits.*softmax; remove that layer"):
        load_experiment(document_with("model", with_softmax))


def test_a_cross_entropy_needs_at_least_two_outputs():
    single_output = {"input_shape": [4], "layers": [{"type": "affine", "units": 1}]}
    with pytest.raises(SpecError, match=r"training\.loss: .*at least 2; .*\(1,\)"):
        load_experiment(document_with("model", single_output))


def test_accuracy_can_be_monitored_only_for_classifiers():
    document = document_with("training.loss", "mean_squared_error")
    document["data"]["validation"] = {"fraction": 0.5}
    document["training"]["checkpoint"] = {"keep_best": "validation_accuracy"}
    with pytest.raises(SpecError, match="accuracy is not measured"):
        load_experiment(document)
    document["training"]["loss"] = "binary_cross_entropy"
    load_experiment(document)


def test_errors_in_the_model_document_name_its_file(digits):
    model = digits / "digits.model.json"
    model.write_text(model.read_text().replace('"units": 256', '"units": "256"'))
    with pytest.raises(SpecError) as caught:
        load_experiment(digits / "digits.experiment.json")
    assert str(caught.value).startswith(f"{model}:10:")
    assert "layers[0].units" in str(caught.value)
    model.unlink()
    with pytest.raises(SpecError, match="cannot be read"):
        load_experiment(digits / "digits.experiment.json")


def test_a_model_document_is_rejected_as_experiment(digits):
    with pytest.raises(SpecError) as caught:
        load_experiment(digits / "digits.model.json")
    assert len(caught.value.problems) == 1
    assert "this is a model document" in str(caught.value)


def test_lone_surrogates_are_reported(tmp_path):
    (tmp_path / "e.json").write_text('{"name": "\\ud800", "training": {}, "\\udc00": 1}')
    with pytest.raises(SpecError) as caught:
        load_experiment(tmp_path / "e.json")
    assert [(p.code, p.column) for p in caught.value.problems] == [("surrogate", 10), ("surrogate", 36)]


def test_overrides_change_single_values():
    spec, _ = load_experiment(
        MINIMAL, {"training.epochs": "3", "training.optimizer.learning_rate": "0.5", "training.optimizer.type": "sgd"}
    )
    assert spec.training.epochs == 3
    assert (spec.training.optimizer.type, spec.training.optimizer.learning_rate) == ("sgd", 0.5)
    with pytest.raises(SpecError, match=r"training\.epochs: expected a positive integer"):
        load_experiment(MINIMAL, {"training.epochs": "many"})
    with pytest.raises(SpecError, match=r"training\.epoch: unknown key; did you mean"):
        load_experiment(MINIMAL, {"training.epoch": "3"})
    with pytest.raises(SpecError, match=r"training\.loss\.x: unknown key; valid: type, label_smoothing"):
        load_experiment(MINIMAL, {"training.loss.x": "3"})  # a loss name abbreviates an object with this type
    spec, _ = load_experiment(MINIMAL, {"training.loss.label_smoothing": "0.1", "model.layers[0].units": "7"})
    assert spec.training.loss.label_smoothing == 0.1
    assert spec.built_model.layers[0].units == 7
    for path in (
        "model.layers[9].units",
        "model.layers.units",
        "training[0]",
        "",
        "a..b",
        "a.[0]",
    ):
        with pytest.raises(SpecError, match="--set"):
            load_experiment(MINIMAL, {path: "3"})
    assert MINIMAL["training"] == {"loss": "softmax_cross_entropy"}


def test_a_model_path_needs_load_experiment():
    spec = ExperimentSpec.model_validate({**MINIMAL, "model": "m.json"})
    with pytest.raises(specnet.SpecnetError, match="load_experiment"):
        spec.built_model  # noqa: B018
